"""Pairs that are worth a loss: those that a margin, or the other pairs of their anchor, say are not yet right."""

import jax.numpy as jnp
from jaxtyping import Array

from metric_jax.anchors import Batch, miner
from metric_jax.distances import cosine
from metric_jax.limits import Limits
from metric_jax.mining.search import anchor_indices, first_argmax, first_argmin, largest, slots_from
from metric_jax.types import Pairs


@miner(
    static=("max_positives", "max_negatives"),
    within={"positive_margin": Limits(), "negative_margin": Limits()},
)
def pair_margin(
    batch: Batch,
    *,
    positive_margin: float | Array = 0.2,
    negative_margin: float | Array = 0.8,
    max_positives: int | None = None,
    max_negatives: int | None = None,
) -> Pairs:
    """For every anchor the positives that are too far and the negatives that are too near.

    ``d(a, p) > positive_margin`` and ``d(a, n) < negative_margin``.

    Args:
        positive_margin: How near a positive should be, in units of the distance.
        negative_margin: How far a negative should be, in units of the distance.
        max_positives: How many positives of an anchor to keep, the farthest first and the lowest index at ties. None
            keeps all in the order of the references, which costs O(batch * references) memory.
        max_negatives: How many negatives of an anchor to keep, the nearest first; likewise.

    Returns:
        `Pairs`, each array ``[batch, slots]``: first the slots of positives, then those of negatives.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings, labels = jnp.array([[0.0], [1.0], [0.5]]), jnp.array([0, 0, 1])
        >>> mined = mj.mining.pair_margin(embeddings, labels, max_positives=1, max_negatives=1)
        >>> mined.reference
        Array([[1, 2],
               [0, 2],
               [0, 0]], dtype=int32)
        >>> mj.batch_contrastive_loss(embeddings, None, pairs=mined, reduction="none")
        Array([1.25, 1.25, 0.25], dtype=float32)
    """

    def one_anchor(distances: Array, positives: Array, negatives: Array) -> tuple[Array, Array, Array]:
        too_far = positives & ~(distances <= positive_margin)  # NaN counts: it must not vanish
        too_near = negatives & ~(distances >= negative_margin)
        return hardest_pairs(distances, too_far, too_near, max_positives, max_negatives)

    return as_pairs(*batch.over_anchors(one_anchor))


@miner(distance=cosine, static=("max_positives", "max_negatives"), within={"epsilon": Limits()})
def multi_similarity(
    batch: Batch,
    *,
    epsilon: float | Array = 0.1,
    max_positives: int | None = None,
    max_negatives: int | None = None,
) -> Pairs:
    """For every anchor the pairs that are hard beside its hardest pair of the other kind.

    A negative is kept if ``d(a, n) < max_p d(a, p) + epsilon``, a positive if ``d(a, p) > min_n d(a, n) - epsilon``. An
    anchor without a positive or without a negative has no pair. Under the default distance, ``1 - cos``, these are the
    paper's two conditions on cosines.

    Args:
        epsilon: How far beyond the hardest pair of the other kind a pair still counts, in units of the distance.
        max_positives: How many positives of an anchor to keep, the farthest first and the lowest index at ties. None
            keeps all in the order of the references, which costs O(batch * references) memory.
        max_negatives: How many negatives of an anchor to keep, the nearest first; likewise.

    Returns:
        `Pairs`, each array ``[batch, slots]``: first the slots of positives, then those of negatives.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings, labels = jnp.array([[0.0], [1.0], [0.5], [9.0]]), jnp.array([0, 0, 1, 1])
        >>> mined = mj.mining.multi_similarity(embeddings, labels, distance=mj.euclidean, max_negatives=1)
        >>> mined.reference[:, -1]
        Array([2, 2, 0, 1], dtype=int32)

    References:
        Wang, Han, Huang, Dong, Scott (2019), Multi-Similarity Loss with General Pair Weighting for Deep Metric
        Learning. https://arxiv.org/abs/1904.06627
    """

    def one_anchor(distances: Array, positives: Array, negatives: Array) -> tuple[Array, Array, Array]:
        farthest = distances[first_argmax(distances, positives)]
        nearest = distances[first_argmin(distances, negatives)]
        has_both = positives.any() & negatives.any()
        hard_positives = positives & has_both & ~(distances + epsilon <= nearest)  # NaN counts here too
        hard_negatives = negatives & has_both & ~(distances - epsilon >= farthest)
        return hardest_pairs(distances, hard_positives, hard_negatives, max_positives, max_negatives)

    return as_pairs(*batch.over_anchors(one_anchor))


def hardest_pairs(
    distances: Array,
    positives: Array,
    negatives: Array,
    max_positives: int | None,
    max_negatives: int | None,
) -> tuple[Array, Array, Array]:
    """The farthest positives and the nearest negatives: references, which are positives, and which slots are filled."""
    p, has_p = largest(distances, positives, slots_from(max_positives, "max_positives", None))
    n, has_n = largest(-distances, negatives, slots_from(max_negatives, "max_negatives", None))
    return positives_first(p, has_p, n, has_n)


def positives_first(p: Array, has_p: Array, n: Array, has_n: Array) -> tuple[Array, Array, Array]:
    """Slots of positives, then slots of negatives: references, which are positives, and which slots are filled."""
    found = jnp.concatenate([has_p, has_n])
    return jnp.concatenate([p, n]), found & (jnp.arange(len(found)) < len(p)), found


def as_pairs(reference: Array, is_positive: Array, valid: Array) -> Pairs:
    """Pairs of every anchor with what was found for it, each array ``[batch, slots]``."""
    return Pairs(anchor_indices(valid), reference, is_positive, valid)
