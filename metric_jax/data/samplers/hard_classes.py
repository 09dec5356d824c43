"""P classes that lie close together, K images of each."""

import copy
from collections.abc import Sequence
from typing import Self

import numpy as np

from metric_jax.data.errors import DataError
from metric_jax.data.samplers.pk import PKSampler


class HardClassSampler(PKSampler):
    """Batches of classes that the model takes for each other: with each class at random its n nearest.

    Where a class lies, its centre, the model must say: `with_centres`. Until then it is any P classes at random.

    Example:
        >>> labels = np.repeat(np.arange(6), 2)
        >>> sampler = HardClassSampler(labels, neighbours=1, classes=2, samples=2, seed=0)
        >>> centres = np.array([[0.0], [10.0], [20.0], [20.1], [10.1], [0.1]])
        >>> [sorted(set(labels[sampler.with_centres(centres)(batch)].tolist())) for batch in range(3)]
        [[2, 3], [1, 4], [0, 5]]

    References:
        Sohn (2016), Improved Deep Metric Learning with Multi-class N-pair Loss Objective (hard negative class mining).
        https://papers.nips.cc/paper/6200
        Suh, Han, Kim, Lee (2019), Stochastic Class-based Hard Example Mining for Deep Metric Learning, CVPR.
    """

    def __init__(
        self,
        labels: np.ndarray,
        *,
        neighbours: int,
        classes: int,
        samples: int,
        seed: int,
        origins: np.ndarray | None = None,
        class_names: Sequence[str] = (),
    ):
        """Checks that every class can fill its place.

        Args:
            labels: ``[n]``, the class of every image.
            neighbours: n, how many of its nearest classes come with a class.
            classes: P, how many classes make a batch.
            samples: K, how many images of each.
            seed: Together with the number of the batch and the centres, all that its choice depends on.
            origins: ``[n]``, of what each image's class was made, as by turning it, which changes nothing of what is
                symmetric: classes of one origin come together only where no others are left. None: each its own.
            class_names: What class 0, 1, ... is called, for the errors.

        Raises:
            DataError: As of `PKSampler`; 1 + n that does not divide P; origins that are not ``[n]``.
        """
        super().__init__(labels, classes=classes, samples=samples, seed=seed, class_names=class_names)
        if neighbours < 1 or classes % (1 + neighbours):
            raise DataError(
                f"batch.neighbours={neighbours} must be at least 1, and a class with its neighbours, "
                f"{1 + neighbours}, must divide batch.classes={classes}"
            )
        self._neighbours = neighbours
        if origins is not None and origins.shape != labels.shape:
            raise DataError(
                f"origins must be [{len(labels)}], one for every image, got {list(origins.shape)}"
            )
        of_images = labels if origins is None else origins
        self._origins = np.unique(of_images[self._order[self._starts]], return_inverse=True)[1]
        self._centres: np.ndarray | None = None
        self._squares = np.zeros(0)  # of the centres' lengths

    def with_centres(self, centres: np.ndarray) -> Self:
        """The sampler with classes where these centres are, ``[C, dim]``, by the classes' order; see `class_centres`.

        Centres that are all 0 are of no embedding, and say nothing.

        Raises:
            DataError: Not one centre for each class, or one that is not finite.
        """
        if centres.ndim != 2 or len(centres) != len(self._counts) or not np.isfinite(centres).all():
            raise DataError(
                f"centres must be finite and [{len(self._counts)} classes, dim], got {list(centres.shape)}"
            )
        other, wide = copy.copy(self), centres.astype(np.float64)
        other._centres = wide if wide.any() else None
        other._squares = np.square(wide).sum(axis=1)
        return other

    def _choose(self, rng: np.random.Generator) -> np.ndarray:
        if self._centres is None:
            return super()._choose(rng)
        # Of the first P drawn, enough are left until the batch is full: one product has the distances of them all.
        drawn = self._apart_first(rng.permutation(len(self._counts)))[: self.classes]
        # Squared, less what all share.
        distances = self._squares - 2 * (self._centres[drawn] @ self._centres.T)
        free = np.ones(len(self._counts), bool)
        apart = free.copy()  # of an origin of which the batch has no class yet
        chosen: list[int] = []

        def take(one: int) -> None:
            chosen.append(one)
            free[one] = False
            apart[self._origins == self._origins[one]] = False

        for left in (apart, free):
            for one, to_others in zip(drawn.tolist(), distances, strict=True):
                if left[one] and len(chosen) < self.classes:
                    take(one)
                    for _ in range(self._neighbours):
                        to_others[~apart] = np.finfo(np.float64).max
                        to_others[~free] = np.inf
                        take(int(np.argmin(to_others)))
        return np.array(chosen)

    def _apart_first(self, classes: np.ndarray) -> np.ndarray:
        """These classes, those before which none of their origin comes in front of the others."""
        is_later = np.ones(len(classes), bool)
        is_later[np.unique(self._origins[classes], return_index=True)[1]] = False
        return classes[np.argsort(is_later, kind="stable")]


def class_centres(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean embedding of every class, in the order of the classes' numbers.

    Args:
        embeddings: ``[n, dim]``.
        labels: ``[n]`` integers.

    Returns:
        ``[C, dim]`` float32, summed in float64.

    Example:
        >>> class_centres(np.array([[0.0], [2.0], [5.0]]), np.array([4, 4, 1])).ravel().tolist()
        [5.0, 1.0]
    """
    order = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    sums = np.add.reduceat(embeddings[order].astype(np.float64), starts, axis=0)
    return (sums / counts[:, None]).astype(np.float32)
