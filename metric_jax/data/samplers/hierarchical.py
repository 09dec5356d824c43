"""P classes of few super-classes, K images of each."""

from collections.abc import Sequence

import numpy as np

from metric_jax.data.errors import DataError
from metric_jax.data.samplers.pk import PKSampler


class HierarchicalSampler(PKSampler):
    """Batches of S super-classes, P / S classes of each, K images of every class.

    Example:
        >>> labels, supers = np.repeat(np.arange(6), 2), np.repeat(["bird", "car"], 6)
        >>> sampler = HierarchicalSampler(labels, supers, super_classes=1, classes=2, samples=2, seed=0)
        >>> [len(set(supers[sampler(batch)])) for batch in range(4)]
        [1, 1, 1, 1]
    """

    def __init__(
        self,
        labels: np.ndarray,
        supers: np.ndarray,
        *,
        super_classes: int,
        classes: int,
        samples: int,
        seed: int,
        class_names: Sequence[str] = (),
    ):
        """Checks that every super-class can fill its place.

        Args:
            labels: ``[n]``, the class of every image.
            supers: ``[n]``, the super-class of every image, the same for all images of a class.
            super_classes: S, how many of these make a batch.
            classes: P, how many classes make a batch.
            samples: K, how many images of each.
            seed: Together with the number of the batch, all that its choice depends on.
            class_names: What class 0, 1, ... is called, for the errors.

        Raises:
            DataError: As of `PKSampler`; S that does not divide P; too few super-classes, or classes of one; a class
                of two super-classes.
        """
        super().__init__(labels, classes=classes, samples=samples, seed=seed, class_names=class_names)
        if super_classes < 1 or classes % super_classes:
            raise DataError(
                f"batch.super_classes={super_classes} must be at least 1 and divide batch.classes={classes}"
            )
        firsts = self._order[self._starts]
        of_class = np.repeat(supers[firsts], self._counts)
        odd = np.flatnonzero(supers[self._order] != of_class)
        if odd.size:
            label = labels[self._order[odd[0]]]
            raise DataError(
                f"class {class_names[label] if class_names else label} is of two super-classes, {of_class[odd[0]]} and "
                f"{supers[self._order[odd[0]]]}: a class must be of one"
            )
        names, numbers = np.unique(supers[firsts], return_inverse=True)
        self._members = [np.flatnonzero(numbers == number) for number in range(len(names))]
        self._each = classes // super_classes
        if super_classes > len(names):
            raise DataError(
                f"batch.super_classes={super_classes}, but there are {len(names)}: lower batch.super_classes"
            )
        smallest = min(range(len(names)), key=lambda number: len(self._members[number]))
        if len(self._members[smallest]) < self._each:
            raise DataError(
                f"super-class {names[smallest]} has {len(self._members[smallest])} classes, and a batch takes "
                f"{self._each}, batch.classes={classes} of batch.super_classes={super_classes}: change either"
            )
        self._super_classes = super_classes

    def _choose(self, rng: np.random.Generator) -> np.ndarray:
        drawn = rng.choice(len(self._members), self._super_classes, replace=False)
        return np.concatenate([rng.choice(self._members[s], self._each, replace=False) for s in drawn])
