"""The house stands as it was drawn: who imports whom, what is public, what is written down, what is never done."""

import ast
import doctest
import inspect
import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import metric_jax as mj

ROOT = pathlib.Path(__file__).parent.parent
SHIPPED = sorted(
    path for folder in ("metric_jax", "experiments", "configs") for path in (ROOT / folder).rglob("*.py")
)
WRITTEN = sorted([*SHIPPED, *ROOT.glob("*.py"), *(ROOT / "tests").rglob("*.py")])

# Which parts of metric_jax a part may import, and which libraries it may load as it is imported. A part is a module or
# a folder directly under metric_jax; imports inside functions may use any library but those of LAZY_TOO.
CORE = {"jax", "chex", "jaxtyping", "numpy"}
BELOW_LOSSES = set(
    "types limits collectives distances pairs reductions tiles sums anchors proxies mining".split()
)
RULES: dict[str, tuple[set[str], set[str]]] = {
    "types": (set(), CORE),
    "tiles": (set(), CORE),
    "sums": ({"tiles"}, CORE),
    "limits": (set(), CORE),
    "collectives": ({"types"}, CORE),
    "powers": (set(), CORE),
    "distances": ({"types", "powers"}, CORE),
    "pairs": ({"collectives", "types", "distances"}, CORE),
    "reductions": ({"collectives", "types"}, CORE),
    "interface": ({"types", "limits", "distances", "pairs", "reductions"}, CORE),
    "anchors": ({"types", "limits", "distances", "pairs", "reductions", "interface", "tiles"}, CORE),
    "proxies": (BELOW_LOSSES - {"proxies", "mining"} | {"interface"}, CORE),
    "mining": (BELOW_LOSSES - {"proxies", "mining"}, CORE),
    "memory": ({"limits", "distances", "pairs"}, CORE),
    "grad_cache": ({"limits"}, CORE),
    "whitening": ({"distances", "limits", "powers"}, CORE),
    "losses": (BELOW_LOSSES | {"interface"}, CORE),
    "diagnostics": (BELOW_LOSSES, CORE),
    "recipes": ({"distances", "losses"}, CORE),
    "evaluation": ({"types", "distances", "pairs", "anchors"}, CORE),
    "files": (set(), set()),
    "reports": ({"types", "files", "distances", "mining", "evaluation"}, CORE),
    "data": ({"files"}, {"numpy", "grain"}),
    "models": ({"distances", "tiles"}, CORE | {"flax"}),
    "training": (
        BELOW_LOSSES
        | {"files", "interface", "losses", "diagnostics", "evaluation", "data", "models"}
        | {"memory", "grad_cache", "whitening"},
        CORE | {"flax", "optax", "orbax", "grain", "absl", "ml_collections", "tensorboardX", "tqdm"},
    ),
}
AUGMENT = "metric_jax/data/augment/"  # runs on the device, inside the step
# Libraries that only some files know, wherever in the file the import stands.
CONFIGURED = {"metric_jax/training/loop.py", "experiments", "configs"}
ORACLES = {f"experiments/benchmark_{part}.py" for part in ("sides", "losses", "evaluation", "training")}
ORACLES |= {"experiments/referee_torch.py"}
LAZY_TOO: dict[str, set[str]] = {
    "absl": CONFIGURED,
    "ml_collections": CONFIGURED,
    "torch": ORACLES,
    "pytorch_metric_learning": ORACLES,
    "faiss": ORACLES | {"experiments/search.py"},  # there an option, --approximate
    "tensorflow": set(),
    "configs": {"configs", "experiments"},
    "experiments": {"experiments"},
    "tests": set(),
}


def imports(tree, package=""):
    """(module, whether it is imported together with the file) for every import; `from a import b` counts as a.b."""
    lazy = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in lazy
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: 1 - node.level or None], *filter(None, [node.module])])
            for alias in node.names:
                yield f"{base}.{alias.name}", id(node) not in lazy


