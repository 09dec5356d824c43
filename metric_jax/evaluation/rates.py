"""Two error rates against each other: the numbers that sum up their curve, and how far each can be trusted.

All that n measured distances tell about the rates behind them is how much of the population lies in the n + 1 gaps that
they leave: if the pairs are independent, shares that are distributed as n + 1 exponential variables divided by their
sum. A resample draws these shares. Where in its gap a share lies nobody knows, so every resample is looked at twice:

    at worst    the impostors' shares lie at the lower ends of their gaps, the genuine pairs' at the upper ends
    at best     the other way round

which is to give every pair an exponential weight, and to add one more pair of either kind, nearer or farther than all
others. An interval goes from a low quantile of the worst to a high one of the best. For a rate at a given threshold it
is Clopper and Pearson's. For the TAR at an FAR every resample has a threshold of its own, so the interval is as wide as
it must be where few impostors say where the threshold lies; and where no error was seen it still has a width.

Pairs that share a subject are not independent, and to take them for that is the larger mistake. So where it is known
whose they are, a subject has an exponential weight, and a pair of two subjects the product of theirs.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 500  # which leave the ends uncertain by a sixteenth of the interval's half
POINTS = 4096  # of a curve, at most: straight lines between so many are exact enough
NUMBERS_AT_A_TIME = 2**20  # 8 MB

Draw = Callable[[np.random.Generator, int], np.ndarray]


class Roc(NamedTuple):
    """A point for each distinct distance, after a first one at which nothing is accepted; each array ``[points]``.

    Attributes:
        thresholds: Ascending; the first is -inf.
        far: Impostors accepted, of all impostors, from 0 to 1.
        tar: Genuine pairs accepted, of all genuine pairs, from 0 to 1.
    """

    thresholds: np.ndarray
    far: np.ndarray
    tar: np.ndarray

    @property
    def fnmr(self) -> np.ndarray:
        """Genuine pairs rejected; over ``far``, on the axes of normal quantiles, it is the DET curve."""
        return 1.0 - self.tar


# Of one curve, or of many at once: the rates are [..., points].


def area(curve: Roc) -> np.ndarray:
    """Under the lines that join the points: the AUC."""
    return np.trapezoid(curve.tar, curve.far, axis=-1)


def equal_error_rate(curve: Roc) -> np.ndarray:
    """Where the lines that join the points cross FAR = FNMR; their difference falls from 1 to -1."""
    return _where_it_ends(curve.fnmr - curve.far, curve.far)


def tar_at(curve: Roc, far: float) -> np.ndarray:
    """The TAR at an FAR, on the lines that join the points; where it jumps, the larger one."""
    return _where_it_ends(far - curve.far, curve.tar)


def _where_it_ends(falling: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values where a quantity that falls from above 0 gets below it, on the line from the last point before."""
    after = np.clip((falling >= 0).sum(axis=-1, keepdims=True), 1, falling.shape[-1] - 1)
    (high, low), (start, end) = (
        (np.take_along_axis(row, after - 1, axis=-1), np.take_along_axis(row, after, axis=-1))
        for row in (falling, values)
    )
    share = np.divide(high, high - low, out=np.ones_like(high), where=high > low)
    return (start + share * (end - start))[..., 0]


