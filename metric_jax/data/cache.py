"""Decoded images on disk, mapped into memory: what was decoded once need not be decoded again.

An entry is an array ``NAME-KEY.npy`` of all images and beside it ``NAME-KEY.json``: what else is known of them, and a
checksum of both. The key is a hash of all that the pixels depend on, of every file its size, inode and the time of its
last change among it. So when files change, the entry is not found, and another one is made; entries that nobody needs
any more may be deleted at any time, as may the folder.
"""

import hashlib
import json
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from metric_jax import files
from metric_jax.data.errors import DataError

FORMAT = 2  # of the entries, and of how images are decoded: with another one, none is found


class Decoded(NamedTuple):
    """Images as they were decoded.

    Attributes:
        images: ``[n, height, width, channels]`` uint8.
        notes: What else is known of them, as JSON.
        lasts: Whether they would be decoded alike again as long as no file changes: not if one could not be read.
    """

    images: np.ndarray
    notes: dict[str, Any]
    lasts: bool = True


def through(folder: str, name: str, described: Any, make: Callable[[], Decoded]) -> Decoded:
    """What ``make`` returns, from the cache if it is there.

    Args:
        folder: The cache; made if it is not there. With an empty one nothing is cached.
        name: What the images are called, for whoever looks into the folder.
        described: All that they depend on, as JSON.
        make: Decodes them.

    Returns:
        The images, if they come from the cache mapped into memory and read-only; the notes.

    Raises:
        DataError: The cache cannot be written to, which is looked at before anything is decoded.

    Example:
        >>> make = lambda: Decoded(np.ones((2, 1, 1, 1), np.uint8), {"ids": ["a", "b"]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     kinds = [type(through(folder, "two", ["a", 13, "b", 15], make).images) for _ in range(2)]
        >>> [kind.__name__ for kind in kinds]
        ['ndarray', 'memmap']
    """
    if not folder:
        return make()
    from PIL import __version__ as pillow

    try:
        home = pathlib.Path(folder).expanduser()
        home.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=home).close()
    except (OSError, RuntimeError, ValueError) as error:  # the latter of a home that is nobody's, of no name
        why = getattr(error, "strerror", None) or str(error)
        raise DataError(f"data.cache: cannot write to {folder}: {why}: name another folder") from error
    key = hashlib.sha256(json.dumps([FORMAT, pillow, described]).encode()).hexdigest()[:32]
    path = home / f"{re.sub(r'[^0-9A-Za-z_.-]', '_', name)[:60]}-{key}.npy"
    decoded = _read(path)
    if decoded is None:
        decoded = make()
        if decoded.lasts:
            _write(path, decoded)
    return decoded


def _read(path: pathlib.Path) -> Decoded | None:
    """An entry, or None if it is not there; of one that is broken it tells."""
    if not path.with_suffix(".json").exists():
        return None
    try:
        described = json.loads(path.with_suffix(".json").read_bytes())
        if described["sha256"] != _checksum(path, described["notes"]):
            raise ValueError("its checksum is another")
        return Decoded(np.load(path, mmap_mode="r", allow_pickle=False), described["notes"])
    except Exception as error:  # JSON and NumPy have many for what is cut off
        print(f"{path} in the cache is broken ({error}): the images are decoded anew", file=sys.stderr)
        return None


def _write(path: pathlib.Path, decoded: Decoded) -> None:
    """Puts an entry into the cache, the notes last; without room for it, tells so and goes on without.

    It is written in a folder of its own, for other processes may be writing the same entry.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="unfinished-") as name:
            new = files.replace(
                pathlib.Path(name, path.name), lambda file: np.save(file, decoded.images, allow_pickle=False)
            )
            described = {"sha256": _checksum(new, decoded.notes), "notes": decoded.notes}
            notes = files.replace(new.with_suffix(".json"), json.dumps(described).encode())
            new.replace(path)
            notes.replace(path.with_suffix(".json"))
    except OSError as error:
        print(f"cannot cache the images in {path.parent}: {error.strerror}", file=sys.stderr)


def _checksum(path: pathlib.Path, notes: dict[str, Any]) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps(notes, sort_keys=True).encode())
    return digest.hexdigest()
