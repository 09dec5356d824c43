"""Scripts as their users run them, but in this process, which spares the seconds that their imports take."""

import contextlib
import io
import pathlib
import runpy
import sys
from typing import NamedTuple
from unittest import mock

from absl import flags

ROOT = pathlib.Path(__file__).parent.parent


class Done(NamedTuple):
    """How a script ended, and what it said."""

    code: int
    out: str
    err: str


def run(name, *arguments):
    """Runs experiments/NAME.py with these arguments."""
    known, code = flags.FLAGS, 0
    # Another test may have imported a script, and all of them have flags of the same names.
    imported = [
        (m, flag) for m, of in known.flags_by_module_dict().items() if "experiments." in m for flag in of
    ]
    for _, flag in imported:
        delattr(known, flag.name)
    before, was_parsed = set(known), known.is_parsed()
    out, err = io.StringIO(), io.StringIO()
    argv = [f"experiments/{name}.py", *map(str, arguments)]
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(sys, "path", sys.path[:]),
        mock.patch.object(sys, "unraisablehook", sys.unraisablehook),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            runpy.run_path(str(ROOT / "experiments" / f"{name}.py"), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        finally:  # the next script has flags of the same names
            for flag in set(known) - before:
                delattr(known, flag)
            for module, flag in imported:
                known[flag.name] = flag
                known.register_flag_by_module(module, flag)
            if not was_parsed:
                known.unparse_flags()
    return Done(code, out.getvalue(), err.getvalue())
