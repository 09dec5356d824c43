"""Checkpoints: the training state and the position of the data stream, saved together or not at all.

Orbax writes a checkpoint under a temporary name and renames it when all of it is there, so a process that dies in the
middle leaves nothing that looks like a checkpoint.
"""

import contextlib
import pathlib
import signal
import threading
from collections.abc import Iterator
from typing import Self

import grain
import orbax.checkpoint.experimental.v1 as ocp

from metric_jax.training import manifest
from metric_jax.training.state import TrainState, like


class Checkpoints:
    """The checkpoints of a run, of which the latest few are kept."""

    def __init__(self, folder: pathlib.Path, *, keep: int):
        """Opens the folder, clearing what a process that died has left unfinished.

        Args:
            folder: Where they are; made if it is not there.
            keep: How many to keep.
        """
        self._folder = folder
        self._checkpointer = ocp.training.Checkpointer(
            folder.absolute(),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpointer.close()

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(
        self, state: TrainState, stream: grain.DatasetIterator, *, step: int, notes: dict[str, float]
    ) -> None:
        """Saves and waits until all of it is on disk: the step that comes next will overwrite the state's buffers."""
        parts = {"state": state, "stream": stream, "notes": notes}
        with _uninterrupted():
            self._checkpointer.save_checkpointables(step, parts, force=True)
            manifest.write(self._folder / str(step))

    def restore(
        self, state: TrainState, stream: grain.DatasetIterator
    ) -> tuple[TrainState, dict[str, float]]:
        """The newest checkpoint.

        Args:
            state: A state of the same shapes, types and shardings.
            stream: Is put where it was.

        Returns:
            (state, the notes it was saved with).
        """
        parts = self._checkpointer.load_checkpointables(
            None, {"state": like(state), "stream": stream, "notes": None}
        )
        return parts["state"], parts["notes"]

    def describe_latest(self) -> str:
        """Where the newest one is, for a message."""
        if self.latest is None:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is that of step {self.latest}, in {self._folder / str(self.latest)}"


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back until the end: the threads of a save that is cut off may hang, or complain at the exit."""
    if threading.current_thread() is not threading.main_thread():  # no other gets signals
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            signal.raise_signal(signal.SIGINT)
