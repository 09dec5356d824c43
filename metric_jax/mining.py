"""Online mining: which triplets of a batch are worth a loss.

In a batch most triplets are easy: the negative is already far beyond the positive, and they teach nothing. A miner
looks at every anchor's row of distances and returns *indices*, through which no gradient flows. A loss then gathers
those rows and computes their distances again, by difference: the gradient costs O(batch * dim) instead of a backward
pass through the batch² matrix, and near duplicates keep exact distances.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from metric_jax.anchors import Batch, miner
from metric_jax.types import Triplets

# Of a row in which a minimum is searched; measured on CPU, 64 to 256 do equally well.
ARGMIN_BLOCK = 128


@miner
def batch_hard(batch: Batch) -> Triplets:
    """For every anchor its farthest positive and its nearest negative.

    ``p*(a) = argmax_p d(a, p)`` and ``n*(a) = argmin_n d(a, n)``; the lowest index wins a tie.

    Returns:
        `Triplets`, each array ``[batch]``; an anchor without a positive or without a negative is not valid.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[0.0], [1.0], [5.0], [2.0]])
        >>> mj.mining.batch_hard(embeddings, jnp.array([0, 0, 0, 1])).negative
        Array([3, 3, 3, 0], dtype=int32)

    References:
        Hermans, Beyer, Leibe (2017), In Defense of the Triplet Loss for Person Re-Identification.
        https://arxiv.org/abs/1703.07737
    """
    return hardest(batch)


@miner(static=("max_positives",))
def batch_semi_hard(batch: Batch, *, max_positives: int | None = None) -> Triplets:
    """For every anchor and each of its positives, the nearest negative that is farther than that positive.

    ``n*(a, p) = argmin_{n: d(a, n) > d(a, p)} d(a, n)``; where no negative is farther, the farthest negative. The
    lowest index wins a tie.

    Args:
        max_positives: How many positives of an anchor to keep, in the order of their indices: samples per class minus 1
            in a P×K batch. None keeps room for all references, which costs O(batch * references) memory.

    Returns:
        `Triplets`, each array ``[batch, slots]``: slot s holds the anchor's s-th positive. There are ``max_positives``
        slots, or as many as references if these are fewer.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[0.0], [1.0], [5.0], [2.0]])
        >>> mj.mining.batch_semi_hard(embeddings, jnp.array([0, 0, 1, 1]), max_positives=1).negative
        Array([[3],
               [2],
               [1],
               [0]], dtype=int32)

    References:
        Schroff, Kalenichenko, Philbin (2015), FaceNet: A Unified Embedding for Face Recognition and Clustering.
        https://arxiv.org/abs/1503.03832
    """
    if max_positives is not None and max_positives < 1:
        raise ValueError(f"max_positives must be at least 1 or None, got {max_positives}")
    references = len(batch.comparison.references)
    slots = min(max_positives or references, references)

    def one_anchor(distances: Array, positives: Array, negatives: Array) -> tuple[Array, Array, Array]:
        def fill(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            slot, positive, p, n = state
            negative = semi_hard_negative(distances, positive, negatives)
            return (
                slot + 1,
                next_true(positives, positive),
                p.at[slot].set(positive),
                n.at[slot].set(negative),
            )

        empty = jnp.zeros_like(positives[:slots], jnp.int32)  # of the row's own type, also under shard_map
        start = (jnp.zeros_like(empty[0]), next_true(positives, -1), empty, empty)
        filled, _, p, n = lax.while_loop(lambda s: (s[0] < slots) & (s[1] < references), fill, start)
        valid = (jnp.arange(slots) < filled) & negatives.any()
        return jnp.where(valid, p, 0), jnp.where(valid, n, 0), valid

    positive, negative, valid = batch.over_anchors(one_anchor, distance=batch.distance.ranking)
    return Triplets(_anchor_indices(valid), positive, negative, valid)


def hardest(batch: Batch) -> Triplets:
    """Batch-hard triplets of a batch; see `batch_hard`."""
    batch = batch.frozen

    def one_anchor(distances: Array, positives: Array, negatives: Array) -> tuple[Array, Array, Array]:
        farthest, nearest = first_argmax(distances, positives), first_argmin(distances, negatives)
        valid = (farthest < len(distances)) & (nearest < len(distances))
        return jnp.where(valid, farthest, 0), jnp.where(valid, nearest, 0), valid

    positive, negative, valid = batch.over_anchors(one_anchor, distance=batch.distance.ranking)
    return Triplets(_anchor_indices(valid), positive, negative, valid)


def semi_hard_negative(distances: Array, positive: Array, negatives: Array) -> Array:
    """The nearest negative strictly farther than ``positive``, else the farthest negative: as `first_argmin` has it."""
    farther = negatives & ~(distances <= distances[positive])  # NaN counts: it must not vanish
    nearest = first_argmin(distances, farther)
    return jnp.where(nearest < len(distances), nearest, first_argmax(distances, negatives))


def first_argmin(values: Array, where: Array) -> Array:
    """Index of the smallest value that ``where`` selects, the lowest at ties; ``len(values)`` if it selects none.

    NaN counts as the smallest, so that it is chosen and reaches the loss. XLA compiles an argmin on CPU to scalar code,
    and a plain search for the minimum would read the row a second time. So the row is cut into blocks, whose minima
    come as cheap as the row's own, and only the first block that holds the minimum is searched.
    """
    # XLA's minimum of a row may lose a NaN on CPU, so it never sees one: the two infinities stand for NaN and for what
    # is not selected, and a value that is infinite itself counts as the largest finite one.
    largest = jnp.finfo(values.dtype).max
    ranked = jnp.where(jnp.isnan(values), -jnp.inf, jnp.clip(values, -largest, largest))
    candidates = jnp.where(where, ranked, jnp.inf)
    padding = -len(values) % ARGMIN_BLOCK
    blocks = jnp.pad(candidates, (0, padding), constant_values=jnp.inf).reshape(-1, ARGMIN_BLOCK)
    minima = jnp.min(blocks, axis=1)
    best = jnp.min(minima)
    block = _first(minima == best)
    index = block * ARGMIN_BLOCK + _first(blocks[block] == best)
    return jnp.where(best == jnp.inf, len(values), index)


def first_argmax(values: Array, where: Array) -> Array:
    """Index of the largest of the values that ``where`` selects; otherwise as `first_argmin`."""
    return first_argmin(-values, where)


def _first(mask: Array) -> Array:
    """The lowest index at which the mask holds; it must hold somewhere."""
    return jnp.min(jnp.arange(len(mask), dtype=jnp.int32), where=mask, initial=len(mask) - 1)


def next_true(mask: Array, after: Array | int) -> Array:
    """The first index behind ``after`` at which the mask holds; its length if there is none."""
    indices = jnp.arange(len(mask), dtype=jnp.int32)
    return jnp.min(indices, where=mask & (indices > after), initial=len(mask))


def _anchor_indices(valid: Array) -> Array:
    """The index of each anchor, in the shape of its triplets; 0 where they are not valid."""
    anchors = jnp.arange(len(valid), dtype=jnp.int32).reshape(-1, *[1] * (valid.ndim - 1))
    return jnp.where(valid, jnp.broadcast_to(anchors, valid.shape), 0)
