# `make` alone lists what can be made. A first call creates .venv and installs what the lock files pin; every later call
# finds the stamp of that and starts at once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
CONFIG ?= configs/digits.py
WORKDIR ?= runs/$(basename $(notdir $(CONFIG)))
ARGS ?=

# Container images like to set this. Then every command compiles all it imports anew, which takes a third of its start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help train test test-faults test-oracles test-notebooks lint format docs notebooks bench lock clean

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "make %-16s%s\n", $$1, $$2}'

train: $(VENV)/.locked  ## train on scikit-learn's digits; CONFIG=, WORKDIR= and ARGS= choose otherwise
	$(BIN)/python experiments/train.py --config=$(CONFIG) --workdir=$(WORKDIR) $(ARGS)

test: lint  ## lint, check types, run tests and doctests on all cores; ARGS= goes to pytest
	$(BIN)/python -m pytest --ignore=tests/oracles --ignore=tests/faults --numprocesses=auto --dist=loadgroup $(ARGS)

test-faults: $(VENV)/.locked  ## kill, stop and starve training runs; all of T1 to T8, with what was counted
	$(BIN)/python -m pytest tests/faults $(ARGS)
	$(BIN)/python -m pytest tests --ignore=tests/oracles --ignore=tests/faults --numprocesses=auto --dist=loadgroup \
		-k "T1_ or T2_ or T3_ or T4_ or T5_ or T6_ or T7_ or T8_" $(ARGS)

test-oracles: $(VENV)/.oracle  ## compare with pytorch-metric-learning and faiss
	$(BIN)/python -m pytest tests/oracles tests/test_search.py $(ARGS)

test-notebooks: $(VENV)/.notebooks  ## execute notebooks/ on the CPU; PHOTOS=FOLDER gives faces.ipynb your photos
	JAX_PLATFORMS=cpu $(BIN)/jupyter-execute $(ARGS) notebooks/*.ipynb

lint: $(VENV)/.locked  ## ruff, its formatter, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.locked  ## format the code, mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs  ## write docs/losses.md anew and the pages of the API, docs/api, from docstrings and signatures
	$(BIN)/python docs/losses_table.py
	$(BIN)/python docs/api_pages.py

notebooks: $(VENV)/.notebooks  ## write each notebooks/*.ipynb anew from the .py beside it, without outputs
	$(BIN)/jupytext --quiet --to ipynb --update notebooks/*.py

bench: $(VENV)/.oracle  ## time and memory beside other libraries, into docs/benchmarks.md; ARGS=--quick tries it
	$(BIN)/python experiments/benchmark.py --docs $(ARGS)

# Pins that still fit are kept: `make lock ARGS=--upgrade` renews them all. The other files hold only what the oracles,
# the notebooks and the API's pages add to the first. torch is in none: its CPU build is not the registry's file, so no
# one hash fits both.
lock: $(VENV)/.python  ## resolve setup.py into the lock files
	$(PIP) install uv
	$(BIN)/uv pip compile --quiet --extra test $(ARGS) setup.py --output-file requirements.lock
	$(BIN)/uv pip compile --quiet --extra oracle $(ARGS) setup.py --output-file requirements-oracle.lock \
		--constraint requirements.lock --no-emit-package torch \
		$$(sed -n 's/^\([a-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements.lock | sort -u)
	$(BIN)/uv pip compile --quiet --extra notebooks $(ARGS) setup.py --output-file requirements-notebooks.lock \
		--constraint requirements.lock \
		$$(sed -n 's/^\([a-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements.lock | sort -u)
	$(BIN)/uv pip compile --quiet --extra docs $(ARGS) setup.py --output-file requirements-docs.lock \
		--constraint requirements.lock \
		$$(sed -n 's/^\([a-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements.lock | sort -u)

clean:  ## remove the environment, every cache and the pages of the API; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache docs/api
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "metric_jax needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
			"name another with make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# setuptools goes first: it builds the one package that comes without a wheel (promise), and the project itself, so that
# not even what builds is taken without a hash. Not compiling in advance halves the wait: Python compiles what is used.
$(VENV)/.locked: $(VENV)/.python requirements.lock setup.py
	sed -n '/^setuptools==/,/[^\]$$/p' requirements.lock > $(VENV)/setuptools.lock
	$(PIP) install --no-deps --require-hashes --requirement $(VENV)/setuptools.lock
	$(PIP) install --no-deps --require-hashes --no-build-isolation --no-compile --requirement requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	$(PIP) check
	@touch $@

# Any build of torch of that version will do: a CPU build that PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL names is taken
# first, else the registry's, which on Linux brings CUDA along.
$(VENV)/.oracle: $(VENV)/.locked requirements-oracle.lock
	$(PIP) install --no-deps --require-hashes --no-compile --requirement requirements-oracle.lock
	$(PIP) install --no-compile $$(sed -n 's/.*"\(torch==[0-9.]*\)".*/\1/p' setup.py)
	$(PIP) check
	@touch $@

$(VENV)/.notebooks: $(VENV)/.locked requirements-notebooks.lock
	$(PIP) install --no-deps --require-hashes --no-compile --requirement requirements-notebooks.lock
	$(PIP) check
	@touch $@

$(VENV)/.docs: $(VENV)/.locked requirements-docs.lock
	$(PIP) install --no-deps --require-hashes --no-compile --requirement requirements-docs.lock
	$(PIP) check
	@touch $@
