"""A folder of images as a data set: one folder a class, named as the class; or a manifest, a table of files.

What is wrong is told in one report before training: files that are broken, empty, no images whatever their name says,
too large, copies of others (a query would find itself), links that lead nowhere or out of the folder.

Hidden files and folders, such as ``.ipynb_checkpoints``, are not there, and files that do not pretend to be images are
not looked at. The order is that of names in Unicode's composed form, so it is the same on every system.
"""

import functools
import hashlib
import pathlib
import unicodedata

import numpy as np

from metric_jax.data import decoding, manifest
from metric_jax.data.cache import Decoded, through
from metric_jax.data.errors import DataError
from metric_jax.data.listing import (
    NO_CLASS,
    READ,
    Fault,
    File,
    Listing,
    content,
    fault,
    order,
    reason,
    settle,
    stamp,
)
from metric_jax.data.sources import Images


def folder(
    root: str,
    *,
    size: int = 0,
    channels: int = 0,
    crop: bool = False,
    skip_bad: bool = False,
    cache: str = "",
) -> Images:
    """The images of a folder that holds one folder for every class, or those of a manifest.

    Args:
        root: The folder or the manifest.
        size: Side length to resize the images to, square whatever they were; 0 keeps their own.
        channels: 1 makes them grey, 3 red, green and blue; 0 makes one channel if all are grey, else three.
        crop: Whether to cut out the middle of an image that is not square, rather than to squeeze it.
        skip_bad: Whether to leave out what cannot be used, and tell of it, rather than to stop.
        cache: A folder for decoded images; empty for none.

    Returns:
        The images, their ids (path within the folder) and class names (of the folders), both in the order of names; a
        manifest's images in its own order, and with its columns.

    Raises:
        DataError: No such folder, no folders or images in it, folders within its folders; files that cannot be used,
            all of them in one report; images that differ in size; a cache that cannot be written to.

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
    decoding.check(size, channels, crop)
    found = find(root)
    if found.files and not found.class_names:
        raise DataError(
            f"{found.root} holds images, but no folders: data.root is to hold one folder of images for every class"
        )
    described = [size, channels, crop, [[file.id, *stamp(file.path)] for file in found.files]]
    decode = functools.partial(_decode, found, size=size, channels=channels, crop=crop)
    images, notes, _ = through(cache, found.root.name, described, decode)
    settle(
        [*found.faults, *(Fault(*told) for told in notes["faults"])],
        found,
        skip_bad=skip_bad,
        option="data.skip_bad=True",
    )
    by_id = {file.id: file for file in found.files}
    kept = [by_id[id_] for id_ in notes["kept"]]
    # Classes of which nothing is left have no number.
    present = sorted({file.label for file in kept})
    labels = np.searchsorted(present, [file.label for file in kept]).astype(np.int32)
    names = tuple(found.class_names[label] for label in present)
    columns = {key: np.array([file.columns[key] for file in kept]) for key in kept[0].columns}
    return Images(images, labels, np.array(notes["kept"]), names, columns)


def _decode(found: Listing, *, size: int, channels: int, crop: bool) -> Decoded:
    """All images of a listing that can be used, which they are and what is wrong with the others."""
    from tqdm import tqdm

    images: list[np.ndarray] = []
    kept: list[str] = []
    faults: list[Fault] = []
    first_with: dict[bytes, str] = {}
    lasts = True
    for file in tqdm(found.files, desc=f"reading {found.root.name}", unit="image", disable=None, leave=False):
        try:
            encoded = content(file.path)
            image = decoding.decode(encoded, size, channels, crop=crop)
            first = first_with.setdefault(hashlib.sha256(encoded).digest(), file.id)
            if first != file.id:
                raise ValueError(f"a copy of {first!r}")
        except MemoryError as error:  # the file is not to blame
            raise DataError(
                f"{found.root} was read as far as {file.id!r}, and {decoding.NO_MEMORY}"
            ) from error
        except Exception as error:  # whatever Pillow raises of a broken file
            faults.append(Fault(file.id, reason(error)))
            # What the system refuses, as for want of a permission, it may grant without the file being another.
            lasts = lasts and not (isinstance(error, OSError) and error.errno)
            continue
        if images and image.shape[:2] != images[0].shape[:2]:  # now, before memory is full of large photos
            sizes = [f"{kept[0]!r} is {_size(images[0])}", f"{file.id!r} {_size(image)}"]
            raise DataError(
                f"the images of {found.root} differ in size, {' and '.join(sizes)}: set data.size"
            )
        images.append(image)
        kept.append(file.id)
    stacked = decoding.stack(images, str(found.root)) if images else np.zeros((0, 1, 1, 1), np.uint8)
    return Decoded(stacked, {"kept": kept, "faults": faults}, lasts)


def find(root: str, *, option: str = "data.root") -> Listing:
    """Lists the images of a folder, in folders of one class each or without classes in the folder itself.

    Args:
        root: The folder, or a manifest, of which the name ends in ``.csv`` or ``.jsonl``.
        option: What names it, for the errors.

    Returns:
        What is there.

    Raises:
        DataError: No such folder, nothing in it, folders within its folders, two folders of one name; what is wrong
            with a manifest as a whole.
    """
    home = existing(root, option=option)
    if home.is_file():
        return manifest.read(home)
    faults: list[Fault] = []
    files: list[File] = []
    folders, loose = _parted(home, home, faults)
    names = [unicodedata.normalize("NFC", each.name) for each in folders]
    nested: list[str] = []
    of_folders: list[pathlib.Path] = []
    for label, each in enumerate(folders):
        inner, images = _parted(each, home, faults)
        nested += [_id(path, home) for path in inner]
        of_folders += [each] if inner and not images else []
        files += [File(path, _id(path, home), label) for path in images]
        if not images and not inner and _id(each, home) not in {fault.id for fault in faults}:
            faults.append(Fault(_id(each, home), "a class without an image"))
    if nested:
        remedy = "move them, or name a manifest, a CSV file that says which file is of which class"
        raise DataError(
            f"{home} holds folders within folders ({_some(nested)}): {option} is to hold one folder of images for "
            f"every class: {remedy}{f', or set {option} to {of_folders[0]}' if of_folders else ''}"
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


def existing(root: str, *, option: str = "data.root") -> pathlib.Path:
    """The folder of images, or the manifest; a DataError that tells the remedy if there is none."""
    if not root:
        raise DataError(f"{option} is empty: say which folder of images")
    try:
        home = pathlib.Path(root).expanduser()
        found = home.is_dir() or manifest.is_one(home)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{option}={root[:80]!r} cannot be looked for: {error}"[:200]) from error
    if not found and home.suffix.lower() in manifest.SUFFIXES:
        raise DataError(f"the manifest {home} is not there: say with {option} where the file is")
    if not found:
        state = "is a file: if it is an archive, unpack it and" if home.exists() else "is not there:"
        raise DataError(f"the folder of images {home} {state} say with {option} where the folder is")
    return home


def _parted(
    directory: pathlib.Path, root: pathlib.Path, faults: list[Fault]
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """The folders and the images in a folder, each in order; what pretends to be one of them joins the faults."""
    folders: list[pathlib.Path] = []
    images: list[pathlib.Path] = []
    try:
        entries = sorted(directory.iterdir(), key=lambda path: order(path.name))
    except OSError as error:
        faults.append(Fault(_id(directory, root), reason(error)))
        return folders, images
    for path in entries:
        if path.name.startswith("."):
            continue
        wrong = fault(path, root)
        if wrong:
            faults.append(Fault(_id(path, root), wrong))
        elif path.is_dir():
            folders.append(path)
        elif path.suffix.lower() in READ:
            images.append(path)
    return folders, images


def _id(path: pathlib.Path, root: pathlib.Path) -> str:
    return path.relative_to(root).as_posix()


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")


def _size(image: np.ndarray) -> str:
    return "×".join(map(str, image.shape[:2]))
