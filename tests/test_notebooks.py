"""The notebooks, as far as that can be seen without Jupyter; `make test-notebooks` executes them."""

import ast
import functools
import inspect
import json
import pathlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import metric_jax as mj
from configs import base
from metric_jax.data import Images, splits
from metric_jax.training import folders

ROOT = Path(__file__).parent.parent
NAMES = ("colab_tpu", "faces", "losses_tour")
KEYS = set(folders.flatten(base.get_config().to_dict()))
MACHINE = re.compile(
    r"(?:^|[\s\"'(=])(?:/(?:work|home|root|tmp|Users|content|opt|usr|mnt)\b|[A-Z]:\\|~/)", re.MULTILINE
)


@functools.cache
def script(name):
    """The (kind, source) of every cell of NAME.py, in jupytext's percent format."""
    _, *parts = re.split(r"^# %%(.*)\n", (ROOT / "notebooks" / f"{name}.py").read_text(), flags=re.MULTILINE)
    cells = []
    for marker, source in zip(parts[::2], parts[1::2], strict=True):
        if marker.strip() == "[markdown]":
            lines = [line.removeprefix("#").removeprefix(" ") for line in source.strip("\n").splitlines()]
            cells.append(("markdown", "\n".join(lines)))
        else:
            assert not marker.strip(), f"a cell of {name}.py is marked {marker!r}"
            cells.append(("code", source.strip("\n")))
    return cells


@functools.cache
def notebook(name):
    """NAME.ipynb, parsed."""
    return json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())


def code(name):
    """All code of a notebook, as one program."""
    return ast.parse("\n\n".join(source for kind, source in script(name) if kind == "code"))


def attributes(tree, of):
    """The dotted names below a variable, the longest of each chain: "mining.batch_hard" of mj.mining.batch_hard."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            head, _, path = ast.unparse(node).partition(".")
            if head == of and re.fullmatch(r"[\w.]+", path):  # not what a call returns
                yield path


def test_these_are_all_notebooks():
    found = sorted(path.name for path in (ROOT / "notebooks").iterdir() if path.suffix in (".py", ".ipynb"))
    assert found == sorted(name + end for name in NAMES for end in (".py", ".ipynb"))


@pytest.mark.parametrize("name", NAMES)
def test_script_and_notebook_hold_the_same_cells(name):
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook(name)["cells"]]
    assert len(cells) > 10
    assert cells == script(name), "make notebooks writes the one from the other"


@pytest.mark.parametrize("name", NAMES)
def test_no_outputs_are_stored(name):
    for cell in notebook(name)["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_is_python_that_compiles(name):
    for kind, source in script(name):
        if kind == "code":
            compile(source, name, "exec")


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_public_and_exists(name):
    found = set(attributes(code(name), "mj"))
    assert len(found) > 5
    for path in found:
        thing = functools.reduce(getattr, path.split("."), mj)
        assert not inspect.ismodule(thing), f"mj.{path} is a module, whose names are not promised"
        assert not any(step.startswith("_") for step in path.split("."))
    modules = {
        node.module if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(code(name))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not {module for module in modules if module.startswith("metric_jax.")}


@pytest.mark.parametrize("name", ["colab_tpu", "faces"])
def test_every_key_of_a_config_exists(name):
    found = set(attributes(code(name), "config"))
    assert "steps" in found
    assert found <= KEYS


@pytest.mark.parametrize("people", [10, 20])
def test_who_has_photos_enough_has_enough_to_train_on(people):
    (cell,) = [source for kind, source in script("faces") if kind == "code" and "min_images" in source]
    known = {"PHOTOS": "photos", "photos": "photos", "people": [""] * people, "pathlib": pathlib, "sys": sys}
    exec(cell.partition("results =")[0], known)  # noqa: S102
    data, batch = known["config"].data, known["config"].batch
    labels = np.repeat(np.arange(people, dtype=np.int32), data.min_images)
    images = Images(np.zeros((len(labels), 1, 1, 1), np.uint8), labels)
    part = splits.by_class if data.split == "class" else splits.by_image
    train, _ = part(images, test_fraction=data.test_fraction, seed=0)
    assert np.unique(train.labels, return_counts=True)[1].min() == batch.samples


@pytest.mark.parametrize("name", NAMES)
def test_nothing_names_a_path_of_some_machine(name):
    for path in (f"{name}.py", f"{name}.ipynb"):
        assert not MACHINE.search((ROOT / "notebooks" / path).read_text())


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    text = "\n".join(source for kind, source in script(name) if kind == "markdown")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / "notebooks" / link).exists(), link


def test_every_file_that_a_command_names_is_there():
    text = "\n".join(source for name in NAMES for _, source in script(name))
    named = set(re.findall(r"\b(?:experiments|configs|docs)/\w+\.(?:py|md)\b", text))
    assert {"configs/faces.py", "configs/mnist.py", "experiments/verify.py"} <= named
    assert [path for path in named if not (ROOT / path).exists()] == []