def import_faults(source, path):
    """What a file at a path (relative to the root) imports against the rules above."""
    folder = path.rpartition("/")[0].replace("/", ".")
    part = path.removeprefix("metric_jax/").partition("/")[0].removesuffix(".py")
    inside = path.startswith("metric_jax/") and part != "__init__"
    if inside and part not in RULES:
        return [f"{path}: say in RULES what {part} may import"]
    parts, libraries = RULES[part] if inside else (set(), set())
    if path.startswith(AUGMENT):
        libraries = CORE
    faults = []
    for module, at_once in imports(ast.parse(source), folder):
        top, _, rest = module.partition(".")
        if top in LAZY_TOO and not any(path == home or path.startswith(f"{home}/") for home in LAZY_TOO[top]):
            faults.append(f"{path} imports {module}")
        elif inside and top == "metric_jax":
            if rest.partition(".")[0] not in parts | {part}:
                faults.append(f"{path} imports {module}")
        elif inside and at_once and top not in libraries | set(sys.stdlib_module_names):
            faults.append(f"{path} loads {module} as it is imported")
    return faults


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    assert import_faults(path.read_text(), path.relative_to(ROOT).as_posix()) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("metric_jax/distances.py", "from metric_jax import mining"),
        ("metric_jax/distances.py", "import metric_jax as mj"),
        ("metric_jax/losses/triplet.py", "from metric_jax.training import loop"),
        ("metric_jax/losses/triplet.py", "from ..evaluation import retrieval"),
        ("metric_jax/mining/triplets.py", "from .. import losses"),
        ("metric_jax/mining/triplets.py", "def f():\n    import ml_collections"),
        ("metric_jax/data/sources.py", "import tensorflow_datasets as tfds"),
        ("metric_jax/data/sources.py", "def f():\n    import tensorflow"),
        ("metric_jax/training/step.py", "from absl import logging"),
        ("metric_jax/training/loop.py", "from experiments import train"),
        ("metric_jax/unheard_of.py", "import jax"),
        ("configs/digits.py", "from experiments.train import main"),
        ("experiments/train.py", "import torch"),
    ],
)
def test_a_wrong_import_is_seen(path, source):
    assert import_faults(source, path)


