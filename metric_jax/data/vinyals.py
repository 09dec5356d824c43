"""Omniglot in the split of few-shot learning: all 1,623 characters parted anew, each in four rotations.

The split's files, ``train.txt``, ``val.txt``, ``trainval.txt`` and ``test.txt``, list a class in every line:
``alphabet/character01/rot090`` is the first character of that alphabet, turned by 90 degrees against the clock.
"""

import dataclasses
import functools
import pathlib

import numpy as np

from metric_jax.data import sources
from metric_jax.data.errors import DataError
from metric_jax.data.sources import Images

ROTATIONS = (0, 90, 180, 270)
DRAWINGS = "omniglot"  # the TFDS set
ORIGIN = "https://github.com/jakesnell/prototypical-networks (data/omniglot/splits/vinyals)"


def vinyals(
    root: str, *parts: str, data_dir: str = "", size: int = 0, channels: int = 0, cache: str = ""
) -> tuple[Images, ...]:
    """Some parts of Omniglot in the split of Vinyals et al.

    Args:
        root: The folder of the split's files.
        parts: The names of these without ``.txt``, such as ``"trainval"`` and ``"test"``.
        data_dir: The folder that holds the TFDS set ``omniglot``; by default TFDS_DATA_DIR, then ~/tensorflow_datasets.
        size: Side length to resize the images to; 0 keeps their own, 105.
        channels: 3 makes them red, green and blue, which are alike.
        cache: A folder for decoded images; empty for none.

    Returns:
        The images of every part. Class 0 is that of the file's first line; the column ``super`` holds the alphabet.

    Raises:
        DataError: A file is missing, or names a class twice or one that there is not; TFDS's Omniglot cannot be read.

    References:
        Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra (2016), Matching Networks for One Shot Learning.
        https://arxiv.org/abs/1606.04080
    """
    classes = [listed(root, part) for part in parts]
    read = functools.partial(sources.tfds, DRAWINGS, label_key="alphabet_char_id", super_key="alphabet")
    drawings = [
        read(split, data_dir=data_dir, size=size, channels=channels, cache=cache)
        for split in ("train", "test")
    ]
    return tuple(_part(drawings, names, f"{part}.txt") for names, part in zip(classes, parts, strict=True))


def listed(root: str, part: str) -> list[str]:
    """The classes of a part: the lines of a file of the split; a DataError that tells the remedy if there is none."""
    if not root:
        raise DataError(f"data.root is empty: say which folder holds {part}.txt and its like, from {ORIGIN}")
    path = pathlib.Path(root) / f"{part}.txt"
    try:
        lines = path.expanduser().read_text(encoding="utf-8").split()
    except (OSError, RuntimeError, ValueError) as error:  # the second of a home that is nobody's
        raise DataError(
            f"cannot read {path}, where data.root is to hold the files of Vinyals' split, from {ORIGIN}"
        ) from error
    if len(set(lines)) < len(lines) or not lines:
        raise DataError(f"{path} names no class, or one twice: take it from {ORIGIN}")
    return lines


def _part(drawings: list[Images], names: list[str], file: str) -> Images:
    """The drawings of these classes, upright ones first, in the order of TFDS."""
    label_of = {name: label for label, name in enumerate(names)}
    found: list[Images] = []
    for rotation in ROTATIONS:
        for images in drawings:
            characters = zip(images.columns["super"], images.labels, strict=True)
            called = (
                f"{alphabet}/character{number + 1:02}/rot{rotation:03}" for alphabet, number in characters
            )
            labels = np.array([label_of.get(name, -1) for name in called], np.int32)
            kept = dataclasses.replace(images, labels=labels, class_names=())[labels >= 0]
            turned = np.rot90(kept.images, rotation // 90, axes=(1, 2))
            ids = np.strings.add(kept.ids, f", turned by {rotation} degrees" if rotation else "")
            found.append(dataclasses.replace(kept, images=turned, ids=ids))
    labels = np.concatenate([images.labels for images in found])
    missing = np.setdiff1d(np.arange(len(names)), labels)
    if missing.size:
        raise DataError(f"{file} names a class that Omniglot does not have: {names[missing[0]]!r}")
    return Images(
        np.concatenate([images.images for images in found]),
        labels,
        np.concatenate([images.ids for images in found]),
        tuple(names),
        {
            "super": np.concatenate([images.columns["super"] for images in found]),
            "origin": np.array([name.rpartition("/")[0] for name in names])[labels],
        },
    )
