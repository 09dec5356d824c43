"""The pairs that verification is measured on: which there are, and how far apart."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from metric_jax import types
from metric_jax.distances import Distance, center, check_measure, euclidean
from metric_jax.evaluation import checks
from metric_jax.evaluation.neighbours import nearest

MOST_PAIRS = 1_000_000  # of either kind to measure on: more take long, and make intervals hardly narrower
STRANGERS = 10  # how many of a cohort a pair's distance is relative to, if nothing else is said
NUMBERS_AT_A_TIME = 2**22  # 16 MB of float32


class Compared(NamedTuple):
    """Pairs of the items of a set, and how far apart these are; each ``[pairs]``.

    Attributes:
        first: An index.
        second: A larger one.
        is_same: Whether they are of one class.
        distances: Of their embeddings.
    """

    first: np.ndarray
    second: np.ndarray
    is_same: np.ndarray
    distances: np.ndarray


def all_pairs(
    labels: types.Labels | np.ndarray, *, limit: int | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of items, or, of each kind, as many as ``limit``, every pair equally likely.

    With a limit it takes O(items + limit) memory, however many pairs there are.

    Args:
        labels: ``[items]`` integers.
        limit: The largest number of genuine pairs, and of impostors. None: all ``items * (items - 1) / 2`` pairs.
        seed: Draws the pairs.

    Returns:
        (first, second, is_same), each ``[pairs]``: two indices, first < second, in ascending order, and whether their
        labels are equal.

    Raises:
        TypeError: Labels that are not integers.
        ValueError: Labels that are not a vector; only one class, or no class with two items; a limit or a seed out of
            range.

    Example:
        >>> first, second, is_same = all_pairs([7, 7, 8])
        >>> print(first, second, is_same)
        [0 0 1] [1 2 2] [ True False False]
        >>> first, second, is_same = all_pairs([7, 7, 7, 8, 8], limit=2)
        >>> print(is_same.sum(), (~is_same).sum())
        2 2
    """
    host = np.asarray(labels)
    host = checks.integers(host, "labels", host.size, "items")
    sizes = np.unique(host, return_counts=True)[1]
    if len(sizes) < 2 or sizes.max() < 2:
        raise ValueError(
            f"labels name {len(sizes)} classes for {len(host)} items: pairs of both kinds need two classes, and one "
            "with two items"
        )
    if limit is None:
        first, second = np.triu_indices(len(host), 1)
        return first, second, host[first] == host[second]
    limit = checks.count(limit, "limit")
    generator = np.random.default_rng(checks.count(seed, "seed", least=0))
    # Sorted by class, an item's genuine partners are those that follow in its class, and its impostors all behind that:
    # each pair once, and numbered without a list of them.
    order = np.argsort(host, kind="stable")
    end = np.repeat(np.cumsum(sizes), sizes)
    place = np.arange(len(host))
    genuine = _drawn(place + 1, end - place - 1, limit, generator)
    impostors = _drawn(end, len(host) - end, limit, generator)
    chosen = np.sort(order[np.concatenate([genuine, impostors], axis=1)], axis=0)
    is_same = np.arange(chosen.shape[1]) < genuine.shape[1]
    ascending = np.lexsort(chosen[::-1])
    return chosen[0][ascending], chosen[1][ascending], is_same[ascending]


def compare(
    embeddings: types.Embeddings | np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    distance: Distance = euclidean,
    cohort: types.References | np.ndarray | None = None,
) -> Compared:
    """The pairs that `all_pairs` found, compared by some embeddings: drawn once, they serve many.

    Args:
        embeddings: ``[items, dim]``, floating, finite.
        pairs: What `all_pairs` gave.
        distance: The distance between embeddings.
        cohort: If it is given, that of `relative_distances`, by which they are compared then.

    Raises:
        TypeError: As of `pair_distances` and `relative_distances`.
        ValueError: Likewise.

    Example:
        >>> import numpy as np
        >>> compare(np.array([[0.0], [1.0], [3.0]]), all_pairs([7, 7, 8])).distances.tolist()
        [1.0, 3.0, 2.0]
    """
    first, second, _ = pairs
    if cohort is None:
        return Compared(*pairs, pair_distances(embeddings, first, second, distance=distance))
    return Compared(*pairs, relative_distances(embeddings, cohort, first, second, distance=distance))


def pair_distances(
    embeddings: types.Embeddings | np.ndarray, first: Any, second: Any, *, distance: Distance = euclidean
) -> np.ndarray:
    """The distance of each pair of rows, by difference: exact for near duplicates, 0 for equal rows.

    Args:
        embeddings: ``[items, dim]``, floating, finite.
        first: ``[pairs]`` indices of rows.
        second: ``[pairs]`` indices of rows.
        distance: The distance between embeddings.

    Returns:
        ``[pairs]`` in float64, computed in float32 at least, a few thousand pairs at a time.

    Raises:
        TypeError: Embeddings that are not floating, indices that are not integers, no distance.
        ValueError: Rows that hold NaN or infinity or are too large to compare, lengths that differ, an index of a row
            that does not exist.

    Example:
        >>> import numpy as np
        >>> print(pair_distances(np.array([[0.0, 0.0], [3.0, 4.0]]), [0, 0], [0, 1]))
        [0. 5.]
    """
    check_measure(distance, "distance")
    rows = checks.finite_rows(embeddings, "embeddings")
    checks.comparable(rows, "embeddings", distance)
    first = np.asarray(first)
    first = checks.indices(first, "first", first.size, "pairs")
    second = checks.indices(second, "second", len(first), "pairs of first")
    for name, indices in (("first", first), ("second", second)):
        bad = np.flatnonzero((indices < 0) | (indices >= len(rows)))
        if bad.size:
            raise ValueError(
                f"{name} holds {indices[bad[0]]} at pair {bad[0]}, and there are only {len(rows)} rows to index"
            )
    indices = np.stack([first, second]).astype(np.int32)
    return np.asarray(_between(rows, *indices, distance), np.float64)


