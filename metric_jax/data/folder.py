"""A folder of images as a data set: one folder a class, named as the class.

Folders are made by people, and unpacked from archives of strangers, so everything in one is looked at before any of
it is used, and all that is wrong is told in one report: files that are broken, empty, no images whatever their name
says, too large, copies of others (a query would find itself), links that lead nowhere or out of the folder.

Hidden files and folders, such as ``.ipynb_checkpoints``, are not there, and files that do not pretend to be images are
not looked at. The order is that of names in Unicode's composed form, so it is the same on every system.
"""

import hashlib
import os
import pathlib
import sys
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from metric_jax.data import decoding
from metric_jax.data.errors import DataError
from metric_jax.data.sources import Images

READ = frozenset(".jpg .jpeg .jpe .jfif .png .webp .pgm .ppm .pbm .pnm .bmp".split())
NOT_READ = frozenset(
    ".gif .tif .tiff .heic .heif .avif .jp2 .jxl .svg .ico .tga .psd .dng .cr2 .nef .arw".split()
)
LARGEST_FILE = 256 * 2**20  # bytes; an image of as many pixels as Pillow opens is smaller
NO_CLASS = -1


class File(NamedTuple):
    """An image file: its path, its path within the folder with slashes, the number of its class or ``NO_CLASS``."""

    path: pathlib.Path
    id: str
    label: int


class Fault(NamedTuple):
    """What is wrong with a file or folder, by its path within the whole."""

    id: str
    reason: str


class Listing(NamedTuple):
    """What is in a folder, in order; nothing of it was opened yet.

    Attributes:
        root: The folder.
        files: Its images.
        class_names: Of class 0, 1, ...; empty if the images lie in the folder itself.
        faults: What is already known to be no image.
    """

    root: pathlib.Path
    files: list[File]
    class_names: tuple[str, ...]
    faults: list[Fault]


def folder(root: str, *, size: int = 0, channels: int = 0, skip_bad: bool = False) -> Images:
    """The images of a folder that holds one folder for every class.

    Args:
        root: The folder.
        size: Side length to resize the images to, square whatever they were; 0 keeps their own.
        channels: 1 makes them grey, 3 red, green and blue; 0 makes one channel if all are grey, else three.
        skip_bad: Whether to leave out what cannot be used, and tell of it, rather than to stop.

    Returns:
        The images, their ids (path within the folder) and class names (of the folders), both in the order of names.

    Raises:
        DataError: No such folder, no folders or images in it, folders within its folders; files that cannot be used,
            all of them in one report; images that differ in size.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as root:
        ...     for name in ("Ada", "Bob"):
        ...         pathlib.Path(root, name).mkdir()
        ...         image = Image.new("L", (4, 4), ord(name[0]))
        ...         image.save(f"{root}/{name}/1.png")
        ...     images = folder(root)
        >>> images.images.shape, images.ids.tolist(), images.class_names
        ((2, 4, 4, 1), ['Ada/1.png', 'Bob/1.png'], ('Ada', 'Bob'))
    """
    from tqdm import tqdm

    decoding.check(size, channels)
    found = find(root)
    if not found.class_names:
        raise DataError(
            f"{found.root} holds images, but no folders: data.root is to hold one folder of images for every class"
        )
    images: list[np.ndarray] = []
    kept: list[File] = []
    faults: list[Fault] = list(found.faults)
    first_with: dict[bytes, str] = {}
    for file in tqdm(found.files, desc=f"reading {found.root.name}", unit="image", disable=None, leave=False):
        try:
            encoded = _bytes(file.path)
            image = decoding.decode(encoded, size, channels)
            first = first_with.setdefault(hashlib.sha256(encoded).digest(), file.id)
            if first != file.id:
                raise ValueError(f"a copy of {first!r}")
        except Exception as error:  # whatever Pillow raises of a broken file
            faults.append(Fault(file.id, reason(error)))
            continue
        if images and image.shape[:2] != images[0].shape[:2]:  # now, before memory is full of large photos
            sizes = [f"{kept[0].id!r} is {_size(images[0])}", f"{file.id!r} {_size(image)}"]
            raise DataError(
                f"the images of {found.root} differ in size, {' and '.join(sizes)}: set data.size"
            )
        images.append(image)
        kept.append(file)
    settle(faults, found, skip_bad=skip_bad, option="--config.data.skip_bad=True")
    # Classes of which nothing is left have no number.
    present = sorted({file.label for file in kept})
    labels = np.searchsorted(present, [file.label for file in kept]).astype(np.int32)
    ids = np.array([file.id for file in kept])
    names = tuple(found.class_names[label] for label in present)
    return Images(decoding.stack(images, str(found.root)), labels, ids, names)


