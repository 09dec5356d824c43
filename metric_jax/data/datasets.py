"""From a source's name to a training and a test set."""

import hashlib
import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from metric_jax.data import folder, sources, splits
from metric_jax.data.errors import DataError, unknown
from metric_jax.data.overlap import in_common
from metric_jax.data.sources import Images
from metric_jax.data.vinyals import DRAWINGS, listed, vinyals

# The sources, and what can be said of each that a source does not share with all others.
SOURCES = {
    "digits": (),
    "folder": ("root", "size", "channels", "crop", "skip_bad", "cache"),
    "tfds": ("name", "super_key", "size", "channels", "crop", "cache"),
    "vinyals": ("root", "size", "channels", "cache"),
}
SPLITS = ("class", "in_order", "image", "own")


def load(
    source: str,
    *,
    name: str = "",
    data_dir: str = "",
    root: str = "",
    skip_bad: bool = False,
    split: str = "image",
    test_fraction: float = 0.2,
    split_seed: int = 0,
    train_split: str = "train",
    test_split: str = "test",
    image_key: str = "image",
    label_key: str = "label",
    super_key: str = "",
    size: int = 0,
    channels: int = 0,
    crop: bool = False,
    min_images: int = 0,
    rotations: bool = False,
    mirrors: bool = False,
    cache: str = "",
) -> tuple[Images, Images]:
    """Loads a set and parts it.

    Args:
        source: ``"digits"``, ``"folder"``, ``"tfds"`` or ``"vinyals"``.
        name: The TFDS set.
        data_dir: Where prepared TFDS sets lie.
        root: The folder that holds one folder of images for every class, or a manifest; that of Vinyals' split files.
        skip_bad: Whether to leave out files of that folder that cannot be used, rather than to stop.
        split: ``"class"`` tests on unseen classes, ``"in_order"`` on the last classes by number, ``"image"`` on unseen
            images of the same classes, ``"own"`` on the test split of the TFDS set, the manifest or Vinyals.
        test_fraction: The part that is for testing, of the classes or of the images of every class.
        split_seed: Chooses that part.
        train_split: The split to train on, or the TFDS split to part.
        test_split: The split to test on, if it is the set's own.
        image_key: The TFDS feature that holds the image.
        label_key: The TFDS feature that holds the class.
        super_key: The TFDS feature that holds the class of the class; empty if there is none.
        size: Side length to resize images to, square whatever they were; 0 keeps their own.
        channels: 1 makes images grey, 3 red, green and blue; 0 makes one channel if all are grey, else three.
        crop: Whether to cut out the middle of an image that is not square, rather than to squeeze it.
        min_images: Classes with fewer images to train on are left out of the training set; with ``split="image"``,
            those with fewer images at all, of both sets.
        rotations: Whether the training classes, turned by 90, 180 and 270 degrees, are further classes.
        mirrors: Whether the training classes, mirrored left to right, are further classes; turned ones too.
        cache: A folder for decoded images, which later runs map into memory; empty for none.

    Returns:
        (training set, test set).

    Raises:
        DataError: Unknown names, a set that is not prepared, a split that cannot be made, a test set on which retrieval
            would mean nothing.

    Example:
        >>> train, test = load("digits", split="image", test_fraction=0.2)
        >>> len(train), len(test)
        (1438, 359)
    """
    check(source, split)
    counts = {"size": size, "channels": channels, "min_images": min_images, "split_seed": split_seed}
    for key, count in counts.items():
        if not isinstance(count, int | np.integer):
            raise DataError(f"data.{key} must be a whole number, got {count!r}")
    given = {
        "name": name,
        "root": root,
        "size": size,
        "channels": channels,
        "crop": crop,
        "skip_bad": skip_bad,
        "super_key": super_key,
        "cache": cache,
    }
    for key, value in given.items():
        if value and key not in SOURCES[source]:
            others = " or ".join(repr(other) for other, keys in SOURCES.items() if key in keys)
            raise DataError(
                f"data.{key}={value!r} is not for data.source={source!r}: leave it, or set data.source to {others}"
            )
    if split == "own" and train_split == test_split:
        raise DataError(f"data.train_split and data.test_split are both {test_split!r}: test on another")

    def tfds(part: str) -> Images:
        return sources.tfds(name, part, data_dir=data_dir, crop=crop, **keys, **shape)

    keys: Mapping[str, Any] = {"image_key": image_key, "label_key": label_key, "super_key": super_key}
    shape: Mapping[str, Any] = {"size": size, "channels": channels, "cache": cache}
    if source == "vinyals":
        train, test = vinyals(root, train_split, test_split, data_dir=data_dir, **shape)
        both = set(train.class_names) & set(test.class_names)
        if both:
            raise DataError(
                f"{len(both)} classes, such as {min(both)!r}, are of data.train_split={train_split!r} and of "
                f"data.test_split={test_split!r}: train on 'train' to test on 'val', on 'trainval' to test on 'test'"
            )
    elif source == "tfds" and split == "own":
        train, test = tfds(train_split), tfds(test_split)
        if shared := in_common(name, train_split, test_split, data_dir=data_dir):
            raise DataError(
                f"{shared} images of {name} are both of data.train_split={train_split!r} and of "
                f"data.test_split={test_split!r}: choose splits that share none"
            )
    else:
        if source == "folder":
            whole = folder.folder(root, crop=crop, skip_bad=skip_bad, **shape)
        else:
            whole = sources.digits() if source == "digits" else tfds(train_split)
        if split == "own":
            train, test = splits.by_column(whole, train_split, test_split)
        elif split == "in_order":
            train, test = splits.in_order(whole, test_fraction=test_fraction)
        else:
            whole = _without_small(whole, min_images, "set that is parted") if split == "image" else whole
            part = splits.by_class if split == "class" else splits.by_image
            train, test = part(whole, test_fraction=test_fraction, seed=split_seed)
    _check_groups(train, test)
    _check_test_set(train, test)
    train = train if split == "image" else _without_small(train, min_images, "training set")
    train = sources.with_rotations(train) if rotations else train
    return (sources.with_mirrors(train) if mirrors else train), test


