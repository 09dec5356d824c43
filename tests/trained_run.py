"""A small run on the digits, trained once in a process, and copies of it to do things to."""

import atexit
import functools
import pathlib
import shutil
import tempfile

import small_run

from metric_jax import training

STEPS = (8, 12)  # the checkpoints that it keeps


@functools.cache
def trained() -> pathlib.Path:
    """The folder of the run; nothing is to be changed in it."""
    # A path of its own, and not pytest's: it is shared by files of tests.
    home = tempfile.mkdtemp(prefix="metric_jax_run_")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    folder = pathlib.Path(home) / "digits"
    training.train_and_evaluate(small_run.config(), str(folder))
    return folder


def copy(to: pathlib.Path) -> pathlib.Path:
    """A run of one's own."""
    return pathlib.Path(shutil.copytree(trained(), to))