def find(root: str, *, option: str = "data.root") -> Listing:
    """Lists the images of a folder, in folders of one class each or without classes in the folder itself.

    Args:
        root: The folder.
        option: What names it, for the errors.

    Returns:
        What is there.

    Raises:
        DataError: No such folder, nothing in it, folders within its folders, two folders of one name.
    """
    if not root:
        raise DataError(f"{option} is empty: say which folder of images")
    home = pathlib.Path(root).expanduser()
    if not home.is_dir():
        state = "is a file: if it is an archive, unpack it and" if home.exists() else "is not there:"
        raise DataError(f"the folder of images {home} {state} say with {option} where the folder is")
    faults: list[Fault] = []
    files: list[File] = []
    folders, loose = _parted(home, home, faults)
    names = [unicodedata.normalize("NFC", each.name) for each in folders]
    nested: list[str] = []
    for label, each in enumerate(folders):
        inner, images = _parted(each, home, faults)
        nested += [_id(path, home) for path in inner]
        files += [File(path, _id(path, home), label) for path in images]
        if not images and not inner and _id(each, home) not in {fault.id for fault in faults}:
            faults.append(Fault(_id(each, home), "a class without an image"))
    if nested:
        raise DataError(
            f"{home} holds folders within folders ({_some(nested)}): {option} is to hold one folder of images for "
            f"every class: move them, or set {option} to {home / nested[0].partition('/')[0]}"
        )
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(
            f"{home} holds two folders for one class ({_some(twice)}), whose names differ only in how Unicode composes "
            "their letters: make them one"
        )
    if folders:
        faults += [
            Fault(_id(path, home), "lies beside the folders of classes, in none of them") for path in loose
        ]
    else:
        files = [File(path, _id(path, home), NO_CLASS) for path in loose]
    if not files and not faults:
        raise DataError(f"{home} holds no images: {option} is to hold one folder of images for every class")
    return Listing(home, files, tuple(names), faults)


def read(file: File, size: int | tuple[int, int] = 0, channels: int = 0) -> np.ndarray:
    """One image of a listing, ``[height, width, channels]`` uint8, as `decoding.decode` makes it.

    Raises:
        Exception: It cannot be read; `reason` says why.
    """
    return decoding.decode(_bytes(file.path), size, channels)


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
    ordered = sorted(set(faults), key=lambda fault: _order(fault.id))
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


def _parted(
    directory: pathlib.Path, root: pathlib.Path, faults: list[Fault]
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """The folders and the images in a folder, each in order; what pretends to be one of them joins the faults."""
    folders: list[pathlib.Path] = []
    images: list[pathlib.Path] = []
    try:
        entries = sorted(directory.iterdir(), key=lambda path: _order(path.name))
    except OSError as error:
        faults.append(Fault(_id(directory, root), reason(error)))
        return folders, images
    for path in entries:
        if path.name.startswith("."):
            continue
        fault = _fault(path, root)
        if fault:
            faults.append(Fault(_id(path, root), fault))
        elif path.is_dir():
            folders.append(path)
        elif path.suffix.lower() in READ:
            images.append(path)
    return folders, images


def _fault(path: pathlib.Path, root: pathlib.Path) -> str:
    """What is wrong with a path, without opening it; empty if nothing is, or if it is nothing of ours."""
    if not (path.is_dir() or path.suffix.lower() in READ | NOT_READ or path.is_symlink()):
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


def _bytes(path: pathlib.Path) -> bytes:
    """All of a file, if that is not too much."""
    size = path.stat().st_size
    if not size:
        raise ValueError("an empty file")
    if size > LARGEST_FILE:
        raise ValueError(f"a file of {size / 2**20:,.0f} MiB, where {LARGEST_FILE / 2**20:,.0f} are allowed")
    return path.read_bytes()


def _order(name: str) -> tuple[str, str]:
    """By which names are sorted: whether a letter and its accent are one character or two makes no difference."""
    return unicodedata.normalize("NFC", name), name


def _id(path: pathlib.Path, root: pathlib.Path) -> str:
    return path.relative_to(root).as_posix()


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")


def _size(image: np.ndarray) -> str:
    return "×".join(map(str, image.shape[:2]))
