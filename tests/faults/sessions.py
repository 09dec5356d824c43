"""Sessions of experiments/train.py, each in a process of its own that may be killed.

They are forked from a server that has imported everything and started no JAX yet, which is what of a start takes long.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import signal
import sys
import time

import numpy as np
import sklearn.datasets  # noqa: F401 (for the server to import)

from experiments import train
from metric_jax.training import loop, stored
from metric_jax.training.folders import flatten

ROOT = pathlib.Path(__file__).parent.parent.parent
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "tests", "tests/faults")),
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
PATIENCE = 600  # seconds, far more than anything here takes
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["sessions"])


class Sessions:
    """Starts sessions, and keeps beside each other what XLA compiled, what they told, and what their steps saw."""

    def __init__(self, home):
        self.home = home

    def start(self, workdir, config):
        """A session of the run in a folder."""
        arguments = [
            "experiments/train.py",
            f"--config={ROOT / 'configs/digits.py'}",
            f"--workdir={workdir}",
            *(f"--config.{k}={v}" for k, v in flatten(config.to_dict()).items() if v not in ("", None, ())),
        ]
        process = _server.Process(target=_train, args=(arguments, self._told(workdir), self._seen(workdir)))
        with _environment({**ENVIRONMENT, "JAX_COMPILATION_CACHE_DIR": str(self.home / "compiled")}):
            process.start()
        return process

    def told(self, workdir):
        """The lines that all sessions told."""
        path = self._told(workdir)
        return path.read_text().splitlines() if path.exists() else []

    def seen(self, workdir):
        """For each session the steps that it took and the numbers of the images that each of them saw."""
        sessions, path = [], self._seen(workdir)
        for line in path.read_text().splitlines() if path.exists() else []:
            step, *images = map(int, line.split())
            if not step:
                sessions.append([])
            else:
                sessions[-1].append((step, images))
        return sessions

    def _told(self, workdir):
        return self.home / f"{workdir.name}.told"

    def _seen(self, workdir):
        return self.home / f"{workdir.name}.seen"


def wait_for(what, process):
    """Waits until something is so, or the process has ended."""
    deadline = time.monotonic() + PATIENCE
    while not what() and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def steps(workdir):
    """The checkpoints that a run lists."""
    return stored.steps(workdir / "checkpoints")


def _train(arguments, told, seen):
    """What a session does."""
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored in a shell's background, and so by the server
    os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with seen.open("a", buffering=1) as log:
        _log_images(log)
        sys.argv = arguments
        train.start()


def _log_images(log):
    """Writes the number of every training image into its first two pixels, and a line for what every step sees."""
    load, make = loop.datasets.load, loop.make_train_step

    def numbered(**options):
        training, test = load(**options)
        pixels, numbers = training.images.copy(), np.arange(len(training))
        pixels[:, 0, 0, 0], pixels[:, 0, 1, 0] = numbers // 256, numbers % 256
        return dataclasses.replace(training, images=pixels), test

    def watched(*arguments, **options):
        step = make(*arguments, **options)
        print(0, file=log)

        def dispatch(state, images, labels):
            corner = np.asarray(images)[:, 0, :2, 0].astype(int)
            print(int(state.step) + 1, *(corner @ [256, 1]), file=log)
            return step(state, images, labels)

        dispatch.trace = step.trace
        return dispatch

    loop.datasets.load, loop.make_train_step = numbered, watched


@contextlib.contextmanager
def _environment(wanted):
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