def relative_distances(
    embeddings: types.Embeddings | np.ndarray,
    cohort: types.References | np.ndarray,
    first: Any,
    second: Any,
    *,
    k: int = STRANGERS,
    distance: Distance = euclidean,
) -> np.ndarray:
    """The distance of each pair of rows, less how far either lies from strangers.

    ``d(x, y) - (r(x) + r(y)) / 2``, where r(x) is the mean distance from x to the k nearest of a cohort: items of other
    classes than those that are compared, such as the training set.

    Some items lie close to everything, and would be taken for many (hubs); others, such as a face that looks away, lie
    far from all, from their own class too. One threshold on the bare distance is too loose for those and too strict for
    these. It is the adaptive normalisation of scores that speakers are verified with, less its standard deviations, and
    for cosines CSLS, but that there either set that is compared is the other's cohort.

    Args:
        embeddings: ``[items, dim]``, floating, finite.
        cohort: ``[strangers, dim]``, likewise; what is of a class of the cohort looks nearer to strangers than it is.
        first: ``[pairs]`` indices of rows.
        second: ``[pairs]`` indices of rows.
        k: How many of the cohort are nearest, at most all of it.
        distance: The distance between embeddings.

    Returns:
        ``[pairs]`` in float64, in units of the distance; below 0 where the two are closer than strangers are.

    Raises:
        TypeError: As of `pair_distances`; a cohort that is not floating.
        ValueError: As of `pair_distances`; a cohort that holds NaN or infinity, is too large to compare or has another
            dimension; k beyond it.

    Example:
        >>> import numpy as np
        >>> rows, cohort = np.array([[0.0], [1.0], [3.0]]), np.array([[5.0], [6.0]])
        >>> relative_distances(rows, cohort, [0, 0], [1, 2], k=1).tolist()
        [-3.5, -0.5]

    References:
        Matějka, Novotný, Plchot, Burget, Sánchez, Černocký (2017), Analysis of Score Normalization in Multilingual
        Speaker Recognition, Interspeech. https://doi.org/10.21437/Interspeech.2017-803
        Conneau, Lample, Ranzato, Denoyer, Jégou (2018), Word Translation Without Parallel Data.
        https://arxiv.org/abs/1710.04087
    """
    rows = checks.finite_rows(embeddings, "embeddings")
    strangers = checks.finite_rows(cohort, "cohort")
    if strangers.shape[1] != rows.shape[1]:
        raise ValueError(
            f"embeddings have dimension {rows.shape[1]} and those of the cohort {strangers.shape[1]}: they must agree"
        )
    if checks.count(k, "k") > len(strangers):
        raise ValueError(f"k must be at most the {len(strangers)} items of the cohort, got {k}")
    between = pair_distances(rows, first, second, distance=distance)
    checks.comparable(strangers, "cohort", distance, center(rows))
    _, to_cohort = nearest(rows, strangers, k=k, distance=distance)
    from_strangers = to_cohort.astype(np.float64).mean(axis=1)
    first, second = np.asarray(first, int), np.asarray(second, int)  # which an empty list would not be
    return between - (from_strangers[first] + from_strangers[second]) / 2


@functools.partial(jax.jit, static_argnames="distance")
def _between(rows: Array, first: Array, second: Array, distance: Distance) -> Array:
    at_a_time = max(1, NUMBERS_AT_A_TIME // max(1, rows.shape[1]))
    return jax.lax.map(
        lambda pair: distance(rows[pair[0]], rows[pair[1]]), (first, second), batch_size=at_a_time
    )


def _drawn(starts: np.ndarray, counts: np.ndarray, limit: int, generator: np.random.Generator) -> np.ndarray:
    """At most ``limit`` pairs ``[2, pairs]`` of places; place i pairs with ``counts[i]`` others, from ``starts[i]``."""
    ends = np.cumsum(counts)
    chosen = _distinct(int(ends[-1]), limit, generator)
    place = np.searchsorted(ends, chosen, side="right")
    return np.stack([place, starts[place] + chosen - (ends - counts)[place]])


def _distinct(total: int, limit: int, generator: np.random.Generator) -> np.ndarray:
    """At most ``limit`` distinct numbers below ``total``, each set of them equally likely."""
    if limit >= total:
        return np.arange(total)
    if limit > total // 2:  # easier to say which are left out
        return np.delete(np.arange(total), _distinct(total, total - limit, generator))
    chosen = np.zeros(0, np.int64)
    while len(chosen) < limit:
        more = generator.integers(total, size=limit - len(chosen))
        # Counts make NumPy sort, which takes a tenth of the time of the hashing that it does without.
        chosen, _ = np.unique(np.concatenate([chosen, more]), return_counts=True)
    return chosen
