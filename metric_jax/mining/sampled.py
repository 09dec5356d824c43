"""Triplets and pairs drawn at random, so that all distances get their turn, not only the frequent ones.

The draw is a function of the key, of the anchor's place in the whole batch and of the reference's: tiles and devices do
not change it.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from metric_jax.anchors import Batch, miner
from metric_jax.collectives import places
from metric_jax.distances import cosine
from metric_jax.limits import NOT_NEGATIVE, POSITIVE
from metric_jax.mining.pairs import as_pairs, positives_first
from metric_jax.mining.search import anchor_indices, first_argmax, largest, one_negative_each, slots_from
from metric_jax.mining.violating import squared_chord
from metric_jax.types import Pairs, Triplets


@miner(
    distance=cosine,
    static=("max_positives",),
    within={"cutoff": POSITIVE, "nonzero_loss_cutoff": NOT_NEGATIVE},
)
def distance_weighted(
    batch: Batch,
    *,
    key: Array,
    cutoff: float | Array = 0.5,
    nonzero_loss_cutoff: float | Array = 1.4,
    max_positives: int | None = None,
) -> Triplets:
    """For every anchor and each of its positives, a negative drawn so that all distances are as likely.

    On the unit sphere in n dimensions, distances are distributed as ``q(d) ∝ d^(n-2) (1 - d²/4)^((n-3)/2)``: nearly all
    are about √2. A negative is drawn with ``P(n) ∝ 1 / q(max(d(a, n), cutoff))`` among those nearer than
    ``nonzero_loss_cutoff``; d is ``|a - n|`` of rows scaled to length 1, or with ``distance=mj.euclidean`` of the rows
    as they are, which should then have length 1. Probabilities are compared as logarithms: they do not overflow in 512
    dimensions.

    Args:
        key: The random key; pass another one in every step.
        cutoff: Nearer negatives are drawn as if they were at this distance: their gradients would be noise.
        nonzero_loss_cutoff: From here on negatives are not drawn: they would cost nothing.
        max_positives: How many positives of an anchor to keep, in the order of their indices: samples per class minus 1
            in a P×K batch. None keeps room for all references, which costs O(batch * references) memory.

    Returns:
        `Triplets`, each array ``[batch, slots]``; an anchor with no negative to draw from has none that is valid.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [-1.0, 0.0]])
        >>> mj.mining.distance_weighted(
        ...     embeddings, jnp.array([0, 0, 1, 2]), key=jax.random.key(0), max_positives=1
        ... ).negative
        Array([[2],
               [2],
               [0],
               [0]], dtype=int32)

    References:
        Wu, Manmatha, Smola, Krähenbühl (2017), Sampling Matters in Deep Embedding Learning.
        https://arxiv.org/abs/1706.07567
    """
    references, dim = batch.comparison.references.shape
    slots = min(slots_from(max_positives, "max_positives", None) or references, references)
    key = _as_key(key)

    def one_anchor(
        squared: Array, positives: Array, negatives: Array, place: Array
    ) -> tuple[Array, Array, Array]:
        of_anchor = jax.random.fold_in(key, place)
        d = jnp.sqrt(squared)
        to_antipode = 1.0 - jnp.maximum(squared, cutoff**2) / 4.0
        to_antipode = jnp.maximum(to_antipode, jnp.finfo(d.dtype).eps)  # of which float32 knows no less
        log_weights = (2.0 - dim) * jnp.log(jnp.maximum(d, cutoff)) - (dim - 3.0) / 2.0 * jnp.log(to_antipode)
        eligible = negatives & ~(d >= nonzero_loss_cutoff)  # NaN counts: it must not vanish

        def draw(positive: Array) -> Array:
            """Of log weights with Gumbel noise the largest is a draw in proportion to the weights."""
            noise = jax.random.gumbel(jax.random.fold_in(of_anchor, positive), d.shape, jnp.float32)
            return first_argmax(log_weights + noise, eligible)

        return one_negative_each(positives, draw, slots)

    chord = squared_chord(batch.distance, "distance_weighted")
    positive, negative, valid = batch.over_anchors(one_anchor, _places(batch), distance=chord)
    return Triplets(anchor_indices(valid), positive, negative, valid)


@miner(static=("bins", "positives_per_bin", "negatives_per_bin"))
def uniform_histogram(
    batch: Batch, *, key: Array, bins: int = 10, positives_per_bin: int = 1, negatives_per_bin: int = 1
) -> Pairs:
    """For every anchor pairs at all distances that it has, drawn evenly over their range.

    The range of distances of an anchor's positives, and that of its negatives, is cut into equal bins, and from each
    bin so many references are drawn, or all if it holds fewer.

    Args:
        key: The random key; pass another one in every step.
        bins: How many bins a range is cut into.
        positives_per_bin: How many positives to draw from a bin; not more than there are references.
        negatives_per_bin: How many negatives to draw from a bin; likewise.

    Returns:
        `Pairs`, each array ``[batch, bins * (positives_per_bin + negatives_per_bin)]``: first the positives, then the
        negatives, each from the nearest bin to the farthest.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings, labels = jnp.array([[0.0], [1.0], [2.0], [9.0]]), jnp.array([0, 1, 1, 1])
        >>> mined = mj.mining.uniform_histogram(embeddings, labels, key=jax.random.key(0), bins=2)
        >>> mined.valid[0]
        Array([False, False,  True,  True], dtype=bool)
        >>> mined.reference[0, 3]
        Array(3, dtype=int32)
    """
    for name, count in (
        ("bins", bins),
        ("positives_per_bin", positives_per_bin),
        ("negatives_per_bin", negatives_per_bin),
    ):
        slots_from(count, name, None)
    key = _as_key(key)

    def one_anchor(
        distances: Array, positives: Array, negatives: Array, place: Array
    ) -> tuple[Array, Array, Array]:
        order = jax.random.uniform(jax.random.fold_in(key, place), distances.shape, jnp.float32)
        p, has_p = _from_bins(distances, positives, order, bins, positives_per_bin)
        n, has_n = _from_bins(distances, negatives, order, bins, negatives_per_bin)
        return positives_first(p, has_p, n, has_n)

    return as_pairs(*batch.over_anchors(one_anchor, _places(batch)))


def _from_bins(distances: Array, where: Array, order: Array, bins: int, per_bin: int) -> tuple[Array, Array]:
    """The first ``per_bin`` by ``order`` of every bin of distances: indices and which slots are filled."""
    finite = where & jnp.isfinite(distances)
    least = jnp.min(distances, where=finite, initial=jnp.inf)
    spread = jnp.max(distances, where=finite, initial=-jnp.inf) - least
    offset = jnp.where(finite, distances - least, 0.0)
    bin_of = jnp.floor(offset * bins / jnp.where(spread > 0, spread, 1.0)).astype(jnp.int32)
    bin_of = jnp.where(where, jnp.clip(bin_of, 0, bins - 1), bins)  # the last stands for none
    # What is not finite stands first of the first bin: it must reach the loss.
    order = jnp.where(finite, order, -1.0)
    indices, found = lax.map(lambda b: largest(-order, bin_of == b, per_bin), jnp.arange(bins))
    return indices.reshape(-1), found.reshape(-1)


def _places(batch: Batch) -> Array:
    """The place of each anchor in the whole batch, over all devices."""
    return places(len(batch.comparison.anchors), batch.axis_name)


def _as_key(key: Array) -> Array:
    """A scalar key; the older form, two integers, is taken too. Raises a TypeError for what is neither."""
    is_key = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if jnp.shape(key) != (() if is_key else (2,)):
        raise TypeError(f"key must be one jax.random.key, got {key!r}: pass jax.random.key(0)")
    return key if is_key else jax.random.wrap_key_data(key)
