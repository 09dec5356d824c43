"""Retrieval: given a query, are the nearest items of the gallery of its class?

All the metrics here follow from the ranks of a query's relevant items. Writing ``rank_i`` for the rank of its i-th
nearest relevant item and R for their number:

    precision@1  =  [rank_1 = 1]
    recall@k     =  [rank_1 ≤ k]                            (the hit rate that metric-learning papers call recall)
    R-precision  =  |{i: rank_i ≤ R}| / R
    MAP@R        =  1/R Σ_{i: rank_i ≤ R} i / rank_i
    MRR          =  1 / rank_1

and the ranks need no sorted gallery: rank_i is i plus the number of irrelevant items that are not farther. At a tie,
then, irrelevant items come first: a network that maps everything to one point scores what it deserves, under any order
of the gallery. Distances that differ by less than the rounding of a matrix product, 1e-6 of the query's largest
distance (squared, if Euclidean), are a tie: float32 cannot tell which of them is nearer.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from metric_jax import types
from metric_jax.anchors import Batch
from metric_jax.distances import Distance, check_measure, euclidean
from metric_jax.pairs import as_array, as_labels, compare

ROUNDING_UNITS = 8


class _Scores(NamedTuple):
    """One query's scores; ``hits`` is ``[len(ks)]``. ``answerable`` is whether it has a relevant item at all."""

    answerable: Array
    precision_at_1: Array
    r_precision: Array
    map_at_r: Array
    mrr: Array
    hits: Array


