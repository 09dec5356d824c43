"""A trace of a few steps: what the host did, and what the devices did, for TensorBoard, XProf or Perfetto."""

import pathlib
import sys
from typing import Any, Self

import jax

WARM_UP = 10  # steps, in which things are compiled that later steps do not pay for


class Profile:
    """Traces steps of a run once it is warm."""

    def __init__(self, folder: pathlib.Path, *, steps: int, after: int):
        """Traces nothing yet.

        Args:
            folder: Where the trace goes.
            steps: How many steps to trace; 0 for none.
            after: The step that the run goes on from.
        """
        self._folder, self._steps = folder, steps
        self._first = after + WARM_UP + 1
        self._tracing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def begin(self, step: int) -> None:
        """A step is about to be taken."""
        if self._steps and step == self._first:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def end(self, step: int, output: Any) -> None:
        """A step was dispatched, and this is what it computes."""
        if self._tracing and step == self._first + self._steps - 1:
            jax.block_until_ready(output)
            self._stop()

    def _stop(self) -> None:
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
            print(f"a trace of {self._steps} steps is in {self._folder}", file=sys.stderr)