def digest(*parts: Images) -> str:
    """What tells sets of images from others: a hash of what they are called, of their classes and their shape.

    Example:
        >>> train, test = load("digits")
        >>> digest(train, test) == digest(train, test) != digest(test, train)
        True
    """
    found = hashlib.sha256()
    for part in parts:
        for told in (part.ids, part.labels, np.array(part.images.shape)):
            found.update(told.tobytes())
    return found.hexdigest()


def ids_digest(images: Images) -> str:
    """What tells the images of a set from others, in whichever order, size and classes: a hash of what they are called.

    Example:
        >>> train, test = load("digits")
        >>> ids_digest(test) == ids_digest(test[::-1]) != ids_digest(train)
        True
    """
    return hashlib.sha256(json.dumps(sorted(images.ids.tolist())).encode()).hexdigest()


def check(source: str, split: str) -> None:
    """Raises a DataError for an unknown source or split, before anything is read."""
    if source not in SOURCES:
        raise DataError(unknown("data.source", source, SOURCES))
    if split not in SPLITS:
        raise DataError(unknown("data.split", split, SPLITS))
    if split == "own" and source == "digits":
        raise DataError(
            f"data.source={source!r} has no split of its own: set data.split to 'image' or 'class'"
        )
    if split != "own" and source == "vinyals":
        raise DataError(f"data.source={source!r} is a split: set data.split to 'own'")


def check_prepared(
    source: str, *, name: str, data_dir: str, root: str, train_split: str, test_split: str, **_: Any
) -> None:
    """Raises a DataError if a TFDS set, a folder or a split is not there; takes what `load` takes, reads no image."""
    if source == "folder":
        folder.existing(root)
    if source in ("tfds", "vinyals"):
        sources.prepared(DRAWINGS if source == "vinyals" else name, data_dir)
    if source == "vinyals":
        for part in (train_split, test_split):
            listed(root, part)


def _without_small(images: Images, least: int, place: str) -> Images:
    """The images of the classes that have so many; tells of what is left out of which place."""
    if least < 0:
        raise DataError(f"data.min_images must not be negative, got {least}")
    _, class_of, counts = np.unique(images.labels, return_inverse=True, return_counts=True)
    kept = counts[class_of] >= least
    if not kept.any():
        raise DataError(
            f"no class of the {place} has data.min_images={least} images, but at most {counts.max()}"
        )
    if not kept.all():
        small = np.sum(counts < least)
        told = f"{small} {'class' if small == 1 else 'classes'} of fewer than {least} images"
        verb = "is" if small == 1 else "are"
        print(f"{told} {verb} left out of the {place}, {np.sum(~kept)} images in all", file=sys.stderr)
    return images[kept] if not kept.all() else images


def _check_groups(train: Images, test: Images) -> None:
    """Raises a DataError for a group of images that is to be trained on and tested on."""
    groups = [set(part.columns.get("group", ())) for part in (train, test)]
    parted = sorted(set.intersection(*groups))
    if parted:
        raise DataError(
            f"{len(parted)} groups, such as {str(parted[0])!r}, have images to train on and others to test on: give "
            "all images of a group one split, or set data.split to 'image', which parts no group"
        )


def _check_test_set(train: Images, test: Images) -> None:
    """Raises a DataError if the model could not embed the test set, or retrieval there could not go wrong, or right."""
    if train.images.shape[1:] != test.images.shape[1:]:
        shapes = " and ".join("×".join(map(str, part.images.shape[1:])) for part in (train, test))
        raise DataError(
            f"images to train and to test on differ, {shapes}: set data.size, or choose splits that are alike"
        )
    classes, counts = np.unique(test.labels, return_counts=True)
    if len(classes) < 2:
        raise DataError(
            f"all images to test on are of class {test.class_name(classes[0])}, so that whatever is found is right"
        )
    if counts.max() < 2:
        raise DataError(
            "no class has two images to test on, so that nothing can be found: choose a larger test set"
        )