def retrieval(
    embeddings: types.Embeddings,
    labels: types.Labels,
    *,
    gallery: types.References | None = None,
    gallery_labels: types.Labels | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    distance: Distance = euclidean,
    tile: int | str = "auto",
) -> dict[str, float]:
    """Retrieval metrics, each the mean over queries: leave-one-out within the embeddings, or against a gallery.

    An item is relevant to a query when their labels are equal. Without a gallery a query is compared with all other
    embeddings, and never meets itself (by index, not by distance 0). A query without a relevant item is left out, and
    counted. The formulas stand at the head of the module. It checks values and returns floats, so not inside jit.

    Args:
        embeddings: ``[queries, dim]``, floating, finite.
        labels: ``[queries]`` integers.
        gallery: ``[items, dim]``, what to search instead of the embeddings themselves.
        gallery_labels: ``[items]`` integers.
        ks: The k of recall@k, each at most the number of items that a query is compared with.
        distance: The distance between embeddings.
        tile: How many queries are compared at a time; memory is O(tile * items).

    Returns:
        ``map_at_r``, ``r_precision``, ``precision@1``, ``mrr`` and ``recall@k`` for each k, in [0, 1]; ``queries``, the
        number that count, and ``left_out``, the number without a relevant item.

    Raises:
        TypeError: Embeddings that are not floating, labels that are not integers.
        ValueError: Rows that hold NaN or infinity, shapes that do not match, k beyond the gallery, no relevant item for
            any query.

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
    check_measure(distance, "distance")
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels belong together: pass both or neither")
    embeddings = as_array(embeddings, "embeddings")
    _check_rows(embeddings, "embeddings")
    items = len(embeddings) - 1
    if gallery is not None:
        gallery = as_array(gallery, "gallery")
        _check_rows(gallery, "gallery")
        items = len(gallery)
    elif items == 0:
        raise ValueError("one embedding has nothing to be compared with: pass more, or a gallery")
    item_labels = labels = _checked_labels(labels, embeddings, "labels", "embeddings")
    if gallery is not None and gallery_labels is not None:
        item_labels = gallery_labels = _checked_labels(gallery_labels, gallery, "gallery_labels", "gallery")
    try:
        ks = tuple(operator.index(k) for k in ks)
    except TypeError:
        raise TypeError(f"ks must be a sequence of integers, got {ks!r}") from None
    if not ks or min(ks) < 1 or max(ks) > items:
        raise ValueError(
            f"every k must lie between 1 and the {items} items that a query is compared with, got {ks}: pass other ks"
        )
    scores = _scores(
        embeddings, labels, gallery, gallery_labels, ks, _largest_class(item_labels), distance, tile
    )
    return _averages(jax.tree.map(np.asarray, scores), ks)


@functools.partial(jax.jit, static_argnames=("ks", "most_relevant", "distance", "tile"))
def _scores(
    embeddings: Array,
    labels: Array,
    gallery: Array | None,
    gallery_labels: Array | None,
    ks: tuple[int, ...],
    most_relevant: int,
    distance: Distance,
    tile: int | str,
) -> _Scores:
    compared = compare(embeddings, labels, references=gallery, reference_labels=gallery_labels)
    score = functools.partial(_score_query, ks=jnp.array(ks), most_relevant=most_relevant)
    return Batch(compared, distance, match=None, tile=tile).over_anchors(score, distance=distance.ranking)


def _score_query(
    distances: Array, relevant: Array, irrelevant: Array, *, ks: Array, most_relevant: int
) -> _Scores:
    """The scores of one query, of which at most ``most_relevant`` items are relevant."""
    count = jnp.sum(relevant)
    nearest = -jax.lax.top_k(jnp.where(relevant, -distances, -jnp.inf), most_relevant)[0]
    # Where each irrelevant item falls among the relevant ones: it comes before all that are not closer.
    resolution = ROUNDING_UNITS * jnp.finfo(distances.dtype).eps * jnp.max(jnp.abs(distances))
    method = "compare_all" if most_relevant <= 16 else "scan"
    found = jnp.searchsorted(nearest + resolution, distances, method=method)
    before = jnp.where(irrelevant, found, most_relevant)
    irrelevant_before = jnp.cumsum(jnp.zeros(most_relevant + 1, jnp.int32).at[before].add(1)[:-1])
    order = jnp.arange(1, most_relevant + 1)
    ranks = order + irrelevant_before
    within = (order <= count) & (ranks <= count)
    size = jnp.maximum(count, 1)
    return _Scores(
        answerable=count > 0,
        precision_at_1=ranks[0] == 1,
        r_precision=jnp.sum(within) / size,
        map_at_r=jnp.sum(jnp.where(within, order / ranks, 0.0)) / size,
        mrr=1.0 / ranks[0],
        hits=ranks[0] <= ks,
    )


def _averages(scores: Any, ks: Sequence[int]) -> dict[str, float]:
    """Means over the queries that have a relevant item, of scores as NumPy arrays."""
    answerable = scores.answerable
    if not answerable.any():
        raise ValueError(
            "no query has a relevant item: every label occurs only once, or never in the gallery"
        )

    def mean(values: np.ndarray) -> Any:
        return values[answerable].mean(axis=0, dtype=np.float64)

    return {
        "map_at_r": float(mean(scores.map_at_r)),
        "precision@1": float(mean(scores.precision_at_1)),
        "r_precision": float(mean(scores.r_precision)),
        **{f"recall@{k}": float(hits) for k, hits in zip(ks, mean(scores.hits), strict=True)},
        "mrr": float(mean(scores.mrr)),
        "queries": int(answerable.sum()),
        "left_out": int((~answerable).sum()),
    }


def _largest_class(labels: Array) -> int:
    """How many items the largest class has: a bound on the relevant items of any query."""
    return int(np.unique(np.asarray(labels), return_counts=True)[1].max()) if labels.size else 1


def _checked_labels(labels: Array, rows: Array, name: str, rows_name: str) -> Array:
    """The labels as an array; raises a ValueError unless there is one for each row."""
    labels = as_labels(labels, name)
    if labels.shape != (len(rows),):
        raise ValueError(
            f"{name} must be [rows], one for each of the {len(rows)} rows of {rows_name}, got {list(labels.shape)}"
        )
    return labels


def _check_rows(embeddings: Array, name: str) -> None:
    """Raises a ValueError unless the embeddings are a matrix with rows, and finite; it names the bad row."""
    if np.ndim(embeddings) != 2:
        raise ValueError(f"{name} must be [rows, dim], got shape {np.shape(embeddings)}")
    if len(embeddings) == 0:
        raise ValueError(f"{name} are empty: retrieval needs at least one row")
    bad = np.flatnonzero(~np.asarray(jnp.isfinite(embeddings).all(axis=-1)))
    if bad.size:
        raise ValueError(
            f"{name} hold NaN or infinity in row {bad[0]} ({bad.size} rows in all): remove or repair them"
        )
