"""How a script ends that is stopped: the exit codes that shells expect, and at a Ctrl-C at once, with one line."""

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

INTERRUPTED, TERMINATED = 130, 143  # by Ctrl-C, by SIGTERM


def end(told: str) -> NoReturn:
    """Ends with this line. Python's own end would take from XLA what it may be compiling with."""
    print(told, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def watch(told: Callable[[], str]) -> None:
    """From now on, ends with what ``told`` returns at one that comes where Python can raise nothing, too.

    Such as in a destructor, or in what an import calls when a lock is gone: Python would print it and go on.
    """
    others = sys.unraisablehook

    def unraisable(found: Any) -> None:
        if issubclass(found.exc_type, KeyboardInterrupt):
            end(told())
        others(found)

    sys.unraisablehook = unraisable
