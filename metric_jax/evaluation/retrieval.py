"""Retrieval: given a query, are the nearest items of the gallery of its class?

All the metrics here follow from the ranks of a query's relevant items. Writing ``rank_i`` for the rank of its i-th
nearest relevant item and R for their number:

    precision@k  =  |{i: rank_i ≤ k}| / k
    recall@k     =  [rank_1 ≤ k]                            (the hit rate that metric-learning papers call recall)
    R-precision  =  |{i: rank_i ≤ R}| / R
    MAP@R        =  1/R Σ_{i: rank_i ≤ R} i / rank_i
    MAP          =  1/R Σ_i i / rank_i
    MRR          =  1 / rank_1
    nDCG@k       =  Σ_{i: rank_i ≤ k} 1 / log₂(rank_i + 1)  /  Σ_{i ≤ min(k, R)} 1 / log₂(i + 1)

and the ranks need no sorted gallery: rank_i is i plus the number of irrelevant items that are not farther. At a tie,
then, irrelevant items come first: a network that maps everything to one point scores what it deserves, under any order
of the gallery. Distances that differ by less than the rounding of a matrix product are a tie: of squared ones, about
1e-6 of ``|x|² + (|x| + d)²``, where the query x is counted from the center of all queries. Float32 cannot tell which of
two such items is nearer.

A metric of a set is the mean over queries. A query without a relevant item has none, is left out, and is counted.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from metric_jax import types
from metric_jax.distances import Distance, check_measure, euclidean
from metric_jax.evaluation import checks
from metric_jax.evaluation.intervals import bootstrap
from metric_jax.evaluation.scores import METRICS, Wanted, score_queries

USUAL = ("map_at_r", "precision@1", "r_precision", "recall@k", "mrr")


def retrieval(
    embeddings: types.Embeddings,
    labels: types.Labels,
    *,
    gallery: types.References | Sequence[types.References] | None = None,
    gallery_labels: types.Labels | None = None,
    metrics: Sequence[str] = USUAL,
    ks: Sequence[int] = (1, 2, 4, 8),
    distance: Distance = euclidean,
    where: types.Mask | None = None,
    tile: int | str = "auto",
    mesh: Mesh | None = None,
    intervals: bool = False,
) -> dict[str, float]:
    """Retrieval metrics, each the mean over queries: leave-one-out within the embeddings, or against a gallery.

    An item is relevant to a query when their labels are equal. Without a gallery a query is compared with all other
    embeddings, and never meets itself (by index, not by distance 0). A query without a relevant item is left out, and
    counted. The formulas stand at the head of the module. It checks values and returns floats, so not inside jit.

    Args:
        embeddings: ``[queries, dim]``, floating, finite.
        labels: ``[queries]`` integers.
        gallery: ``[items, dim]``, what to search instead of the embeddings themselves; or a sequence of such arrays, as
            of memory-mapped files: they are read one after the other, twice for each size of class up to a factor of 2,
            and two need fit into memory.
        gallery_labels: ``[items]`` integers, of all parts in their order.
        metrics: Which: ``"map_at_r"``, ``"r_precision"``, ``"precision@1"``, ``"mrr"``, and for each of ``ks``
            ``"recall@k"``, ``"precision@k"``, ``"ndcg@k"``. Only ``"map"`` needs every rank, and takes longer.
        ks: The k of metrics at k, each at most the number of items that a query is compared with.
        distance: The distance between embeddings.
        where: ``[queries]`` booleans: rows that are padding are neither queries nor items, and may hold anything.
        tile: How many queries are compared at a time; memory is O(tile * items).
        mesh: Devices that share out the queries; by default all is done on one.
        intervals: Whether to add a 95 % interval to each metric, as ``…_low`` and ``…_high``: by the bootstrap over
            classes, since queries of one class share its fate.

    Returns:
        ``map_at_r``, ``r_precision``, ``precision@1``, ``mrr`` and ``recall@k`` for each k, or what ``metrics`` names,
        in [0, 1]; ``queries``, the number that count, and ``left_out``, the number without a relevant item.

    Raises:
        TypeError: Embeddings that are not floating, labels that are not integers.
        ValueError: Rows that hold NaN or infinity or are too large to compare, shapes that do not match, k beyond the
            gallery, no relevant item for any query, intervals where only one class has one, an unknown metric.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[0.0], [1.0], [1.5], [9.0], [10.0]])
        >>> found = mj.evaluation.retrieval(embeddings, jnp.array([0, 0, 1, 1, 1]), ks=(1, 2))
        >>> round(found["map_at_r"], 4), found["recall@1"], found["recall@2"]
        (0.6, 0.6, 0.8)

    References:
        Musgrave, Belongie, Lim (2020), A Metric Learning Reality Check (MAP@R, R-precision).
        https://arxiv.org/abs/2003.08505
    """
    asked = _checked(embeddings, labels, gallery, gallery_labels, metrics, ks, distance, where)
    counts = asked.has_relevant()
    groups = asked.labels[counts]
    if not groups.size:
        raise ValueError(
            "no query has a relevant item: every label occurs only once, or never in the gallery"
        )
    if intervals and (groups == groups[0]).all():
        raise ValueError(
            f"an interval needs queries of two classes, and only those of class {groups[0]} have a relevant item: "
            "leave intervals out"
        )
    scores = asked.scores(distance, tile, mesh)
    values = np.stack(list(scores.values()), axis=1)[counts]
    found: dict[str, float] = dict(zip(scores, map(float, values.mean(axis=0)), strict=True))
    if intervals:
        _, low, high = bootstrap(values, groups)
        for i, name in enumerate(scores):
            found |= {f"{name}_low": float(low[i]), f"{name}_high": float(high[i])}
    return {**found, "queries": int(counts.sum()), "left_out": int(np.sum(~counts))}


def retrieval_scores(
    embeddings: types.Embeddings,
    labels: types.Labels,
    *,
    gallery: types.References | Sequence[types.References] | None = None,
    gallery_labels: types.Labels | None = None,
    metrics: Sequence[str] = USUAL,
    ks: Sequence[int] = (1, 2, 4, 8),
    distance: Distance = euclidean,
    where: types.Mask | None = None,
    tile: int | str = "auto",
    mesh: Mesh | None = None,
) -> dict[str, np.ndarray]:
    """The metrics of every single query, of which `retrieval` returns the means.

    Args:
        embeddings: ``[queries, dim]``, floating, finite.
        labels: ``[queries]`` integers.
        gallery, gallery_labels, metrics, ks, distance, where, tile, mesh: As of `retrieval`.

    Returns:
        Each metric's ``[queries]`` values in [0, 1]; NaN for a query that has no relevant item, or is padding.

    Raises:
        TypeError, ValueError: As `retrieval`.

    Example:
        >>> import metric_jax as mj
        >>> embeddings, labels = [[0.0], [1.0], [1.5], [9.0]], [0, 0, 1, 0]
        >>> mj.evaluation.retrieval_scores(embeddings, labels, metrics=["precision@k", "ndcg@k"], ks=(2,))
        {'precision@2': array([0.5, 0.5, nan, 0.5]), 'ndcg@2': array([0.6131472 , 0.38685283,        nan, 0.38685283])}
    """
    asked = _checked(embeddings, labels, gallery, gallery_labels, metrics, ks, distance, where)
    found = asked.scores(distance, tile, mesh)
    if where is None:
        return found
    return {name: _spread(values, asked.chosen, len(labels)) for name, values in found.items()}


class _Asked(NamedTuple):
    """What is to be found out, checked: of the rows that count.

    Attributes:
        rows: ``[queries, dim]``.
        labels: ``[queries]``.
        chosen: ``[queries]``, which of all rows they are.
        parts: The gallery by parts, if there is one.
        item_labels: ``[items]``, of the gallery or else the same labels.
        wanted: The metrics.
    """

    rows: np.ndarray
    labels: np.ndarray
    chosen: np.ndarray
    parts: Mapping[str, Any] | None
    item_labels: np.ndarray
    wanted: Wanted

    def has_relevant(self) -> np.ndarray:
        """``[queries]`` booleans: whether there is an item of its class, other than itself."""
        known, sizes = np.unique(self.item_labels, return_counts=True)
        return np.isin(self.labels, known[sizes > (self.parts is None)])

    def scores(self, distance: Distance, tile: int | str, mesh: Mesh | None) -> dict[str, np.ndarray]:
        """The metrics, ``[queries]`` each."""
        if not isinstance(mesh, Mesh | None):
            raise TypeError(f"mesh must be a jax.sharding.Mesh, got {mesh!r}: jax.make_mesh makes one")
        return score_queries(
            self.rows, self.labels, self.parts, self.item_labels, self.wanted, distance, tile, mesh
        )


def _checked(
    embeddings: Any,
    labels: Any,
    gallery: Any,
    gallery_labels: Any,
    metrics: Sequence[str],
    ks: Sequence[int],
    distance: Distance,
    where: Any,
) -> _Asked:
    check_measure(distance, "distance")
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels belong together: pass both or neither")
    if where is not None and np.ndim(labels) != 1:
        raise ValueError(f"labels must be [queries], got shape {list(np.shape(labels))}")
    mask = None if where is None else checks.mask(where, "where", len(labels), "labels")
    if mask is not None and (np.ndim(embeddings) != 2 or len(embeddings) != len(mask)):
        raise ValueError(
            f"embeddings must be [{len(mask)}, dim], as where is, got {list(np.shape(embeddings))}"
        )
    given = embeddings if mask is None else jnp.where(mask[:, None], jnp.asarray(embeddings), 0)
    rows = np.asarray(checks.finite_rows(given, "embeddings"))
    classes = checks.integers(labels, "labels", len(rows), "rows of embeddings")
    chosen = np.arange(len(rows)) if mask is None else np.flatnonzero(mask)
    parts = None if gallery is None else checks.parts(gallery, "gallery")
    if parts is None:
        item_labels, items = classes[chosen], len(chosen) - 1
        if items < 1:
            raise ValueError(
                f"{items + 1} embeddings that count have nothing to be compared with: pass more, or a gallery"
            )
    else:
        items = sum(map(len, parts.values()))
        item_labels = checks.integers(gallery_labels, "gallery_labels", items, "items of the gallery")
    names = _names(metrics)
    at_k = any(name.endswith("@k") for name in names)
    wanted = Wanted(names, _checked_ks(ks, items) if at_k else (1,))
    return _Asked(rows[chosen], classes[chosen], chosen, parts, item_labels, wanted)


def by_class(scores: Mapping[str, np.ndarray], labels: types.Labels) -> dict[int, dict[str, float]]:
    """The mean of `retrieval_scores` over the queries of each class; classes without a query that counts are left out.

    Args:
        scores: What `retrieval_scores` returned.
        labels: ``[queries]`` integers, the same.

    Returns:
        For each label its metrics, and ``queries``, how many of its queries count.

    Example:
        >>> import metric_jax as mj
        >>> embeddings, labels = [[0.0], [1.0], [1.5], [9.0]], [0, 0, 1, 0]
        >>> scores = mj.evaluation.retrieval_scores(embeddings, labels, metrics=["mrr"])
        >>> mj.evaluation.by_class(scores, labels)
        {0: {'mrr': 0.6666666666666666, 'queries': 3}}
    """
    values = np.stack(list(scores.values()), axis=1)
    classes = checks.integers(labels, "labels", len(values), "queries")
    counts = ~np.isnan(values[:, 0])
    known, place, sizes = np.unique(classes[counts], return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(place, column) / sizes for column in values[counts].T], axis=1)
    return {
        int(label): {**dict(zip(scores, map(float, mean), strict=True)), "queries": int(size)}
        for label, mean, size in zip(known, means, sizes, strict=True)
    }


def _names(metrics: Sequence[str]) -> tuple[str, ...]:
    names = tuple(metrics) if not isinstance(metrics, str) else (metrics,)
    for name in names:
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}: choose of {', '.join(METRICS)}")
    if not names:
        raise ValueError(f"no metric is asked for: choose of {', '.join(METRICS)}")
    return names


def _checked_ks(ks: Sequence[int], items: int) -> tuple[int, ...]:
    try:
        ks = tuple(operator.index(k) for k in ks)
    except TypeError:
        raise TypeError(f"ks must be a sequence of integers, got {ks!r}") from None
    if not ks or min(ks) < 1 or max(ks) > items:
        raise ValueError(
            f"every k must lie between 1 and the {items} items that a query is compared with, got {ks}: pass other ks"
        )
    return ks


def _spread(values: np.ndarray, chosen: np.ndarray, rows: int) -> np.ndarray:
    """The values of the chosen rows among all, NaN elsewhere."""
    spread = np.full(rows, np.nan)
    spread[chosen] = values
    return spread
