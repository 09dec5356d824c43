"""What a run writes down about its steps: JSON lines and TensorBoard events, and Weights & Biases if it is asked for.

metrics.jsonl holds only what follows from the config, no times: every logged step once, whatever interruptions there
were, and byte for byte the same as without them. How fast it went has lines of its own, in speed.jsonl.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Self

from metric_jax.training import folders


class MetricsWriter:
    """Writes the metrics of a run that goes on after a given step."""

    def __init__(self, folder: pathlib.Path, *, after: int, tracker: Any = None):
        """Opens the files.

        Args:
            folder: The run's.
            after: The step that the run goes on from; what was written of later ones will be written again, and goes.
            tracker: Has `log` and `finish` of a run of Weights & Biases, or None.
        """
        from metric_jax.training.events import Events

        self._metrics = _Lines(folder / folders.METRICS, after=after)
        self._speed = _Lines(folder / folders.SPEED, after=after)
        self._events = Events(folder, after=after)
        self._tracker = tracker

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._metrics, self._speed, self._events):
            each.close()
        if self._tracker is not None:
            self._tracker.finish()

    def write(
        self, step: int, metrics: Mapping[str, float | bool], *, speed: Mapping[str, float] | None = None
    ) -> None:
        """Writes what is known about a step; it is on disk when this returns.

        Args:
            step: The step, each at most once, in ascending order.
            metrics: What goes to metrics.jsonl; finite.
            speed: What goes to speed.jsonl; finite.

        Raises:
            RunError: It cannot be written.
        """
        self._metrics.write({"step": step, **metrics})
        if speed:
            self._speed.write({"step": step, **speed})
        together = {key: float(value) for key, value in {**metrics, **(speed or {})}.items()}
        self._events.write(step, together)
        if self._tracker is not None:
            self._tracker.log(together, step=step)


class _Lines:
    """A file of JSON lines, one a step."""

    def __init__(self, path: pathlib.Path, *, after: int):
        self._path = path
        if path.exists():
            text = path.read_text(errors="replace")  # a power cut may leave anything for a last line
            kept = [line for line in text.splitlines(keepends=True) if _step_of(line) <= after]
            folders.replace(path, "".join(kept))
        with folders.writing(path):
            self._file = path.open(
                "ab", buffering=0
            )  # what could not be written is not kept to be tried again

    def write(self, content: Mapping[str, float | bool]) -> None:
        left = memoryview((json.dumps(content, allow_nan=False) + "\n").encode())
        with folders.writing(self._path):
            while left:  # a disk may have room for a part
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _step_of(line: str) -> float:
    """The step of a line; of one that a dying process left unfinished, later than all."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
