"""How far a measured number can be trusted: confidence intervals of means and of proportions.

Queries of one class are not independent: an easy class is easy for all of them. Resampling queries one by one takes
them for more evidence than they are, and gives too narrow an interval; so `bootstrap` resamples whole groups. Against
few groups it does not help: under about 20 of them a percentile interval is still too narrow, and what one would need
is more classes.
"""

import math
import statistics
from typing import Any

import numpy as np

from metric_jax.evaluation import checks

WEIGHTS_AT_A_TIME = 2**20  # 8 MB


def bootstrap(
    values: Any, groups: Any = None, *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[Any, Any, Any]:
    """The mean of values, and its percentile bootstrap interval, for each metric.

    A resample draws as many groups as there are, with replacement, and averages all of their values::

        mean*  =  Σ_g w_g Σ_{i in g} v_i  /  Σ_g w_g n_g        w ~ Multinomial(groups; 1/groups, ...)

    and the interval goes from the (1 - level)/2 quantile of mean* to the (1 + level)/2 quantile. All metrics see the
    same resamples.

    Args:
        values: ``[n]`` or ``[n, metrics]``; NaN is left out: of the mean, and of every resample. So is a group that has
            no value at all.
        groups: ``[n]`` labels, integers or strings: values of one group are drawn together. None: every value is a
            group of its own, which is right only if they are independent.
        resamples: How many means are drawn, at least 20.
        level: The confidence, in (0, 1).
        seed: Draws the resamples.

    Returns:
        (mean, low, high), floats for ``[n]``, each ``[metrics]`` for ``[n, metrics]``.

    Raises:
        TypeError: Values that are not numbers.
        ValueError: Infinite values, lengths that differ, fewer than two groups with a value (of which there is no
            interval), a level, a seed or a number of resamples out of range.

    Example:
        >>> mean, low, high = bootstrap([1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
        >>> mean, low, high
        (0.625, 0.25, 0.875)

        The same values, now of four classes, three of which are all right or all wrong:

        >>> bootstrap([1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b", "c", "c", "d", "d"])
        (0.625, 0.25, 1.0)

    References:
        Efron (1979), Bootstrap Methods: Another Look at the Jackknife. https://doi.org/10.1214/aos/1176344552
        Field, Welsh (2007), Bootstrapping Clustered Data. https://doi.org/10.1111/j.1467-9868.2007.00593.x
    """
    table = checks.numbers(values, "values")
    if table.ndim not in (1, 2) or table.size == 0:
        raise ValueError(
            f"values must be [n] or [n, metrics], and there must be some, got shape {list(table.shape)}"
        )
    resamples = checks.count(resamples, "resamples", least=20)
    check_level(level)
    checks.count(seed, "seed", least=0)
    one_metric = table.ndim == 1
    table = table.reshape(len(table), -1)
    infinite = np.flatnonzero(np.isinf(table).any(axis=1))
    if infinite.size:
        raise ValueError(f"values hold infinity in row {infinite[0]} ({infinite.size} rows in all)")
    sums, sizes = _of_groups(table, groups)
    if (sizes > 0).sum(axis=0).min() < 2:
        raise ValueError(
            "an interval needs values of at least two groups, for each metric: only the spread between groups tells "
            "how much another group would change"
        )
    means = _resampled_means(sums, sizes, resamples, np.random.default_rng(seed))
    mean = sums.sum(axis=0) / sizes.sum(axis=0)
    # nan: a resample may hold none of the few groups that have a value for a metric
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    if one_metric:
        return float(mean[0]), float(low[0]), float(high[0])
    return mean, low, high


def proportion(successes: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a proportion: honest at 0 and 1 too, where ``p ± z √(p (1 - p) / n)`` has no width.

    ::

        (k + z²/2  ±  z √(k (n - k) / n + z²/4)) / (n + z²)         k successes of n, z the normal quantile of the level

    Args:
        successes: How many trials succeeded.
        trials: How many there were, at least 1. They count as independent.
        level: The confidence, in (0, 1).

    Returns:
        (low, high), in [0, 1].

    Raises:
        ValueError: No trials, more successes than trials, or a level out of range.

    Example:
        >>> low, high = proportion(10, 10)
        >>> round(low, 3), high
        (0.722, 1.0)

    References:
        Wilson (1927), Probable Inference, the Law of Succession, and Statistical Inference.
        https://doi.org/10.1080/01621459.1927.10502953
    """
    trials = checks.count(trials, "trials")
    successes = checks.count(successes, "successes", least=0)
    if successes > trials:
        raise ValueError(f"{successes} successes cannot come from {trials} trials")
    z = normal_quantile(level)
    middle = successes + z * z / 2
    half = z * math.sqrt(successes * (trials - successes) / trials + z * z / 4)
    low = 0.0 if successes == 0 else (middle - half) / (trials + z * z)
    high = 1.0 if successes == trials else (middle + half) / (trials + z * z)
    return low, high


def normal_quantile(level: float) -> float:
    """The z for which a normal variable lies within ±z standard deviations with probability ``level``.

    Example:
        >>> round(normal_quantile(0.95), 2)
        1.96
    """
    check_level(level)
    return statistics.NormalDist().inv_cdf((1 + level) / 2)


def _of_groups(table: np.ndarray, groups: Any) -> tuple[np.ndarray, np.ndarray]:
    """The sum and the number of values of each group that has any: two arrays ``[groups, metrics]``."""
    there = ~np.isnan(table)
    counts = there.any(axis=1)
    values, sizes = np.where(there, table, 0.0)[counts], there[counts].astype(np.float64)
    if groups is None:
        return values, sizes
    labels = np.asarray(groups)
    checks.check_length(labels, "groups", len(table), "values")
    which = np.unique(labels[counts], return_inverse=True)[1]

    def totals(columns: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(which, column) for column in columns.T], axis=1)

    return totals(values), totals(sizes)


def _resampled_means(
    sums: np.ndarray, sizes: np.ndarray, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """The means ``[resamples, metrics]``, NaN where a resample has no value for a metric."""
    groups = len(sums)
    step = max(1, WEIGHTS_AT_A_TIME // groups)
    parts = []
    for start in range(0, resamples, step):
        drawn = generator.integers(groups, size=(min(step, resamples - start), groups))
        weights = np.stack([np.bincount(row, minlength=groups) for row in drawn]).astype(np.float64)
        with np.errstate(invalid="ignore"):
            parts.append((weights @ sums) / (weights @ sizes))
    return np.concatenate(parts)


def check_level(level: Any) -> None:
    """Raises a ValueError unless the level is a share that an interval can be made for."""
    if isinstance(level, bool) or not isinstance(level, int | float | np.number) or not 0 < level < 1:
        raise ValueError(f"level must be a number between 0 and 1, such as 0.95, got {level!r}")
