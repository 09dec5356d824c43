"""What a run writes down about its steps: a JSON line each, and TensorBoard events.

metrics.jsonl holds only what follows from the config, no times: every logged step once, whatever interruptions there
were, and byte for byte the same as without them. How fast it went is in the events, on the screen and in results.json.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Self

import tensorboardX

from metric_jax.training import folders


class MetricsWriter:
    """Writes the metrics of a run that goes on after a given step."""

    def __init__(self, folder: pathlib.Path, *, after: int):
        """Opens the files.

        Args:
            folder: The run's.
            after: The step that the run goes on from; what was written of later ones will be written again, and goes.
        """
        path = folder / folders.METRICS
        if path.exists():
            kept = [line for line in path.read_text().splitlines(keepends=True) if _step_of(line) <= after]
            folders.replace(path, "".join(kept))
        self._lines = path.open("a")
        self._events = tensorboardX.SummaryWriter(str(folder), purge_step=after + 1 if after else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._events.close()

    def write(
        self, step: int, metrics: Mapping[str, float | bool], *, speed: Mapping[str, float] | None = None
    ) -> None:
        """Writes what is known about a step; it is on disk when this returns.

        Args:
            step: The step, each at most once, in ascending order.
            metrics: What goes to metrics.jsonl and the events; finite.
            speed: What goes to the events alone.
        """
        self._lines.write(json.dumps({"step": step, **metrics}, allow_nan=False) + "\n")
        self._lines.flush()
        os.fsync(self._lines.fileno())
        for key, value in {**metrics, **(speed or {})}.items():
            self._events.add_scalar(key, float(value), step)


def _step_of(line: str) -> float:
    """The step of a line; of one that a dying process left unfinished, later than all."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