def bootstrap(
    distances: np.ndarray,
    is_same: np.ndarray,
    subjects: np.ndarray | None,
    numbers: Callable[[Roc], np.ndarray],
    *,
    kept: Sequence[float] = (),
    level: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Intervals of numbers that the curve determines, each the better, or each the worse, the higher it lies.

    Args:
        distances: ``[pairs]``, finite.
        is_same: ``[pairs]`` booleans, of both kinds.
        subjects: ``[pairs, 2]`` integers, who is on either side of a pair. None: all pairs are independent.
        numbers: From curves ``[resamples, points]`` to ``[numbers, resamples]``.
        kept: Measured distances that must be among the points of the curves, if there are too many for all.
        level: The confidence, in (0, 1).
        seed: Draws the resamples.

    Returns:
        (low, high), ``[numbers]`` each.

    References:
        Rubin (1981), The Bayesian Bootstrap. https://doi.org/10.1214/aos/1176345338
        Owen, Eckles (2012), Bootstrapping data arrays of arbitrary order. https://doi.org/10.1214/12-AOAS547
        Fogliato, Patil, Perona (2024), Confidence Intervals for Error Rates in 1:1 Matching Tasks.
        https://arxiv.org/abs/2306.01198
    """
    thresholds = _points(distances, is_same, kept)
    point = np.searchsorted(thresholds, distances)  # the first at which a pair is accepted
    if subjects is None:
        draw = _of_pairs(point, is_same, len(thresholds))
    else:
        draw = _of_subjects(point, is_same, subjects, len(thresholds))
    generator = np.random.default_rng(seed)
    at_a_time = max(1, NUMBERS_AT_A_TIME // len(thresholds))
    low, high = [], []
    for start in range(0, RESAMPLES, at_a_time):
        size = min(at_a_time, RESAMPLES - start)
        genuine, impostors = draw(generator, size)
        one_more = generator.standard_exponential((2, size, 1))
        found = [numbers(curve) for curve in _worst_and_best(thresholds, genuine, impostors, *one_more)]
        low.append(np.minimum(*found))
        high.append(np.maximum(*found))
    tail = (1 - level) / 2
    return (
        np.quantile(np.concatenate(low, axis=1), tail, axis=1),
        np.quantile(np.concatenate(high, axis=1), 1 - tail, axis=1),
    )


def _points(distances: np.ndarray, is_same: np.ndarray, kept: Sequence[float]) -> np.ndarray:
    """The distinct distances, or of very many a choice, as far apart as the rates at them are uncertain."""
    found = np.unique(distances)
    if len(found) <= POINTS:
        return found
    # Of n a share p is known to about √(p (1 - p) / n).
    shares = np.sin(np.linspace(0, np.pi / 2, POINTS // 2)) ** 2
    each = [np.quantile(distances[kind], shares, method="inverted_cdf") for kind in (is_same, ~is_same)]
    return np.unique(np.concatenate([*each, kept]))


def _of_pairs(point: np.ndarray, is_same: np.ndarray, points: int) -> Draw:
    """Draws the weights ``[2, resamples, points]`` of genuine pairs and impostors: so many exponentials are a gamma."""
    counts = np.stack([np.bincount(point[kind], minlength=points) for kind in (is_same, ~is_same)])

    def draw(generator: np.random.Generator, resamples: int) -> np.ndarray:
        return generator.standard_gamma(counts[:, None], size=(2, resamples, points))

    return draw


def _of_subjects(point: np.ndarray, is_same: np.ndarray, subjects: np.ndarray, points: int) -> Draw:
    """The same with a weight for each subject, which a pair of two multiplies."""
    names, who = np.unique(subjects, return_inverse=True)
    who = who.reshape(-1, 2)
    order = np.argsort(point, kind="stable")
    kinds = []
    for kind, sides in ((is_same, 1), (~is_same, 2)):
        chosen = order[kind[order]]
        reached, starts = np.unique(point[chosen], return_index=True)
        kinds.append((reached, starts, np.ascontiguousarray(who[chosen, :sides].T)))

    def draw(generator: np.random.Generator, resamples: int) -> np.ndarray:
        drawn = np.zeros((2, resamples, points))
        for resample in range(resamples):
            weights = generator.standard_exponential(len(names))
            for sums, (reached, starts, sides) in zip(drawn, kinds, strict=True):
                pairs = functools.reduce(np.multiply, (weights[side] for side in sides))
                sums[resample, reached] = np.add.reduceat(pairs, starts)
        return drawn

    return draw


def _worst_and_best(
    thresholds: np.ndarray,
    genuine: np.ndarray,
    impostors: np.ndarray,
    genuine_more: np.ndarray,
    impostors_more: np.ndarray,
) -> tuple[Roc, Roc]:
    """The curves ``[resamples, points]`` of such weights, with one more pair of either kind at either end."""
    edges = np.concatenate([[-np.inf, -np.inf], thresholds, [np.inf]])
    nothing = np.zeros_like(genuine_more)

    def rates(nearest: np.ndarray, weights: np.ndarray, farthest: np.ndarray) -> np.ndarray:
        sums = np.cumsum(np.concatenate([nothing, nearest, weights, farthest], axis=1), axis=1)
        return sums / sums[:, -1:]

    return (
        Roc(edges, rates(impostors_more, impostors, nothing), rates(nothing, genuine, genuine_more)),
        Roc(edges, rates(nothing, impostors, impostors_more), rates(genuine_more, genuine, nothing)),
    )
