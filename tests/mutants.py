"""Breaks the library on purpose, one plausible mistake at a time, and demands that a test goes red.

    python tests/mutants.py           # all of them, some seven minutes
    python tests/mutants.py N1 P5     # those of two properties

A test that cannot fail proves nothing: each numerical fault N1 to N14, each property P1 to P8 and each fault of
training T1 to T8 but T7 has its mutants. They stand in mutants.txt: the property and the mistake, the file, the test
that must notice it, and the change, whose text occurs in the file once. It is made in a copy of the sources, in a
temporary folder.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
SOURCES = ("metric_jax", "tests", "experiments", "configs", "conftest.py", "pyproject.toml")
SOME_FAILED = 1  # pytest's exit code; others stand for tests that could not be collected


class Mutant(NamedTuple):
    """A mistake in a file, and the node id of the test that must fail."""

    id: str
    mistake: str
    file: str
    test: str
    removed: str
    added: str


def parse(block: str) -> Mutant:
    """A mutant from its lines in mutants.txt."""
    title, file, test, *change = block.splitlines()
    removed, added = ("\n".join(line[2:] for line in change if line[0] == sign) for sign in "-+")
    return Mutant(*title.split(" ", 1), file, test, removed, added)


MUTANTS = [parse(block) for block in (ROOT / "tests/mutants.txt").read_text().split("\n\n")]


def copy_sources(folder: pathlib.Path) -> None:
    """Copies what the tests need, and makes sure that the copy, not the installed package, is what they import."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    program = "import metric_jax; print(metric_jax.__file__)"
    imported = run(
        folder, "-c", program, cwd=folder.parent
    ).stdout  # not found for lying in the current folder
    assert pathlib.Path(imported).is_relative_to(folder), imported


def run(folder: pathlib.Path, *arguments: str, cwd: pathlib.Path) -> subprocess.CompletedProcess:
    """Runs Python with the copy first on its path; it leaves no bytecode there that could outlive a mistake."""
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=env, check=False, capture_output=True, text=True
    )


def run_tests(folder: pathlib.Path, tests: Iterable[str]) -> subprocess.CompletedProcess:
    return run(folder, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests, cwd=folder)


def is_killed(folder: pathlib.Path, mutant: Mutant) -> bool:
    """Makes the mistake in the copy, runs the test that must fail, takes the mistake back, and says how it went."""
    source = folder / mutant.file
    correct, start = source.read_text(), time.perf_counter()
    source.write_text(correct.replace(mutant.removed, mutant.added))
    killed = run_tests(folder, [mutant.test]).returncode == SOME_FAILED
    source.write_text(correct)
    outcome, seconds = "killed" if killed else "SURVIVED", time.perf_counter() - start
    print(f"{mutant.id:4} {mutant.mistake:54} {outcome:8} {seconds:5.1f} s", flush=True)
    return killed


def main(ids: list[str]) -> None:
    """Tries the mutants of some properties, or of all, and exits with a message if any survives."""
    if unknown := set(ids) - {mutant.id for mutant in MUTANTS}:
        sys.exit(f"no mutant of {', '.join(sorted(unknown))}")
    mutants = [mutant for mutant in MUTANTS if not ids or mutant.id in ids]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name).resolve()
        copy_sources(folder)
        unbroken = run_tests(folder, dict.fromkeys(mutant.test for mutant in mutants))
        if unbroken.returncode:
            sys.exit(f"{unbroken.stdout}\nthese tests fail before anything is broken")
        survivors = [mutant for mutant in mutants if not is_killed(folder, mutant)]
    if survivors:
        sys.exit(f"{len(survivors)} of {len(mutants)} mutants survived")
    print(f"all {len(mutants)} mutants were killed")


if __name__ == "__main__":
    main(sys.argv[1:])
