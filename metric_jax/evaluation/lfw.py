"""Labeled Faces in the Wild: the file that says which photos its ten-fold verification protocol compares."""

import pathlib
from typing import NamedTuple

import numpy as np

Photo = tuple[str, int]  # a person's name, and the number of the photo, from 1


class Pairs(NamedTuple):
    """Pairs of photos, in the order of the file.

    Attributes:
        first: ``[pairs]`` of (name, number).
        second: ``[pairs]`` of (name, number).
        is_same: ``[pairs]`` booleans: whether both show one person.
        folds: ``[pairs]`` integers from 0.
    """

    first: list[Photo]
    second: list[Photo]
    is_same: np.ndarray
    folds: np.ndarray


def read_pairs(path: str | pathlib.Path) -> Pairs:
    r"""Reads a file of pairs in the format of LFW's ``pairs.txt``.

    The first line holds the number of folds and the number n of pairs of each kind in a fold (``pairsDevTrain.txt`` and
    its like have one fold, and n alone). For each fold there follow n lines ``name i j``, two photos of one person, and
    n lines ``name i other j``, of two persons. Fields are separated by tabs or spaces.

    Args:
        path: The file.

    Returns:
        `Pairs`; what `verification` wants are its ``is_same`` and ``folds``.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: A line that is not what its place in the file asks for, which the message names; lines that are
            missing or left over; a file that is no text.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "pairs.txt")
        ...     _ = path.write_text("2 1\nAnn 1 2\nAnn 1 Bob 3\nEve 1 4\nBob 1 Eve 2\n")
        ...     pairs = read_pairs(path)
        >>> pairs.first[1], pairs.second[1], pairs.is_same.tolist(), pairs.folds.tolist()
        (('Ann', 1), ('Bob', 3), [True, False, True, False], [0, 0, 1, 1])

    References:
        Huang, Ramesh, Berg, Learned-Miller (2007), Labeled Faces in the Wild.
        https://people.cs.umass.edu/~elm/papers/lfw.pdf
    """
    path = pathlib.Path(path)
    try:
        lines = path.read_text(encoding="utf-8").rstrip().split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text file: LFW's pairs.txt was expected") from None
    header = [_positive(field) for field in lines[0].split()]
    if len(header) not in (1, 2) or 0 in header:
        raise ValueError(
            f"{path}, line 1: the number of folds and of pairs of a kind in each, such as '10 300', was expected, got "
            f"{lines[0][:80]!r}"
        )
    folds, size = [1, *header][-2:]
    expected = 2 * folds * size
    if len(lines) - 1 != expected:
        raise ValueError(
            f"{path} has {len(lines) - 1} lines after the first, which promises 2 x {folds} x {size} = {expected}: is "
            "the file complete?"
        )
    pairs = [
        _pair(line, is_same=i // size % 2 == 0, where=f"{path}, line {i + 2}")
        for i, line in enumerate(lines[1:])
    ]
    number = np.arange(expected)
    return Pairs(
        [first for first, _ in pairs],
        [second for _, second in pairs],
        number // size % 2 == 0,
        number // (2 * size),
    )


def lfw_path(name: str, number: int) -> str:
    """Where LFW keeps a photo, relative to the folder of all persons.

    Args:
        name: The person, as ``pairs.txt`` names him or her.
        number: The photo, from 1.

    Returns:
        ``name/name_0001.jpg``.

    Raises:
        ValueError: A name that is not that of a folder, or a number below 1.

    Example:
        >>> lfw_path("Abel_Pacheco", 4)
        'Abel_Pacheco/Abel_Pacheco_0004.jpg'
    """
    if not _names_a_folder(name):
        raise ValueError(f"{name!r} is not the name of a person's folder")
    if number < 1:
        raise ValueError(f"photos are numbered from 1, got {number} of {name}")
    return f"{name}/{name}_{number:04d}.jpg"


def _pair(line: str, *, is_same: bool, where: str) -> tuple[Photo, Photo]:
    """The two photos of a line; raises a ValueError that says where it stands."""
    fields = line.split()
    if is_same and len(fields) == 3:
        fields = [fields[0], fields[1], fields[0], fields[2]]
    elif is_same or len(fields) != 4:
        wanted = "'name i j', two photos of one person," if is_same else "'name i other j', two persons,"
        raise ValueError(f"{where}: {wanted} was expected, got {line[:80]!r}")
    first, second = (_photo(name, number, where) for name, number in (fields[:2], fields[2:]))
    if first == second:
        raise ValueError(f"{where}: a photo is compared with itself: {line[:80]!r}")
    if not is_same and first[0] == second[0]:
        raise ValueError(f"{where}: two different persons were expected, got {line[:80]!r}")
    return first, second


def _photo(name: str, number: str, where: str) -> Photo:
    value = _positive(number)
    if not value:
        raise ValueError(f"{where}: the number of a photo, from 1, was expected, got {number[:80]!r}")
    if not _names_a_folder(name):
        raise ValueError(f"{where}: {name[:80]!r} is not the name of a person's folder")
    return name, value


def _positive(field: str) -> int:
    """The positive integer that a field holds in decimal digits; 0 if it does not."""
    return int(field) if field.isascii() and field.isdigit() and len(field) < 10 else 0


def _names_a_folder(name: str) -> bool:
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\\0:")
