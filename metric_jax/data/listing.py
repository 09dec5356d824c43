"""What a folder or a manifest says there is: files, their classes, and what is already known to be no image.

Folders are made by people, and unpacked from archives of strangers, so everything in one is looked at before any of
it is used, and all that is wrong is told in one report.
"""

import os
import pathlib
import re
import sys
import types
import unicodedata
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from metric_jax.data import decoding
from metric_jax.data.errors import DataError

READ = frozenset(".jpg .jpeg .jpe .jfif .png .webp .pgm .ppm .pbm .pnm .bmp".split())
NOT_READ = frozenset(
    ".gif .tif .tiff .heic .heif .avif .jp2 .jxl .svg .ico .tga .psd .dng .cr2 .nef .arw".split()
)
LARGEST_FILE = 256 * 2**20  # bytes; an image of as many pixels as Pillow opens is smaller
NO_CLASS = -1


class File(NamedTuple):
    """An image file.

    Attributes:
        path: Where it is.
        id: The path within the folder, with slashes.
        label: The number of its class, or ``NO_CLASS``.
        columns: What a manifest says of it besides, such as ``{"group": "monday"}``.
    """

    path: pathlib.Path
    id: str
    label: int
    columns: Mapping[str, str] = types.MappingProxyType({})


class Fault(NamedTuple):
    """What is wrong with a file or folder, by its path within the whole, or with a line of a manifest."""

    id: str
    reason: str


class Listing(NamedTuple):
    """What there is, in order; nothing of it was opened yet.

    Attributes:
        root: The folder, or the manifest.
        files: Its images.
        class_names: Of class 0, 1, ...; empty if the images have no classes.
        faults: What is already known to be no image.
    """

    root: pathlib.Path
    files: list[File]
    class_names: tuple[str, ...]
    faults: list[Fault]


def read(file: File, size: int | tuple[int, int] = 0, channels: int = 0, *, crop: bool = False) -> np.ndarray:
    """One image of a listing, ``[height, width, channels]`` uint8, as `decoding.decode` makes it.

    Raises:
        Exception: It cannot be read; `reason` says why.
    """
    return decoding.decode(content(file.path), size, channels, crop=crop)


def content(path: pathlib.Path) -> bytes:
    """All of a file, if that is not too much.

    Raises:
        ValueError: The file is empty, or too large for an image.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    if not size:
        raise ValueError("an empty file")
    if size > LARGEST_FILE:
        raise ValueError(f"a file of {size / 2**20:,.0f} MiB, where {LARGEST_FILE / 2**20:,.0f} are allowed")
    return path.read_bytes()


def stamp(path: pathlib.Path) -> tuple[int, int, int]:
    """A file's size in bytes, time of last change in ns and inode, by which it is known again; zeros if it has none.

    The inode tells apart what was put in another's place: files of one size may be as old as each other.
    """
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ino


def fault(path: pathlib.Path, root: pathlib.Path) -> str:
    """What is wrong with a path below a folder, without opening it; empty if nothing is, or it is none of ours."""
    try:
        return _fault(path, root)
    except OSError as error:  # of a folder whose files may be listed and not looked at
        return reason(error)


def _fault(path: pathlib.Path, root: pathlib.Path) -> str:
    # A link that may lead, or have led, to a folder: in the root one may have a dot in its name.
    is_link = path.is_symlink() and (not path.suffix or (path.parent == root and not path.exists()))
    if not (path.is_dir() or path.suffix.lower() in READ | NOT_READ or is_link):
        return ""
    try:
        os.fsencode(path.name).decode("utf-8")
    except UnicodeDecodeError:
        return "its name is not UTF-8: rename it"
    if path.is_symlink():
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):  # the latter of links in a circle
            return "a link that leads nowhere"
        if not target.is_relative_to(root.resolve()):
            return "a link that leads out of the folder: copy there what it points to"
    if path.is_dir():
        return ""
    if path.suffix.lower() in NOT_READ:
        return f"{path.suffix} files are not read: convert it to PNG or JPEG"
    return "" if path.is_file() else "not a file, but a device or a pipe"


def reason(error: Exception) -> str:
    """Why a file cannot be used, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def settle(faults: Iterable[Fault], found: Listing, *, skip_bad: bool, option: str) -> None:
    """Tells of everything that cannot be used, and goes on only if that was asked for.

    Args:
        faults: All that is wrong.
        found: Where.
        skip_bad: Whether to go on without.
        option: The flag that would do so.

    Raises:
        DataError: There is a fault, and it is not to be skipped; or nothing is left.
    """
    ordered = sorted(set(faults), key=lambda fault: _as_counted(fault.id))
    if not ordered:
        return
    bad = {fault.id for fault in ordered}
    left = sum(file.id not in bad for file in found.files)
    report = [f"  {fault.id!r}: {fault.reason}" for fault in ordered]
    count = f"{len(ordered)} of what is in {found.root}"
    if not left:
        raise DataError("\n".join([f"none of the images in {found.root} can be used:", *report]))
    if not skip_bad:
        remedy = f"mend or remove them, or leave them out with {option}"
        raise DataError("\n".join([f"{count} cannot be used: {remedy}", *report]))
    print("\n".join([f"{count} cannot be used and left out:", *report]), file=sys.stderr)


def order(name: str) -> tuple[str, str]:
    """By which names are sorted: whether a letter and its accent are one character or two makes no difference."""
    return unicodedata.normalize("NFC", name), name


def _as_counted(name: str) -> list[str | int]:
    """A key that sorts line 9 before line 10."""
    parts = re.split("([0-9]+)", order(name)[0])
    return [int(part) if number % 2 else part for number, part in enumerate(parts)]
