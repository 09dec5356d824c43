"""Training and test sets: unseen classes, or unseen images of the same classes.

Metric learning is judged on classes that training never saw, for then the embedding has to have learnt what makes
things alike in general. Unseen images of known classes are the easier question of a classifier.
"""

import dataclasses
import itertools

import numpy as np

from metric_jax.data.errors import DataError, unknown
from metric_jax.data.sources import Images


def by_class(images: Images, *, test_fraction: float, seed: int) -> tuple[Images, Images]:
    """Training and test set without a class in common.

    Args:
        images: The whole set.
        test_fraction: Which part of the classes is for testing, rounded to whole classes.
        seed: Chooses the classes.

    Returns:
        (training set, test set).

    Raises:
        DataError: Either side would have fewer than two classes; a fraction or a seed out of range.

    Example:
        >>> from metric_jax.data.sources import digits
        >>> train, test = by_class(digits(), test_fraction=0.5, seed=0)
        >>> len(set(train.labels)), len(set(test.labels)), set(train.labels) & set(test.labels)
        (5, 5, set())
    """
    generator = _generator(test_fraction, seed)
    return _by_classes(images, generator.permutation(np.unique(images.labels)), test_fraction)


def in_order(images: Images, *, test_fraction: float) -> tuple[Images, Images]:
    """The first classes by number for training, the last for testing, as CUB-200-2011 and Cars196 are parted.

    Args:
        images: The whole set.
        test_fraction: Which part of the classes is for testing, rounded to whole classes.

    Returns:
        (training set, test set).

    Raises:
        DataError: Either side would have fewer than two classes; a fraction out of range.

    Example:
        >>> from metric_jax.data.sources import digits
        >>> train, test = in_order(digits(), test_fraction=0.3)
        >>> sorted(set(test.labels.tolist()))
        [7, 8, 9]
    """
    _generator(test_fraction, 0)
    return _by_classes(images, np.unique(images.labels)[::-1], test_fraction)


def by_image(images: Images, *, test_fraction: float, seed: int) -> tuple[Images, Images]:
    """Training and test set of the same classes, without an image in common, and without parting a group of images.

    Groups are those of the column ``group``. Each in turn is for testing if that brings the test set nearer to its part
    of every class; where an image is a group of its own, that part is met.

    Args:
        images: The whole set.
        test_fraction: Which part of every class is for testing, rounded to whole images.
        seed: Chooses the images, or the groups.

    Returns:
        (training set, test set).

    Raises:
        DataError: A class would have fewer than two images on either side; a fraction or a seed out of range.

    Example:
        >>> from metric_jax.data.sources import digits
        >>> train, test = by_image(digits(), test_fraction=0.5, seed=0)
        >>> len(train), len(test)
        (899, 898)
    """
    generator = _generator(test_fraction, seed)
    classes, class_of, sizes = np.unique(images.labels, return_inverse=True, return_counts=True)
    if "group" in images.columns:
        testing = _whole_groups(images, test_fraction, generator)
    else:
        testing = np.zeros(len(images), bool)
        for members in _members(class_of, sizes):
            chosen = generator.permutation(members)
            testing[chosen[: round(test_fraction * len(chosen))]] = True
    counts = np.bincount(class_of[testing], minlength=len(classes))
    for label, size, count in zip(classes, sizes, counts, strict=True):
        if min(count, size - count) < 2:
            raise DataError(
                f"of the {size} images of class {images.class_name(label)}, data.test_fraction={test_fraction} leaves "
                f"{size - count} to train on and {count} to test on, and both need two: change it, set "
                f"data.min_images={_least(test_fraction)} to leave out smaller classes, or data.split='class'"
            )
    return images[~testing], images[testing]


def by_column(images: Images, train: str, test: str) -> tuple[Images, Images]:
    """Training and test set as the images' column ``split`` says; those that it calls otherwise are in neither.

    Args:
        images: The whole set.
        train: What the split to train on is called.
        test: What the one to test on is called.

    Returns:
        (training set, test set).

    Raises:
        DataError: There is no such column, or no such split in it.

    Example:
        >>> splits = np.array(["train", "test", "val"])
        >>> images = Images(np.zeros((3, 8, 8, 1), np.uint8), np.zeros(3, np.int32), columns={"split": splits})
        >>> [part.ids.tolist() for part in by_column(images, "train", "test")]
        [['0'], ['1']]
    """
    if "split" not in images.columns:
        raise DataError(
            "data.split='own' needs a manifest with a column 'split': set data.root to one, or data.split to 'image' "
            "or 'class'"
        )
    split = images.columns["split"]
    for key, name in {"data.train_split": train, "data.test_split": test}.items():
        if name not in split:
            raise DataError(unknown(key, name, np.unique(split).tolist()))
    return images[split == train], images[split == test]


def renumbered(images: Images) -> Images:
    """The images with classes numbered 0, 1, ... without a gap, in their order, and called what they were called.

    Example:
        >>> found = renumbered(Images(np.zeros((3, 8, 8, 1), np.uint8), np.array([4, 7, 4], np.int32)))
        >>> found.labels.tolist(), found.class_names
        ([0, 1, 0], ('4', '7'))
    """
    classes, labels = np.unique(images.labels, return_inverse=True)
    names = tuple(map(images.class_name, classes.tolist()))
    return dataclasses.replace(images, labels=labels.astype(np.int32), class_names=names)


def _generator(test_fraction: float, seed: int) -> np.random.Generator:
    """What draws a split; raises a DataError for a fraction or a seed out of range."""
    if not 0 < test_fraction < 1:
        raise DataError(f"data.test_fraction must lie between 0 and 1, got {test_fraction}")
    if seed < 0:
        raise DataError(f"data.split_seed must not be negative, got {seed}")
    return np.random.default_rng(seed)


def _by_classes(images: Images, classes: np.ndarray, test_fraction: float) -> tuple[Images, Images]:
    """Training and test set, to the latter that part of these classes, from the first on."""
    total = len(classes)
    count = round(test_fraction * total)
    if min(count, total - count) < 2:
        raise DataError(
            f"of {total} {'class' if total == 1 else 'classes'}, data.test_fraction={test_fraction} leaves "
            f"{total - count} to train on and {count} to test on: both need two"
        )
    testing = np.isin(images.labels, classes[:count])
    return images[~testing], images[testing]


def _members(part_of: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """The numbers of the images of part 0, 1, ..., each in their order."""
    return np.split(np.argsort(part_of, kind="stable"), np.cumsum(sizes)[:-1])


def _least(test_fraction: float) -> int:
    """The images of the smallest class of which both sides get two."""
    # Of fewer, a side's part rounds to one.
    first = max(4, int(1.5 / min(test_fraction, 1 - test_fraction)))
    return next(n for n in itertools.count(first) if 2 <= round(test_fraction * n) <= n - 2)


def _whole_groups(images: Images, test_fraction: float, generator: np.random.Generator) -> np.ndarray:
    """Which images are for testing, ``[n]``, so that no group is parted."""
    _, labels, sizes = np.unique(images.labels, return_inverse=True, return_counts=True)
    missing = np.round(test_fraction * sizes)  # images of every class that are still to be chosen
    names, group_of, group_sizes = np.unique(images.columns["group"], return_inverse=True, return_counts=True)
    members = _members(group_of, group_sizes)
    testing = np.zeros(len(images), bool)
    for group in generator.permutation(len(names)):
        touched, counts = np.unique(labels[members[group]], return_counts=True)
        if np.abs(missing[touched] - counts).sum() < np.abs(missing[touched]).sum():
            testing[members[group]] = True
            missing[touched] -= counts
    return testing
