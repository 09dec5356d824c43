"""What is never done: running what is read, and installing what is not pinned by its hash."""

import ast
import importlib.metadata
import pathlib
import re
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parent.parent
SHIPPED = sorted(
    path for folder in ("metric_jax", "experiments", "configs") for path in (ROOT / folder).rglob("*.py")
)
# What imports find in this project, rather than in a library.
HERE = {
    "metric_jax",
    "experiments",
    "configs",
    "docs",
    *(path.stem for path in (ROOT / "tests").rglob("*.py")),
}

UNSAFE_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "shelve",
    "marshal",
    "jsonpickle",
    "joblib",
}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "yaml.load", "torch.load", "pandas.read_pickle"}
NUMPY_LOAD = {"numpy.load", "jax.numpy.load"}


def unsafe_lines(source):
    """Lines of a program that read what could run code."""
    tree = ast.parse(source)
    meanings = {}  # what a name of the file stands for, as a dotted path
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                meanings[alias.asname or alias.name] = start + alias.name
                if (start + alias.name).partition(".")[0] in UNSAFE_MODULES:
                    lines.add(node.lineno)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            head, dot, tail = ast.unparse(node.func).partition(".")
            called = meanings.get(head, head) + dot + tail
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            plain = called in NUMPY_LOAD and options.get("allow_pickle") == "False"
            if called in UNSAFE_CALLS | NUMPY_LOAD and not plain:
                lines.add(node.lineno)
    return sorted(lines)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_security_nothing_reads_pickle_or_runs_what_it_reads(path):
    assert unsafe_lines(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads as read",
        "def f():\n    import dill",
        "import joblib\njoblib.load(path)",
        "import numpy as np\nnp.load(path)",
        "import numpy\nnumpy.load(path, allow_pickle=True)",
        "import jax.numpy as jnp\njnp.load(path)",
        "from numpy import load\nload(path)",
        "import torch\ntorch.load(path)",
        "import yaml\nyaml.load(text)",
        "eval(text)",
        "exec(text)",
    ],
)
def test_security_an_unsafe_form_is_seen(source):
    assert unsafe_lines(source)


def test_security_safe_forms_pass():
    assert (
        unsafe_lines("import numpy as np\nnp.load(path, allow_pickle=False)\nmodel.eval()\njson.load(file)")
        == []
    )


def dependencies():
    """What setup.py declares, without running it: {"": runtime, extra: ...}."""
    body = ast.parse((ROOT / "setup.py").read_text()).body
    values = {
        node.targets[0].id: ast.literal_eval(node.value) for node in body if isinstance(node, ast.Assign)
    }
    return {"": values["RUNTIME"], **values["EXTRAS"]}


def locked(name):
    """Lines of a lock file without its comments, a requirement with its hashes on one line."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    return text.replace("\\\n", " ").splitlines()


LOCKS = [
    "requirements.lock",
    "requirements-oracle.lock",
    "requirements-notebooks.lock",
    "requirements-docs.lock",
]


@pytest.mark.parametrize("name", LOCKS)
def test_security_lock_pins_everything_by_hash(name):
    requirement = re.compile(r"([a-z0-9-]+)==[\w.]+( ; [^@]+?)?( +--hash=sha256:[0-9a-f]{64})+\s*")
    matches = [requirement.fullmatch(line) or line for line in locked(name)]
    assert [line for line in matches if isinstance(line, str)] == []
    names = {match[1] for match in matches}
    assert not {
        package for package in names if re.match("torch$|nvidia|cuda|triton|jax-cuda|libtpu", package)
    }


def test_lock_holds_what_setup_declares():
    pins = {}
    for line in [line for name in LOCKS for line in locked(name)]:
        name, _, version = line.partition(" ")[0].partition("==")
        pins.setdefault(name, []).append(version)
    declared = [
        Requirement(text)
        for extra in ("", "test", "oracle", "notebooks", "docs")
        for text in dependencies()[extra]
    ]
    for requirement in declared:
        if requirement.name != "torch":
            assert all(v in requirement.specifier for v in pins[canonicalize_name(requirement.name)]), (
                requirement
            )


def test_every_library_in_use_is_declared():
    without_the_oracles = {"faiss": ["faiss-cpu"], "pytrec_eval": ["pytrec-eval-terrier"]}
    distributions = {**importlib.metadata.packages_distributions(), **without_the_oracles}
    declared = {
        canonicalize_name(Requirement(text).name) for texts in dependencies().values() for text in texts
    }
    for path in [*SHIPPED, *(ROOT / "tests").rglob("*.py"), ROOT / "conftest.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.partition(".")[0] for name in names} - HERE - set(sys.stdlib_module_names):
                providers = {canonicalize_name(each) for each in distributions.get(name, [name])}
                assert providers & declared, f"{path} imports {name}, which setup.py does not declare"


def test_every_dependency_is_declared_once():
    names = [canonicalize_name(Requirement(text).name) for texts in dependencies().values() for text in texts]
    assert len(names) == len(set(names))
