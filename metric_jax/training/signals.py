"""Signals that ask a run to end, at a moment that suits it.

SIGTERM is how a cluster takes a machine away, and how a shell's `kill` asks: the run ends after the step that it is in,
with a checkpoint. Where several processes train together JAX listens itself, so that all end after the same step.
SIGINT, Ctrl-C, ends a run at once, but for what must not be cut off. Only a process's main thread gets signals; in any
other nothing here does anything.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, Self

import jax


class Termination:
    """Notes SIGTERM while it is entered, however often it comes; the run looks at ``asked`` after every step."""

    asked = False

    def __enter__(self) -> Self:
        if self._listens():
            self._before: Any = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._listens():
            signal.signal(signal.SIGTERM, self._before)

    def _listens(self) -> bool:
        return _in_main_thread() and jax.process_count() == 1

    def _ask(self, *_: object) -> None:
        self.asked = True


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back until the end."""
    if not _in_main_thread():
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


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
