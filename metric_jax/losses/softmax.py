"""Losses of a softmax over similarities: find the positives among all candidates.

A classifier's cross-entropy, in which the references take the place of the classes. With the logits ``z = s / τ``, the
similarities s over a temperature τ, a positive pair (a, p) costs

    -log( exp(z(a, p)) / (exp(z(a, p)) + Σ_n exp(z(a, n))) )  =  softplus(log Σ_n exp(z(a, n)) - z(a, p))

and what the losses of this file differ in is the denominator: NT-Xent's has the one positive pair and all negatives,
SupCon's all positives too, and the decoupled loss's the negatives alone. The form on the right is the one computed: at
no temperature does it overflow, saturate, or lose a small loss to rounding.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metric_jax.anchors import Batch, batch_loss, per_anchor
from metric_jax.collectives import log_sum_exp_over, sum_over
from metric_jax.distances import cosine_similarity
from metric_jax.limits import POSITIVE
from metric_jax.reductions import Terms, terms
from metric_jax.sums import largest, log_sum_exp


@per_anchor(similarity=cosine_similarity, within={"temperature": POSITIVE})
def ntxent_loss(
    similarities: Array, positives: Array, negatives: Array, *, temperature: float | Array = 0.1
) -> Terms:
    """Normalised temperature-scaled cross-entropy (NT-Xent, InfoNCE): each positive against all negatives.

    ``L(a) = Σ_p -log( exp(s(a, p) / τ) / (exp(s(a, p) / τ) + Σ_n exp(s(a, n) / τ)) )``; its terms are the positive
    pairs. SimCLR's batch is two views of every image under one label, so that each anchor has one positive; for the
    explicit two views of CLIP see `infonce_loss`.

    Args:
        temperature: τ, in units of the similarity: the smaller, the more the nearest negatives count. May be learned.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        With τ = 1 / log 2 the weights ``exp(s / τ)`` are 2 for equal rows and 1 for orthogonal ones.

        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> losses = mj.ntxent_loss(
        ...     embeddings, jnp.array([0, 0, 1]), temperature=1 / jnp.log(2), reduction="none"
        ... )
        >>> jnp.round(jnp.exp(losses), 4)
        Array([1.5, 1.5, 1. ], dtype=float32)

    References:
        Chen, Kornblith, Norouzi, Hinton (2020), A Simple Framework for Contrastive Learning of Visual Representations.
        https://arxiv.org/abs/2002.05709
        van den Oord, Li, Vinyals (2018), Representation Learning with Contrastive Predictive Coding.
        https://arxiv.org/abs/1807.03748
    """
    logits = similarities / temperature
    return terms(against(logits, logits, negatives), where=positives)


def against(of_positives: Array, logits: Array, negatives: Array) -> Array:
    """``-log( exp(z_p) / (exp(z_p) + Σ_n exp(z_n)) )`` of every ``z_p`` in ``of_positives``; 0 without a negative."""
    return jax.nn.softplus(log_sum_exp(logits, negatives) - of_positives)


@per_anchor(similarity=cosine_similarity, within={"temperature": POSITIVE})
def supcon_loss(
    similarities: Array, positives: Array, negatives: Array, *, temperature: float | Array = 0.1
) -> Terms:
    """Supervised contrastive loss: the mean over an anchor's positives of their cross-entropy among all others.

    ``L(a) = -1 / |P(a)| Σ_p log( exp(s(a, p) / τ) / Σ_{k ≠ a} exp(s(a, k) / τ) )``, the paper's L_out, without the
    factor of its code, τ over a base temperature; its terms are the anchors that have a positive.

    Args:
        temperature: τ, in units of the similarity. May be learned.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> temperature = 1 / jnp.log(2)  # exp(s / τ) is 2 for equal rows, 1 for orthogonal ones
        >>> losses = mj.supcon_loss(
        ...     embeddings, jnp.array([0, 0, 1]), temperature=temperature, reduction="none"
        ... )
        >>> jnp.round(jnp.exp(losses), 4)
        Array([1.5, 1.5, 1. ], dtype=float32)

        Items with several labels each match where they share one: the first two rows do, and the last two.

        >>> has_label = jnp.array([[True, False, True], [True, True, False], [False, True, False]])
        >>> def share_a_label(a, b):
        ...     return jnp.any(a & b)
        >>> losses = mj.supcon_loss(
        ...     embeddings, has_label, match=share_a_label, temperature=temperature, reduction="none"
        ... )
        >>> jnp.round(jnp.exp(2 * losses), 4)
        Array([2.25, 4.5 , 4.  ], dtype=float32)

    References:
        Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan (2020), Supervised Contrastive Learning.
        https://arxiv.org/abs/2004.11362
    """
    others, count = positives | negatives, jnp.sum(positives)
    logits = (similarities - largest(similarities, others)) / temperature
    weights = jnp.exp(jnp.where(others, logits, -jnp.inf))  # one exponential serves both sums
    of_positives, of_negatives = jnp.sum(weights, where=positives), jnp.sum(weights, where=negatives)
    # log Σ_all, where positives outweigh negatives in two parts that keep their digits when they are small.
    outweigh = of_positives > of_negatives
    rest = jnp.where(outweigh, of_positives, of_positives + of_negatives)
    rest = jnp.log(jnp.where(rest == 0, 1.0, rest))  # NaN stays NaN
    added = jnp.log1p(jnp.where(outweigh, of_negatives, 0.0) / jnp.where(outweigh, of_positives, 1.0))
    mean = jnp.sum(logits, where=positives) / jnp.maximum(count, 1)
    return terms(jnp.where(count > 0, added + (rest - mean), 0.0), where=count > 0)


@batch_loss(similarity=cosine_similarity, within={"temperature": POSITIVE, "sigma": POSITIVE})
def decoupled_contrastive_loss(
    batch: Batch, *, temperature: float | Array = 0.1, sigma: float | Array | None = None
) -> Terms:
    """Decoupled contrastive loss: NT-Xent with the positive pair taken out of the denominator.

    ``L(a) = Σ_p -w(a, p) s(a, p) / τ + log Σ_n exp(s(a, n) / τ)``; its terms are the positive pairs of anchors that
    have a negative. It may be negative. NT-Xent's gradient fades where a positive pair is easy, which makes it want
    large batches; this one's does not.

    The weights are 1, or with ``sigma`` the paper's, larger for pairs that are still far apart:
    ``w(a, p) = 2 - exp(s(a, p) / σ) / mean exp(s / σ)``, the mean over all terms of the batch.

    Args:
        temperature: τ, in units of the similarity. May be learned.
        sigma: σ of the weights, in units of the similarity (0.5 in the paper); None weights all pairs alike.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> mj.decoupled_contrastive_loss(
        ...     embeddings, jnp.array([0, 0, 1]), temperature=0.5, reduction="none"
        ... )
        Array([-2., -2.,  0.], dtype=float32)

    References:
        Yeh, Hong, Hsu, Liu, Chen, LeCun (2021), Decoupled Contrastive Learning. https://arxiv.org/abs/2110.06848
    """
    width: float | Array = 1.0 if sigma is None else sigma

    def in_units_of_width(similarities: Array, positives: Array, negatives: Array) -> tuple[Array, Array]:
        return similarities / width, positives & jnp.any(negatives)

    log_mean = jnp.zeros(()) if sigma is None else log_mean_exp(batch, in_units_of_width)

    def one_anchor(similarities: Array, positives: Array, negatives: Array) -> Terms:
        logits, is_term = similarities / temperature, positives & jnp.any(negatives)
        pulls = logits
        if sigma is not None:
            # Only at the terms: elsewhere the exponential may overflow, and 0 times its slope would be NaN.
            pulls = logits * (2.0 - jnp.exp(jnp.where(is_term, similarities / width - log_mean, 0.0)))
        return terms(log_sum_exp(logits, negatives) - pulls, where=is_term)

    return batch.over_anchors(one_anchor)


def log_mean_exp(batch: Batch, values_of: Callable[..., tuple[Array, Array]]) -> Array:
    """``log mean exp(value)`` over pairs of all devices; 0 if there are none.

    ``values_of(distances, positives, negatives)`` gives the values of one anchor's pairs, and which of them count.
    """

    def one_anchor(*row: Array) -> tuple[Array, Array]:
        values, where = values_of(*row)
        return log_sum_exp(values, where), jnp.sum(where, dtype=values.dtype)

    of_anchors, counts = batch.over_anchors(one_anchor)
    total = sum_over(jnp.sum(counts), batch.axis_name)
    found = log_sum_exp_over(log_sum_exp(of_anchors, counts > 0), batch.axis_name)
    found = found - jnp.log(jnp.maximum(total, 1.0))
    return jnp.where(total > 0, found, 0.0)
