"""Losses of continuous labels: an age, an angle, a price, where classes would throw the order away.

There is no positive and no negative as such. Of two references, the one whose label is nearer to the anchor's should be
the nearer one: each reference in turn is the positive, and all whose labels are at least as far are its negatives.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from metric_jax.anchors import Batch, batch_loss
from metric_jax.distances import euclidean
from metric_jax.limits import POSITIVE
from metric_jax.reductions import Terms, terms

LabelDistance = Callable[[Array, Array], Array]


def absolute_difference(a: Array, b: Array) -> Array:
    """``Σ |a - b|`` over the axes of two labels; of single integers exactly, in an unsigned type, which always fits."""
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
    if not jnp.issubdtype(low.dtype, jnp.floating):
        unsigned = jnp.uint64 if low.dtype.itemsize == 8 else jnp.uint32
        low, high = low.astype(unsigned), high.astype(unsigned)
    difference = high - low
    return (
        jnp.sum(difference.astype(jnp.promote_types(difference.dtype, jnp.float32))) if a.ndim else difference
    )


def any_two(a: Array, b: Array) -> Array:
    """The match of a loss without classes: every reference is to be compared with the anchor."""
    del a, b
    return jnp.array(True)


@batch_loss(distance=euclidean, static=("label_distance",), within={"temperature": POSITIVE}, match=any_two)
def rank_n_contrast_loss(
    batch: Batch, *, temperature: float | Array = 2.0, label_distance: LabelDistance = absolute_difference
) -> Terms:
    """Rank-N-Contrast: the order of distances in the embedding should be that of the labels.

    ``L(a) = Σ_j -log( exp(-d(a, j) / τ) / Σ_{k ∈ S(a, j)} exp(-d(a, k) / τ) )`` with
    ``S(a, j) = {k ≠ a: D(y_a, y_k) ≥ D(y_a, y_j)}``, the references whose labels are at least as far from the anchor's
    as that of j, ties and j itself among them; its terms are all pairs of an anchor and a reference. An anchor's row is
    sorted once, which costs O(references * log references).

    Labels are floating (or integers whose order matters), ``[batch]`` or ``[batch, ...]``. ``match=`` does not say who
    is alike, but who is compared with whom at all: everyone, by default.

    Args:
        temperature: τ, in units of the distance.
        label_distance: ``(label, label) -> scalar``: D, by default the absolute difference, summed over a label's axes.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        Anchor 0 has neighbours at 1 and 3, of weights ``2^-d``: -log(4/5) for the first, 0 for the last.

        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings, ages = jnp.array([[0.0], [1.0], [3.0]]), jnp.array([20.0, 21.5, 70.0])
        >>> losses = mj.rank_n_contrast_loss(embeddings, ages, temperature=1 / jnp.log(2), reduction="none")
        >>> jnp.round(jnp.exp(losses), 4)
        Array([1.25, 1.5 , 1.5 ], dtype=float32)

    References:
        Zha, Cao, Son, Yang, Katabi (2023), Rank-N-Contrast: Learning Continuous Representations for Regression.
        https://arxiv.org/abs/2210.01189
    """
    if batch.comparison.pairs is not None:
        raise ValueError("rank_n_contrast_loss compares labels with each other: pairs= cannot replace them")
    reference_labels = batch.comparison.reference_labels

    def one_anchor(distances: Array, positives: Array, negatives: Array, label: Array) -> Terms:
        del negatives
        apart = jax.vmap(label_distance, in_axes=(None, 0))(label, reference_labels)
        # By ascending distance of labels, behind what is not selected: the sum for j begins at the first tie of j.
        order = jnp.lexsort((apart, positives))
        apart, is_selected = apart[order], positives[order]
        # A label that is NaN has no place in the order, and must not pass for one that has.
        known = jnp.where(jnp.isnan(apart), jnp.nan, -distances[order] / temperature)
        logits = jnp.where(is_selected, known, 0.0)
        # XLA's own cumulative log-sum-exp may take quadratic time.
        sums = lax.associative_scan(jnp.logaddexp, logits, reverse=True)
        starts = jnp.append(True, (apart[1:] != apart[:-1]) | ~is_selected[:-1])
        first_tie = lax.cummax(jnp.where(starts, jnp.arange(len(logits)), 0))
        return terms(sums[first_tie] - logits, where=is_selected)

    return batch.over_anchors(one_anchor, batch.comparison.labels)
