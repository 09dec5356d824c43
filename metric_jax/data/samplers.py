"""Which images make a batch: P classes, K images of each.

A batch drawn from all images at random would hold few positive pairs, or none. So a batch is P classes drawn at random
and K images of each, which gives every anchor K - 1 positives and (P - 1) K negatives to mine among.

A sampler is a pure function from the number of a batch to the indices of its images. Nothing is remembered from one
batch to the next: the stream can be entered anywhere, and a run resumed at batch i sees what it would have seen.
"""

import numpy as np

from metric_jax.data.errors import DataError


class PKSampler:
    """Batches of P classes with K images each, every class and every image at most once in a batch.

    Example:
        >>> sampler = PKSampler(np.array([7, 7, 8, 8, 8, 9, 9]), classes=2, samples=2, seed=0)
        >>> len(sampler(0)), bool((sampler(5) == sampler(5)).all())
        (4, True)

    References:
        Hermans, Beyer, Leibe (2017), In Defense of the Triplet Loss for Person Re-Identification.
        https://arxiv.org/abs/1703.07737
    """

    def __init__(self, labels: np.ndarray, *, classes: int, samples: int, seed: int):
        """Checks that every class can fill its place.

        Args:
            labels: ``[n]``, the class of every image.
            classes: P, how many classes make a batch.
            samples: K, how many images of each.
            seed: Together with the number of the batch, all that its choice depends on.

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
            raise DataError(
                f"batch.samples={samples}, but class {values[fewest]} has {counts[fewest]} training images: lower "
                "batch.samples, or leave such classes out"
            )
        # The images of one class after the other, and where each class begins.
        self._order = np.argsort(labels, kind="stable")
        self._starts, self._counts = np.cumsum(counts) - counts, counts
        self._classes, self._samples, self._seed = classes, samples, seed

    def __call__(self, batch: int) -> np.ndarray:
        """The ``[P K]`` indices of a batch's images, class by class."""
        rng = np.random.default_rng((self._seed, batch))
        chosen = rng.choice(len(self._counts), self._classes, replace=False)
        within = [rng.choice(self._counts[c], self._samples, replace=False) for c in chosen]
        return self._order[(self._starts[chosen, None] + np.stack(within)).ravel()]
