"""P classes at random, K images of each; what all samplers share."""

from collections.abc import Callable, Sequence

import numpy as np

from metric_jax.data.errors import DataError


class PKSampler:
    """Batches of P classes with K images each, every class and every image at most once in a batch.

    Attributes:
        classes: P.
        samples: K.

    Example:
        >>> sampler = PKSampler(np.array([7, 7, 8, 8, 8, 9, 9]), classes=2, samples=2, seed=0)
        >>> len(sampler(0)), bool((sampler(5) == sampler(5)).all())
        (4, True)

    References:
        Hermans, Beyer, Leibe (2017), In Defense of the Triplet Loss for Person Re-Identification.
        https://arxiv.org/abs/1703.07737
    """

    def __init__(
        self, labels: np.ndarray, *, classes: int, samples: int, seed: int, class_names: Sequence[str] = ()
    ):
        """Checks that every class can fill its place.

        Args:
            labels: ``[n]``, the class of every image.
            classes: P, how many classes make a batch.
            samples: K, how many images of each.
            seed: Together with the number of the batch, all that its choice depends on.
            class_names: What class 0, 1, ... is called, for the errors; empty if they have only their numbers.

        Raises:
            DataError: There are too few classes, or too few images of one; P or K below 2; labels that are not ``[n]``
                integers; a negative seed.
        """
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise DataError(f"labels must be [n] integers, got {list(labels.shape)} {labels.dtype}")
        if not len(labels):
            raise DataError("there are no training images")
        if seed < 0:
            raise DataError(f"seed must not be negative, got {seed}")
        values, counts = np.unique(labels, return_counts=True)
        if classes < 2 or samples < 2:
            raise DataError(
                f"batch.classes={classes} and batch.samples={samples} must both be at least 2: an anchor needs a "
                "positive and a negative"
            )
        if len(values) < 2:
            raise DataError(
                f"all {len(labels)} training images are of one class: without a second there are no negatives"
            )
        if classes > len(values):
            raise DataError(
                f"batch.classes={classes}, but the training set has {len(values)} classes: lower batch.classes"
            )
        if samples > counts.min():
            fewest = counts.argmin()
            name = class_names[values[fewest]] if class_names else values[fewest]
            raise DataError(
                f"batch.samples={samples}, but class {name} has {counts[fewest]} training images: lower batch.samples, "
                f"or leave such classes out with data.min_images={samples}, and more with data.split='image', which "
                "counts the images to test on too"
            )
        # The images of one class after the other, and where each class begins.
        self._order = np.argsort(labels, kind="stable")
        self._starts, self._counts = np.cumsum(counts) - counts, counts
        self.classes, self.samples, self._seed = classes, samples, seed

    def __call__(self, batch: int) -> np.ndarray:
        """The ``[P K]`` indices of a batch's images, class by class."""
        rng = np.random.default_rng((self._seed, batch))
        chosen = self._choose(rng)
        within = [rng.choice(self._counts[c], self.samples, replace=False) for c in chosen]
        return self._indices(chosen, np.stack(within))

    def _choose(self, rng: np.random.Generator) -> np.ndarray:
        """The ``[P]`` classes of a batch, as positions among the classes that there are."""
        return rng.choice(len(self._counts), self.classes, replace=False)

    def _indices(self, chosen: np.ndarray, within: np.ndarray) -> np.ndarray:
        """The images of these classes, ``[P]``, with these numbers within each, ``[P, K]``."""
        return self._order[(self._starts[chosen, None] + within).ravel()]


def shard(sampler: PKSampler, *, index: int, count: int) -> Callable[[int], np.ndarray]:
    """The part of every batch that one of several hosts feeds: whole classes, which no other host has in that batch.

    All parts, one after the other, are the sampler's own batch.

    Args:
        sampler: The sampler, the same on all hosts.
        index: Which host this is, from 0.
        count: How many there are.

    Raises:
        DataError: The hosts do not divide P; there is no such host.

    Example:
        >>> sampler = PKSampler(np.repeat(np.arange(6), 2), classes=4, samples=2, seed=0)
        >>> parts = [shard(sampler, index=index, count=2) for index in (0, 1)]
        >>> bool((np.concatenate([part(3) for part in parts]) == sampler(3)).all())
        True
    """
    if not 0 <= index < count:
        raise DataError(f"there is no host {index} of {count}")
    if sampler.classes % count:
        raise DataError(
            f"batch.classes={sampler.classes} cannot be parted among {count} hosts: choose a multiple of {count}"
        )
    return lambda batch: sampler(batch).reshape(count, -1)[index]
