"""The triplet loss of triplets that are given: mined, or the user's own.

Judgements of people, or a miner of one's own, say of three items which two belong together. No labels are needed then,
and the loss costs O(triplets * dim), whatever the batch. Pairs of one's own go to any batch loss as ``pairs=``.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metric_jax.collectives import gathered
from metric_jax.distances import Distance, as_rows, check_measure, check_same_dim, euclidean
from metric_jax.limits import as_margin, check_flag, check_penalty
from metric_jax.losses.triplet import Penalty, triplet_loss
from metric_jax.pairs import as_array, as_triplets, check_indices
from metric_jax.reductions import Reduction, check_reduction, reduce, terms
from metric_jax.types import AxisName, Embeddings, References, Triplets


def batch_triplet_loss(
    embeddings: Embeddings,
    triplets: Triplets,
    *,
    margin: float | Array = 0.2,
    distance: Distance = euclidean,
    penalty: Penalty = jax.nn.relu,
    swap: bool = False,
    references: References | None = None,
    reduction: Reduction = "mean",
    axis_name: AxisName = None,
) -> Array:
    """Triplet loss of the triplets of a batch that are given: mined, or your own.

    ``L(a, p, n) = penalty(d(a, p) - d(a, n) + margin)``, measured by difference; its terms are the valid triplets.

    Args:
        embeddings: ``[batch, dim]``, floating; not normalised behind your back.
        triplets: `Triplets`, each array of one shape; what only those refer to that are not valid is not looked at.
        margin: By how much the negative should be farther than the positive, in units of the distance.
        distance: The distance from the anchor to either.
        penalty: What a violation costs: ``jax.nn.relu`` or ``jax.nn.softplus``.
        swap: Whether the negative is measured from the anchor or the positive, whichever it is nearer to.
        references: ``[references, dim]``: what positives and negatives are indices of, instead of the batch itself.
        reduction: ``"mean"`` over valid triplets, ``"mean_active"`` over those that are not zero, ``"sum"``, or
            ``"none"``: one value for each triplet. 0 when there is none.
        axis_name: Inside ``jax.shard_map``, the mesh axis (or axes) over which the batch is spread: positives and
            negatives are indices into the rows of all devices, anchors into the device's own, as miners return them.

    Returns:
        The loss: a scalar, or with ``reduction="none"`` in the shape of the triplets.

    Raises:
        TypeError: Rows that are not floating, triplets that are not `Triplets` of integers and booleans, an argument of
            another type.
        ValueError: Shapes that do not match, an index of a valid triplet that is out of range, an unknown reduction, a
            negative margin.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings, labels = jnp.array([[0.0], [1.0], [5.0], [2.0]]), jnp.array([0, 0, 1, 1])
        >>> mj.batch_triplet_loss(embeddings, mj.mining.batch_hard(embeddings, labels), reduction="none")
        Array([0. , 0.2, 0. , 2.2], dtype=float32)
        >>> mine = mj.Triplets(anchor=[0, 1], positive=[1, 0], negative=[3, 3], valid=[True, True])
        >>> mj.batch_triplet_loss(embeddings, mine, reduction="none")
        Array([0. , 0.2], dtype=float32)

    References:
        Schroff, Kalenichenko, Philbin (2015), FaceNet: A Unified Embedding for Face Recognition and Clustering.
        https://arxiv.org/abs/1503.03832
    """
    check_measure(distance, "distance")
    check_reduction(reduction)
    check_penalty(penalty)
    margin = as_margin("batch_triplet_loss", margin)
    check_flag("batch_triplet_loss", "swap", swap)
    anchors = _matrix(embeddings, "embeddings")
    others = anchors if references is None else _matrix(references, "references")
    check_same_dim(anchors, others, "embeddings", "references")
    triplets = as_triplets(triplets, "triplets")
    counts = {"anchor": len(anchors)}
    if axis_name is None:
        counts |= {"positive": len(others), "negative": len(others)}
    for column, count in counts.items():
        check_indices(getattr(triplets, column), triplets.valid, count, f"triplets.{column}")
    return _triplets_loss(
        anchors,
        others,
        triplets,
        margin,
        distance=distance,
        penalty=penalty,
        swap=swap,
        reduction=reduction,
        axis_name=axis_name,
    )


def _matrix(rows: Array, name: str) -> Array:
    rows = as_rows(as_array(rows, name), name)
    if rows.ndim != 2:
        raise ValueError(f"{name} must be [rows, dim], got shape {rows.shape}")
    return rows


@functools.partial(jax.jit, static_argnames=("distance", "penalty", "swap", "reduction", "axis_name"))
def _triplets_loss(
    anchors: Array,
    others: Array,
    triplets: Triplets,
    margin: float | Array,
    *,
    distance: Distance,
    penalty: Penalty,
    swap: bool,
    reduction: Reduction,
    axis_name: AxisName,
) -> Array:
    others = gathered(others, axis_name)
    valid = triplets.valid

    def picked(rows: Array, indices: Array) -> Array:
        # Zero where there is no triplet: not even a NaN of the row 0 may reach the gradient.
        return jnp.where(valid[..., None], rows[jnp.where(valid, indices, 0)], 0.0)

    values = triplet_loss(
        picked(anchors, triplets.anchor),
        picked(others, triplets.positive),
        picked(others, triplets.negative),
        margin=margin,
        distance=distance,
        penalty=penalty,
        swap=swap,
    )
    each = functools.reduce(lambda fn, _: jax.vmap(fn), range(valid.ndim), terms)
    return reduce(each(values, valid), reduction, axis_name)
