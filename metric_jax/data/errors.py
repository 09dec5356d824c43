"""What goes wrong with data by the user's doing, told in one line."""

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """Data that is missing or does not fit what is asked of it; the message names the offender and the remedy."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is none of the known ones, with the likeliest meant.

    Example:
        >>> unknown("data source", "digit", ["digits", "tfds"])
        "unknown data source 'digit', did you mean 'digits'? There is: digits, tfds"
    """
    known = sorted(known)
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    meant = f", did you mean {by_lower[close[0]]!r}?" if close else "."
    return f"unknown {kind} {name!r}{meant} There is: {', '.join(known)}"
