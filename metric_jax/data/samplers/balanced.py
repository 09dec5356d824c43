"""P classes and K images of each, every one of them equally often."""

import math

import numpy as np

from metric_jax.data.samplers.pk import PKSampler


class ClassBalancedSampler(PKSampler):
    """Batches of P classes with K images each, dealt like cards: none comes again before all have come.

    So of C classes each is in as many of the first i batches as any other, or in one more; and so are the images of a
    class, each in as many of its batches. Which classes go together changes from deal to deal.

    Example:
        >>> labels = np.repeat(np.arange(6), 4)
        >>> sampler = ClassBalancedSampler(labels, classes=2, samples=2, seed=0)
        >>> sorted(int(label) for batch in range(3) for label in labels[sampler(batch)][::2])
        [0, 1, 2, 3, 4, 5]
    """

    def __call__(self, batch: int) -> np.ndarray:
        """The ``[P K]`` indices of a batch's images, class by class."""
        total = len(self._counts)
        chosen = _deal(total, self.classes, batch, seed=(self._seed, 1))
        # How often each was dealt before: all classes come once before any comes again.
        turns = (batch * self.classes + np.arange(self.classes)) // total
        within = [
            _deal(self._counts[c], self.samples, int(turn), seed=(self._seed, 2 + int(c)))
            for c, turn in zip(chosen, turns, strict=True)
        ]
        return self._indices(chosen, np.stack(within))


def _deal(total: int, take: int, turn: int, *, seed: tuple[int, int]) -> np.ndarray:
    """Turn's ``[take]`` different numbers below ``total``, from a pack that is shuffled when a turn ends with it."""
    shuffled, within = divmod(turn, total // math.gcd(total, take))
    pack = np.random.default_rng((*seed, shuffled)).permutation(total)
    return pack[(within * take + np.arange(take)) % total]
