"""Is it learning? What to log about a batch of embeddings beside its loss.

A triplet loss near its margin says little: the network may be learning from hard triplets, or may have mapped
everything to one point. These numbers tell the two apart.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metric_jax import types
from metric_jax.anchors import Batch
from metric_jax.distances import Distance, center, check_measure, euclidean
from metric_jax.limits import as_margin
from metric_jax.pairs import as_array, as_labels, compare

COLLAPSED_SPREAD = 0.01
QUANTILES = (0.1, 0.5, 0.9)


def summary(
    embeddings: types.Embeddings,
    labels: types.Labels,
    *,
    margin: float | Array = 0.2,
    distance: Distance = euclidean,
    where: types.Mask | None = None,
) -> dict[str, Array]:
    """Statistics of a batch's distances, for the log; runs inside jit, and holds all batch² distances in memory.

    Args:
        embeddings: ``[batch, dim]``, floating.
        labels: ``[batch]`` integers.
        margin: The margin of the triplet loss, in units of the distance.
        distance: The distance between embeddings.
        where: ``[batch]`` booleans: False leaves a row out.

    Returns:
        A dict of scalars; 0 where there is nothing to count, and NaN where an embedding that counts holds NaN: but
        ``hard_positives`` and ``hard_negatives`` leave out what cannot be compared, and ``collapsed`` is False then.

        *   ``active_fraction``: of the anchors with a positive and a negative, those whose batch-hard triplet violates
            the margin.
        *   ``positive_mean``, ``positive_q10``, ``positive_q50``, ``positive_q90``, and the same for ``negative``: mean
            and quantiles of the distances of all positive and all negative pairs, by one sort of all batch² of them.
        *   ``hard_positives``: pairs (a, p) farther apart than a and its nearest negative.
        *   ``hard_negatives``: pairs (a, n) closer than a and its farthest positive.
        *   ``spread``: root mean square distance of the embeddings from their mean; of their directions, under cosine.
        *   ``collapsed``: whether the spread is below 0.01: the embeddings have become one point. False of fewer than
            two rows, which are one point whatever they are.

    Raises:
        TypeError: Embeddings that are not floating, labels that are not integers, a mask that is not boolean, a margin
            that is no number.
        ValueError: Shapes that do not match, an empty batch, or a negative margin.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> found = mj.diagnostics.summary(jnp.array([[0.0], [1.0], [0.5]]), jnp.array([0, 0, 1]))
        >>> int(found["hard_positives"]), float(found["positive_mean"]), bool(found["collapsed"])
        (2, 1.0, False)
    """
    check_measure(distance, "distance")
    margin = as_margin("summary", margin)
    rows = as_array(embeddings, "embeddings")
    mask = None if where is None else as_array(where, "where")
    return _summary(rows, as_labels(labels, "labels"), mask, margin, distance)


@functools.partial(jax.jit, static_argnames="distance")
def _summary(
    embeddings: Array, labels: Array, where: Array | None, margin: float | Array, distance: Distance
) -> dict[str, Array]:
    compared = compare(embeddings, labels, where=where)
    batch = Batch(compared, distance, match=None, tile=len(compared.anchors))
    distances, positives, negatives = batch.over_anchors(lambda *row: row)

    nearest_negative = jnp.min(distances, axis=1, where=negatives, initial=jnp.inf)
    farthest_positive = jnp.max(distances, axis=1, where=positives, initial=-jnp.inf)
    valid = positives.any(axis=1) & negatives.any(axis=1)
    active = jnp.heaviside(farthest_positive - nearest_negative + margin, 0.0)  # 1 where violated; NaN stays

    rows = distance.prepare(compared.anchors, center(compared.anchors, compared.where))
    mean = jnp.sum(rows, axis=0, where=compared.where[:, None]) / jnp.maximum(jnp.sum(compared.where), 1)
    spread = jnp.sqrt(_mean(jnp.sum((rows - mean[None]) ** 2, axis=-1), compared.where))
    return {
        "active_fraction": _mean(active, valid),
        **_distribution("positive", distances, positives),
        **_distribution("negative", distances, negatives),
        "hard_positives": jnp.sum(positives & (distances > nearest_negative[:, None])),
        "hard_negatives": jnp.sum(negatives & (distances < farthest_positive[:, None])),
        "spread": spread,
        "collapsed": (spread < COLLAPSED_SPREAD) & (jnp.sum(compared.where) > 1),
    }


def _mean(values: Array, where: Array) -> Array:
    return jnp.sum(values, where=where) / jnp.maximum(jnp.sum(where), 1)


def _distribution(name: str, values: Array, where: Array) -> dict[str, Array]:
    """Mean and quantiles of the selected values, the quantiles interpolated linearly between neighbours."""
    ordered = jnp.sort(jnp.where(where, values, jnp.inf), axis=None)
    count, mean = jnp.sum(where), _mean(values, where)
    found = {f"{name}_mean": mean}
    for quantile in QUANTILES:
        position = quantile * jnp.maximum(count - 1, 0)
        low = jnp.floor(position).astype(int)
        high = jnp.minimum(low + 1, jnp.maximum(count - 1, 0))
        value = ordered[low] + (position - low) * (ordered[high] - ordered[low])
        value = jnp.where(jnp.isnan(mean), jnp.nan, value)
        found[f"{name}_q{round(100 * quantile)}"] = jnp.where(count > 0, value, 0.0)
    return found
