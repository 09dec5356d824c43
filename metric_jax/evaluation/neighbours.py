"""The nearest items of a query: exact search, tile by tile, also through a gallery larger than memory."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from metric_jax import types
from metric_jax.anchors import tile_size
from metric_jax.distances import Distance, check_measure, euclidean
from metric_jax.evaluation import checks

SPARE = 16  # candidates beyond k, for those that rounding puts behind others


def nearest(
    queries: types.Embeddings,
    gallery: types.References | Sequence[types.References] | None = None,
    *,
    k: int,
    distance: Distance = euclidean,
    tile: int | str = "auto",
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest items of each query, the nearest first, and how far they are.

    They are found by a matrix product, of which a few more than k are taken, and their distances computed again by
    difference. So distances are exact, and near duplicates stand in their order; only which of more than `SPARE` items
    at one distance up to the product's rounding are the k is left to it. At a tie the lower index comes first. It
    checks values, so not inside jit.

    Args:
        queries: ``[queries, dim]``, floating, finite.
        gallery: ``[items, dim]``; or a sequence of such arrays, as of memory-mapped files, of which one at a time is
            read. Without it the queries are compared with each other, and none meets itself.
        k: How many, at most the number of items that a query is compared with.
        distance: The distance between embeddings.
        tile: How many queries are compared at a time; memory is O(tile * (items + k * dim)).

    Returns:
        ``[queries, k]`` indices of items, counted through all arrays, and ``[queries, k]`` distances.

    Raises:
        TypeError: Embeddings that are not floating.
        ValueError: Rows that hold NaN or infinity or are too large to compare, dimensions that differ, k beyond the
            gallery.

    Example:
        >>> import metric_jax as mj
        >>> items, distances = mj.evaluation.nearest([[0.0], [1.0], [5.0]], k=2)
        >>> items.tolist(), distances.tolist()
        ([[1, 2], [0, 2], [1, 0]], [[1.0, 5.0], [1.0, 4.0], [4.0, 5.0]])
    """
    check_measure(distance, "distance")
    rows = checks.finite_rows(queries, "queries")
    parts = checks.parts(rows if gallery is None else gallery, "gallery")
    items = sum(map(len, parts.values())) - (gallery is None)
    if checks.count(k, "k") > items:
        raise ValueError(f"k must be at most the {items} items that a query is compared with, got {k}")
    middle = checks.comparable(rows, "queries", distance)
    held = 1 if distance.has_product else rows.shape[1]
    compared = tile_size(len(rows), max(map(len, parts.values())), tile, held)
    size = min(
        compared, tile_size(len(rows), k + SPARE, tile, rows.shape[1])
    )  # whose distances are computed again
    found, start = [], 0
    for name, part in parts.items():
        read = checks.same_dim(part, rows.shape[1], name)
        if gallery is not None:
            checks.comparable(read, name, distance, middle)
        taken = min(k + SPARE, len(read) - (gallery is None))
        far, chosen = _search(
            rows, read, middle, k=taken, itself=gallery is None, distance=distance, tile=size
        )
        found.append((np.asarray(far), np.asarray(chosen) + start))
        start += len(read)
    distances, indices = (np.concatenate(columns, axis=1) for columns in zip(*found, strict=True))
    order = np.lexsort((indices, distances))[:, :k]
    return np.take_along_axis(indices, order, axis=1), np.take_along_axis(distances, order, axis=1)


@functools.partial(jax.jit, static_argnames=("k", "itself", "distance", "tile"))
def _search(
    rows: Array, items: Array, middle: Array, *, k: int, itself: bool, distance: Distance, tile: int
) -> tuple[Array, Array]:
    """Distances and indices ``[queries, k]`` of the nearest items, by distance and then by index."""
    ranking = distance.ranking
    prepared = ranking.prepare(items, middle)

    def one(query: tuple[Array, Array]) -> tuple[Array, Array]:
        index, row = query
        found = ranking.against(ranking.prepare(row[None], middle)[0], prepared, ranking.precision)
        if itself:
            found = found.at[index].set(jnp.inf)
        chosen = lax.top_k(-found, k)[1]
        return distance.between(jnp.broadcast_to(row, (k, len(row))), items[chosen]), chosen

    return lax.map(one, (jnp.arange(len(rows)), rows), batch_size=tile)