def test_importing_the_library_loads_jax_chex_and_jaxtyping_alone():
    program = """
import sys, jax.numpy, chex, jaxtyping
before = set(sys.modules)
import metric_jax
print(*sorted(set(sys.modules) - before))
print(*sorted(sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    added, loaded = ({name.partition(".")[0] for name in line.split()} for line in run.stdout.splitlines())
    assert added - set(sys.stdlib_module_names) == {"metric_jax"}
    # Should jax or chex load one of these some day, the line above would no longer see ours.
    heavy = "flax grain matplotlib ml_collections optax orbax sklearn tensorflow_datasets"
    assert not loaded & set(heavy.split())


# --- what is public ---------------------------------------------------------------------------------------------------

MINER = "embeddings labels references reference_labels reference_where with_batch where match tile axis_name".split()
BATCH = [*MINER, "pairs", "reduction"]
PROMISED = {
    "contrastive_loss": "x y is_same margin distance".split(),
    "triplet_loss": "anchor positive negative margin distance penalty".split(),
    "batch_contrastive_loss": [*BATCH, "margin", "distance"],
    "batch_hard_triplet_loss": [*BATCH, "margin", "distance", "penalty"],
    "batch_semi_hard_triplet_loss": [*BATCH, "margin", "distance", "penalty"],
    "batch_all_triplet_loss": [*BATCH, "margin", "distance", "penalty"],
    "per_anchor": ["distance", "similarity"],
    "mining.batch_hard": [*MINER, "distance"],
    "mining.batch_semi_hard": [*MINER, "distance"],
    "diagnostics.summary": "embeddings labels margin distance where".split(),
    "evaluation.retrieval": "embeddings labels gallery gallery_labels ks".split(),
    "training.train_and_evaluate": ["config", "workdir"],
}
POSITIONAL = {
    "x",
    "y",
    "is_same",
    "anchor",
    "positive",
    "negative",
    "embeddings",
    "labels",
    "config",
    "workdir",
}


def public(name):
    thing = mj
    for step in name.split("."):
        thing = getattr(thing, step)
    return thing


@pytest.mark.parametrize("name", PROMISED)
def test_promised_name_and_its_arguments(name):
    parameters = inspect.signature(public(name)).parameters
    assert not set(PROMISED[name]) - set(parameters)
    keyword_only = {key for key, value in parameters.items() if value.kind is value.KEYWORD_ONLY}
    assert set(PROMISED[name]) - POSITIONAL <= keyword_only
    assert not keyword_only & POSITIONAL


@pytest.mark.parametrize(
    "name", ["euclidean", "squared_euclidean", "cosine", "manhattan", "cosine_similarity"]
)
def test_promised_distance(name):
    distance, x = public(name), jnp.ones((3, 2))
    assert isinstance(distance, mj.Distance)
    assert distance(x, x).shape == (3,)
    assert distance.pairwise(x, x[:2]).shape == (3, 2)


def exported():
    """The imports from metric_jax in metric_jax/__init__.py, each a list of (name, name it is given)."""
    return [
        [(alias.name, alias.asname) for alias in node.names]
        for node in ast.parse((ROOT / "metric_jax/__init__.py").read_text()).body
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "metric_jax"
    ]


def test_public_names_stand_one_a_line():
    for names in exported():
        ((name, given),) = names
        assert name == given


DOCUMENTED = {name for names in exported() for name, _ in names} | set(PROMISED)
DOCUMENTED -= {"training.train_and_evaluate"}  # whose example is make train


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_public_name_is_documented_by_an_example_that_runs(name):
    thing = public(name)
    thing = type(thing) if isinstance(thing, mj.Distance) else thing
    assert inspect.getdoc(thing)
    if inspect.ismodule(thing) or (isinstance(thing, type) and "__call__" not in vars(thing)):
        return  # a record's fields say what it is, and a module's names are looked at on their own
    examples = {test.name: test.examples for test in doctest.DocTestFinder().find(inspect.getmodule(thing))}
    assert "Example:" in thing.__doc__
    assert examples[f"{thing.__module__}.{thing.__qualname__}"]


# --- what is written down ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_short(path):
    lines = len(path.read_text().splitlines())
    assert lines <= 400, "past 400 lines a file wants to be two"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_says_what_it_is_for(path):
    source = path.read_text()
    documented = ast.get_docstring(ast.parse(source)) is not None
    assert documented or not source.strip()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_config_says_how_it_is_run(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert (
        path.stem in ("base", "__init__") or f"experiments/train.py --config=configs/{path.name}" in docstring
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LICENSE", "Apache License"),
        ("README.md", "make test"),
        ("CHANGELOG.md", "\n## [Unreleased]\n"),
        ("CONTRIBUTING.md", "make lint"),
        ("SECURITY.md", "advisory"),
    ],
)
def test_paper_of_the_house(name, text):
    assert text in (ROOT / name).read_text()


# --- what tests run under ---------------------------------------------------------------------------------------------


def test_tests_see_eight_devices_and_no_silent_broadcast():
    assert jax.device_count() == 8
    with pytest.raises(ValueError, match="rank"):
        jnp.ones(3) + jnp.ones((3, 1))


def test_tests_of_a_file_share_a_process_and_what_was_compiled_in_it(request):
    """pytest-xdist appends a group to the name of a test; without one it deals the tests out one by one."""
    group = f"@{pathlib.Path(__file__).name}" if "PYTEST_XDIST_WORKER" in os.environ else "_in_it"
    assert request.node.nodeid.endswith(group)


def test_tests_reach_no_network():
    with pytest.raises(RuntimeError, match="no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)  # an address kept free for examples
    with pytest.raises(RuntimeError, match="no network"), socket.socket() as sock:
        sock.connect(("192.0.2.1", 80))
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
