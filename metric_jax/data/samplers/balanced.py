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
    """Turn's ``[take]`` different numbers below ``total``, from one pack after the other."""
    number, start = divmod(turn * take, total)
    dealt = _pack(number, total, take, seed)[start : start + take]
    if len(dealt) == take:
        return dealt
    return np.concatenate([dealt, _pack(number + 1, total, take, seed)[: take - len(dealt)]])


def _pack(number: int, total: int, take: int, seed: tuple[int, int]) -> np.ndarray:
    """The numbers below ``total``, shuffled so that no turn that two packs share gets one of them from both.

    To that end those that the last turn of the pack before began with go behind the other ones of the first ``take``,
    which leaves the end of the pack as it is. A pack of less than two turns has no such end: it comes again in the
    same order, until a turn ends with it.
    """
    again = 1 if total >= 2 * take else take // math.gcd(total, take)

    def shuffled(number: int) -> np.ndarray:
        return np.random.default_rng((*seed, number // again)).permutation(total)

    pack = shuffled(number)
    before = number * total % take  # of a turn that began with the pack before
    if before and again == 1:
        first = pack[:take]
        is_old = np.isin(first, shuffled(number - 1)[-before:])
        pack[:take] = first[np.argsort(is_old, kind="stable")]
    return pack
