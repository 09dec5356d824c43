"""Triplets chosen by how hard their ends are: the farthest positive, the nearest negative, or one between."""

import math
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metric_jax.anchors import Batch, miner
from metric_jax.mining.search import (
    anchor_indices,
    first_argmax,
    first_argmin,
    is_among_largest,
    one_negative_each,
    slots_from,
)
from metric_jax.mining.squares import farthest_and_nearest
from metric_jax.types import Triplets

STRATEGIES = ("easy", "semi_hard", "hard")
Ranks = tuple[int, int | None]


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
    references = len(batch.comparison.references)
    slots = min(slots_from(max_positives, "max_positives", None) or references, references)

    def one_anchor(distances: Array, positives: Array, negatives: Array) -> tuple[Array, Array, Array]:
        return one_negative_each(positives, lambda p: semi_hard_negative(distances, p, negatives), slots)

    positive, negative, valid = batch.over_anchors(one_anchor, distance=batch.distance.ranking)
    return Triplets(anchor_indices(valid), positive, negative, valid)


def _check_ranges(*, positive_range: Any, negative_range: Any, **_: Any) -> None:
    """Raises a ValueError unless both are two numbers in order, where they are known: NaN leaves nothing out."""
    for name, given in (("positive_range", positive_range), ("negative_range", negative_range)):
        is_range = _is_pair(given)
        if is_range and not any(isinstance(end, jax.core.Tracer) for end in jax.tree.leaves(given)):
            try:
                least, most = map(float, given)
            except (TypeError, ValueError):
                is_range = False
            else:
                is_range = least <= most
        if not is_range:
            raise ValueError(f"{name} must be (least, most), two distances, got {given!r}")


