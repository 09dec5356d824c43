"""Few-shot classification: a handful of images of classes never seen, and queries to sort into them.

An episode draws N classes ("ways") and, of each, K images to learn from ("shots", the support) and some queries. A
query goes to the class

    prototype:  whose mean support embedding is nearest        (Snell et al.; with one shot both are the same)
    nearest:    that has the nearest support embedding         (Vinyals et al.)

and it is right if that is its own class. A tie between its own class and another counts as wrong: a network that maps
everything to one point scores 0, and not what chance or the order of the classes would give it.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from metric_jax import types
from metric_jax.anchors import tile_size
from metric_jax.distances import Distance, as_rows, check_measure, check_same_dim, euclidean, normalize
from metric_jax.evaluation import checks, intervals

METHODS = ("prototype", "nearest")


def few_shot(
    embeddings: types.Embeddings | np.ndarray,
    labels: types.Labels | np.ndarray,
    *,
    ways: int,
    shots: int,
    episodes: int,
    key: Array,
    queries: int | None = None,
    method: str = "prototype",
    centred: bool = False,
    groups: types.Labels | np.ndarray | None = None,
    distance: Distance = euclidean,
    level: float = 0.95,
) -> dict[str, float]:
    """N-way K-shot accuracy: the mean over random episodes, each its share of queries that are sorted rightly.

    ::

        accuracy  ±  z sd / √episodes

    with the sample's sd of the episodes' accuracies, as papers report it: the interval of a mean over more episodes of
    these very classes, and not over other classes.

    Args:
        embeddings: ``[items, dim]``, floating, finite.
        labels: ``[items]`` integers.
        ways: How many classes an episode has, at least 2.
        shots: How many images of each class are its support.
        episodes: How many episodes are drawn, at least 2.
        key: A ``jax.random.key``, which draws them.
        queries: How many further images of each class are sorted. None: as many as the smallest class has left, or with
            groups, as any class has at least of any group.
        method: ``"prototype"`` or ``"nearest"``.
        centred: Whether the embeddings of an episode are `centred_on` its support.
        groups: ``[items]`` integers, such as who drew each or which camera took it: then all the support of an episode
            is of one group and all its queries are of another. Every class needs images of every group; both groups are
            drawn anew for every episode, and the interval is over these groups, as over these classes.
        distance: The distance between embeddings, taken by difference.
        level: The confidence of the interval, in (0, 1).

    Returns:
        ``accuracy``, ``accuracy_low``, ``accuracy_high`` and ``episodes``.

    Raises:
        TypeError: Embeddings that are not floating, labels or groups that are not integers, a key that is none.
        ValueError: Rows that hold NaN or infinity or are too large to compare, lengths that differ, fewer classes than
            ways, a class with too few images for shots and queries, or with too few of one group, a single group, a
            method that is unknown, several keys, a number out of range.

    Example:
        >>> import jax, numpy as np
        >>> import metric_jax as mj
        >>> labels = np.arange(12) // 4
        >>> embeddings = np.eye(3, dtype=np.float32)[labels]
        >>> mj.evaluation.few_shot(embeddings, labels, ways=2, shots=1, episodes=10, key=jax.random.key(0))
        {'accuracy': 1.0, 'accuracy_low': 1.0, 'accuracy_high': 1.0, 'episodes': 10}

    References:
        Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra (2016), Matching Networks for One Shot Learning.
        https://arxiv.org/abs/1606.04080
        Snell, Swersky, Zemel (2017), Prototypical Networks for Few-shot Learning. https://arxiv.org/abs/1703.05175
        Lake, Salakhutdinov, Tenenbaum (2015), Human-level concept learning through probabilistic program induction (two
        groups). https://doi.org/10.1126/science.aab3050
    """
    check_measure(distance, "distance")
    rows = checks.finite_rows(embeddings, "embeddings")
    checks.comparable(rows, "embeddings", distance)
    host = checks.integers(labels, "labels", len(rows), "rows of embeddings")
    ways, episodes = checks.count(ways, "ways", least=2), checks.count(episodes, "episodes", least=2)
    shots = checks.count(shots, "shots")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(f"key must be a jax.random.key, got {key!r}: pass jax.random.key(0)")
    if key.ndim:
        raise ValueError(f"key must be one jax.random.key, got shape {list(key.shape)}: pass one of them")
    z = intervals.normal_quantile(level)
    classes, class_of = np.unique(host, return_inverse=True)
    if len(classes) < ways:
        raise ValueError(
            f"{ways} ways need as many classes, and labels name {len(classes)}: ask for fewer ways"
        )
    members, sizes = _members(class_of, _group_of(groups, host, class_of))
    queries = _queries(queries, shots, classes, sizes)
    right = _right(
        jax.random.split(key, episodes),
        rows,
        members,
        jnp.asarray(sizes),
        ways=ways,
        shots=shots,
        queries=queries,
        method=method,
        centred=centred,
        distance=distance,
    )
    accuracies = np.asarray(right, np.float64) / (ways * queries)
    accuracy, half = float(accuracies.mean()), z * float(accuracies.std(ddof=1)) / math.sqrt(episodes)
    return {
        "accuracy": accuracy,
        "accuracy_low": max(accuracy - half, 0.0),
        "accuracy_high": min(accuracy + half, 1.0),
        "episodes": episodes,
    }


def centred_on(support: Array, embeddings: Array) -> Array:
    """Embeddings less the mean of a support, at unit length: what the classes of an episode share is gone.

    ::

        (x - mean) / |x - mean|        mean = Σ_support x / count

    Args:
        support: ``[..., dim]``, floating: the images that an episode shows.
        embeddings: ``[..., dim]``, those or the ones to be sorted.

    Returns:
        ``embeddings.shape``; what equals the mean is 0.

    Raises:
        TypeError: Arrays that are not floating.
        ValueError: Rows of another length, a support without rows.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> support = jnp.array([[9.0, 1.0], [9.0, 3.0]])
        >>> mj.evaluation.centred_on(support, jnp.array([[9.0, 5.0], [9.0, 2.0]]))
        Array([[0., 1.],
               [0., 0.]], dtype=float32)

    References:
        Wang, Chao, Weinberger, van der Maaten (2019), SimpleShot: Revisiting Nearest-Neighbor Classification for
        Few-Shot Learning (where the mean is that of the training classes). https://arxiv.org/abs/1911.04623
    """
    shown, rows = as_rows(support, "support"), as_rows(embeddings, "embeddings")
    check_same_dim(shown, rows, "support", "embeddings")
    if not shown.size:
        raise ValueError(f"support must have at least one row, got shape {list(shown.shape)}")
    mean = jnp.broadcast_to(shown.reshape(-1, shown.shape[-1]).mean(axis=0), rows.shape)
    is_mean = jnp.abs(rows - mean) <= 4 * jnp.finfo(rows.dtype).eps * jnp.abs(mean)  # but for its rounding
    return normalize(jnp.where(is_mean.all(axis=-1, keepdims=True), 0.0, rows - mean))


def _group_of(groups: Any, labels: np.ndarray, class_of: np.ndarray) -> np.ndarray:
    """The number of each item's group, from 0, all of one if there are none; raises unless each class has them all."""
    if groups is None:
        return np.zeros(len(labels), np.int64)
    found, group_of = np.unique(
        checks.integers(groups, "groups", len(labels), "rows of embeddings"), return_inverse=True
    )
    if len(found) < 2:
        raise ValueError(
            f"groups are all {found[0]}, and queries are to be of another than the support: leave groups out"
        )
    has = np.bincount(np.unique(class_of * len(found) + group_of) // len(found))
    if has.min() < len(found):
        raise ValueError(
            f"class {labels[class_of == has.argmin()][0]} has images of {has.min()} groups of {len(found)} "
            f"({np.sum(has < len(found))} such classes), and an episode may draw any: leave out these classes, "
            "or the groups that they lack"
        )
    return group_of


def _members(class_of: np.ndarray, group_of: np.ndarray) -> tuple[Array, np.ndarray]:
    """The rows of each class in each group, ``[classes, groups, most]``, filled up with zeros; how many these are."""
    shape = (class_of.max() + 1, group_of.max() + 1)
    cell_of = class_of * shape[1] + group_of
    sizes = np.bincount(cell_of, minlength=shape[0] * shape[1])
    members = np.zeros((len(sizes), sizes.max()), np.int32)
    members[np.arange(sizes.max()) < sizes[:, None]] = np.argsort(cell_of, kind="stable")
    return jnp.asarray(members.reshape(*shape, -1)), sizes.reshape(shape)


def _queries(queries: int | None, shots: int, classes: np.ndarray, sizes: np.ndarray) -> int:
    """How many queries a class has; raises a ValueError, which names the smallest class, if it has too few images."""
    grouped = sizes.shape[1] > 1
    fewest = sizes.min(axis=1)
    smallest = int(np.argmin(fewest))
    asked = 1 if queries is None else checks.count(queries, "queries")
    needed = max(shots, asked) if grouped else shots + asked
    if fewest[smallest] < needed:
        of_group, in_one = (" in every group", " in one") if grouped else ("", "")
        raise ValueError(
            f"{shots} shots and {asked} queries need {needed} images a class{of_group}, and class "
            f"{classes[smallest]} has {fewest[smallest]}{in_one} ({np.sum(fewest < needed)} such classes): leave these "
            "out, or ask for fewer"
        )
    return asked if queries is not None else int(fewest[smallest]) - (0 if grouped else shots)


def _draw(key: Array, members: Array, sizes: Array, ways: int, shots: int, queries: int) -> Array:
    """An episode's rows ``[ways, shots + queries]``: distinct classes, and distinct images of each, in random order."""
    of_classes, of_images = jax.random.split(key)
    classes = jax.random.permutation(of_classes, len(sizes))[:ways]

    def pick(key: Array, group: Array | int, images: int) -> Array:
        there = jnp.arange(members.shape[2])[None] < sizes[classes, group][:, None]
        scores = jnp.where(there, jax.random.uniform(key, there.shape), -1.0)
        picked = jax.lax.top_k(scores, images)[1]
        return jnp.take_along_axis(members[classes, group], picked, axis=1)

    if members.shape[1] == 1:
        return pick(of_images, 0, shots + queries)
    of_groups, of_support, of_queries = jax.random.split(of_images, 3)
    shown, asked = jax.random.permutation(of_groups, members.shape[1])[:2]
    return jnp.concatenate([pick(of_support, shown, shots), pick(of_queries, asked, queries)], axis=1)


@functools.partial(jax.jit, static_argnames=("ways", "shots", "queries", "method", "centred", "distance"))
def _right(
    keys: Array,
    rows: Array,
    members: Array,
    sizes: Array,
    *,
    ways: int,
    shots: int,
    queries: int,
    method: str,
    centred: bool,
    distance: Distance,
) -> Array:
    """How many queries of each episode are sorted rightly."""

    def episode(key: Any) -> Array:
        drawn = rows[_draw(key, members, sizes, ways, shots, queries)]
        if centred:
            drawn = centred_on(drawn[:, :shots], drawn)
        support, asked = drawn[:, :shots], drawn[:, shots:]
        if method == "prototype":
            support = support.mean(axis=1, keepdims=True)

        def is_right(asked: tuple[Array, Array]) -> Array:
            query, own = asked
            to_class = distance(jnp.broadcast_to(query, support.shape), support).min(axis=1)
            others = jnp.where(jnp.arange(ways) == own, jnp.inf, to_class)
            return to_class[own] < others.min()

        of_each = asked.reshape(-1, asked.shape[-1]), jnp.repeat(jnp.arange(ways), queries)
        tile = tile_size(ways * queries, ways * support.shape[1], "auto", rows.shape[1])
        return jnp.sum(jax.lax.map(is_right, of_each, batch_size=tile))

    return jax.lax.map(episode, keys)
