"""Training and test sets: unseen classes, or unseen images of the same classes.

Metric learning is judged on classes that training never saw, for then the embedding has to have learnt what makes
things alike in general. Unseen images of known classes are the easier question of a classifier.
"""

import numpy as np

from metric_jax.data.errors import DataError
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
    classes = generator.permutation(np.unique(images.labels))
    count = round(test_fraction * len(classes))
    if min(count, len(classes) - count) < 2:
        raise DataError(
            f"of {len(classes)} classes, data.test_fraction={test_fraction} leaves {len(classes) - count} to train on "
            f"and {count} to test on: both need two"
        )
    testing = np.isin(images.labels, classes[:count])
    return images[~testing], images[testing]


def by_image(images: Images, *, test_fraction: float, seed: int) -> tuple[Images, Images]:
    """Training and test set of the same classes, without an image in common.

    Args:
        images: The whole set.
        test_fraction: Which part of every class is for testing, rounded to whole images.
        seed: Chooses the images.

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
    testing = np.zeros(len(images), bool)
    for label in np.unique(images.labels):
        members = generator.permutation(np.flatnonzero(images.labels == label))
        count = round(test_fraction * len(members))
        if min(count, len(members) - count) < 2:
            raise DataError(
                f"of the {len(members)} images of class {images.class_name(label)}, "
                f"data.test_fraction={test_fraction} leaves "
                f"{len(members) - count} to train on and {count} to test on, and both need two: change it, or set "
                "data.split='class'"
            )
        testing[members[:count]] = True
    return images[~testing], images[testing]


def _generator(test_fraction: float, seed: int) -> np.random.Generator:
    """What draws a split; raises a DataError for a fraction or a seed out of range."""
    if not 0 < test_fraction < 1:
        raise DataError(f"data.test_fraction must lie between 0 and 1, got {test_fraction}")
    if seed < 0:
        raise DataError(f"data.split_seed must not be negative, got {seed}")
    return np.random.default_rng(seed)