@miner(static=("positive", "negative", "positive_ranks", "negative_ranks"), check=_check_ranges)
def batch_easy_hard(
    batch: Batch,
    *,
    positive: str = "easy",
    negative: str = "semi_hard",
    positive_range: tuple[float | Array, float | Array] = (-math.inf, math.inf),
    negative_range: tuple[float | Array, float | Array] = (-math.inf, math.inf),
    positive_ranks: Ranks = (0, None),
    negative_ranks: Ranks = (0, None),
) -> Triplets:
    """For every anchor one positive and one negative, each of them easy, semi-hard or hard.

    A hard positive is the farthest, an easy one the nearest; a hard negative is the nearest, an easy one the farthest.
    A semi-hard negative is the nearest of those farther than the positive, ``d(a, n) > d(a, p)``; a semi-hard positive
    the farthest of those nearer than the negative. The lowest index wins a tie.

    Easy positives let a class keep several clusters. Ranges and ranks leave candidates out before any is chosen: the
    hardest ones of a noisy set are its wrong labels, and ``negative_ranks=(2, None)`` skips two of them.

    Args:
        positive: ``"easy"``, ``"semi_hard"`` or ``"hard"``.
        negative: Likewise; not both are semi-hard.
        positive_range: The distances ``(least, most)`` that a positive may have.
        negative_range: Those that a negative may have.
        positive_ranks: The ranks ``(first, end)`` that a positive may have among those in range: 0 is the hardest, the
            end is not included, None is no end. A static tuple.
        negative_ranks: Those that a negative may have.

    Returns:
        `Triplets`, each array ``[batch]``; an anchor for which one of the two is not found is not valid.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[0.0], [1.0], [5.0], [2.0], [3.0]])
        >>> labels = jnp.array([0, 0, 0, 1, 1])
        >>> mj.mining.batch_easy_hard(embeddings, labels, positive="hard", negative="hard").negative
        Array([3, 3, 4, 1, 1], dtype=int32)
        >>> mj.mining.batch_easy_hard(
        ...     embeddings, labels, positive="hard", negative="hard", negative_ranks=(1, None)
        ... ).negative
        Array([4, 4, 3, 0, 2], dtype=int32)

    References:
        Xuan, Stylianou, Pless (2020), Improved Embeddings with Easy Positive Triplet Mining.
        https://arxiv.org/abs/1904.04370
    """
    for name, strategy in (("positive", positive), ("negative", negative)):
        if strategy not in STRATEGIES:
            raise ValueError(f"{name} must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if positive == negative == "semi_hard":
        raise ValueError("positive and negative cannot both be semi_hard: each is defined by the other")
    _check_ranks(positive_ranks, "positive_ranks")
    _check_ranks(negative_ranks, "negative_ranks")

    def one_anchor(distances: Array, positives: Array, negatives: Array) -> tuple[Array, Array, Array]:
        ps = _allowed(distances, distances, positives, positive_range, positive_ranks)
        ns = _allowed(distances, -distances, negatives, negative_range, negative_ranks)
        choose_p, choose_n = (
            first_argmin if positive == "easy" else first_argmax,
            first_argmax if negative == "easy" else first_argmin,
        )
        # What fails a comparison that NaN also fails is left out, so that NaN stays in and reaches the loss.
        if positive == "semi_hard":
            n = choose_n(distances, ns)
            p = choose_p(distances, ps & ~(distances >= distances[n]))
        else:
            p = choose_p(distances, ps)
            farther = ~(distances <= distances[p]) if negative == "semi_hard" else True
            n = choose_n(distances, ns & farther)
        return _where_both(p, n, len(distances))

    p, n, valid = batch.over_anchors(one_anchor)
    return Triplets(anchor_indices(valid), p, n, valid)


def _check_ranks(ranks: Ranks, name: str) -> None:
    is_whole = _is_pair(ranks) and all(isinstance(each, Integral) for each in ranks if each is not None)
    if not is_whole or ranks[0] is None or ranks[0] < 0 or (ranks[1] is not None and ranks[1] <= ranks[0]):
        raise ValueError(
            f"{name} must be (first, end) with 0 <= first < end, or None for no end, got {ranks}"
        )


def _is_pair(value: object) -> bool:
    return hasattr(value, "__len__") and len(value) == 2


def _allowed(distances: Array, hardness: Array, where: Array, limits: tuple, ranks: Ranks) -> Array:
    """The candidates in a range of distances and, among these, in a range of ranks; NaN is always one."""
    least, most = limits
    first, end = ranks
    in_range = where & ~(distances < least) & ~(distances > most)
    allowed = in_range
    if end is not None:
        allowed &= is_among_largest(hardness, in_range, end)
    if first:
        allowed &= ~is_among_largest(hardness, in_range, first)
    return allowed | (in_range & jnp.isnan(distances))


def _where_both(p: Array, n: Array, length: int) -> tuple[Array, Array, Array]:
    """A positive, a negative and whether both were found; 0 where not."""
    valid = (p < length) & (n < length)
    return jnp.where(valid, p, 0), jnp.where(valid, n, 0), valid


def hardest(batch: Batch) -> Triplets:
    """Batch-hard triplets of a batch; see `batch_hard`."""
    frozen = batch.frozen
    if batch.comparison.pairs is None:
        positive, negative, valid = farthest_and_nearest(frozen)
        return Triplets(anchor_indices(valid), positive, negative, valid)

    def one_anchor(distances: Array, positives: Array, negatives: Array) -> tuple[Array, Array, Array]:
        farthest, nearest = first_argmax(distances, positives), first_argmin(distances, negatives)
        return _where_both(farthest, nearest, len(distances))

    positive, negative, valid = frozen.over_anchors(one_anchor, distance=batch.distance.ranking)
    return Triplets(anchor_indices(valid), positive, negative, valid)


def semi_hard_negative(distances: Array, positive: Array, negatives: Array) -> Array:
    """The nearest negative strictly farther than ``positive``, else the farthest negative: as `first_argmin` has it."""
    farther = negatives & ~(distances <= distances[positive])  # NaN counts: it must not vanish
    nearest = first_argmin(distances, farther)
    return jnp.where(nearest < len(distances), nearest, first_argmax(distances, negatives))
