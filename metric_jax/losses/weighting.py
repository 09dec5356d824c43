"""Losses that weigh pairs: what a pair costs depends on the others of its anchor, or on all pairs of the batch.

The contrastive loss charges every pair alone. These losses look around: an anchor's hardest pairs decide which others
count (multi-similarity), how much each counts (circle, ranked list) or how far it is from what is usual (intra-pair
variance); the boundary between positives and negatives is learned (margin), or measured in units of the anchor's own
variance (signal-to-noise).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from metric_jax.anchors import Batch, batch_loss, per_anchor
from metric_jax.distances import cosine_similarity, euclidean, signal_to_noise
from metric_jax.limits import FRACTION, NOT_NEGATIVE, POSITIVE, Limits
from metric_jax.pairs import outside
from metric_jax.reductions import Terms, reduce, terms
from metric_jax.sums import log_sum_exp


@per_anchor(
    similarity=cosine_similarity,
    within={"alpha": POSITIVE, "beta": POSITIVE, "base": Limits(), "epsilon": NOT_NEGATIVE},
)
def multi_similarity_loss(
    similarities: Array,
    positives: Array,
    negatives: Array,
    *,
    alpha: float | Array = 2.0,
    beta: float | Array = 50.0,
    base: float | Array = 0.5,
    epsilon: float | Array | None = 0.1,
) -> Terms:
    """Multi-similarity loss: soft maxima over the pairs of an anchor that are worth it.

    ``L(a) = 1/α log(1 + Σ_p exp(-α (s(a, p) - λ))) + 1/β log(1 + Σ_n exp(β (s(a, n) - λ)))``, over the negatives with
    ``s(a, n) + ε > min_p s(a, p)`` and the positives with ``s(a, p) - ε < max_n s(a, n)``; its terms are the anchors
    that have a positive or a negative. One that has not both keeps no pair and costs 0, unless nothing is mined.

    Args:
        alpha: α, how much harder positives outweigh easier ones.
        beta: β, how much harder negatives outweigh easier ones.
        base: λ, the similarity at which a pair starts to cost.
        epsilon: ε, how far from the hardest pair of the other kind a pair may be; None keeps all pairs.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> mj.multi_similarity_loss(embeddings, jnp.array([0, 0, 1]), reduction="none").round(4)
        Array([0.6566, 1.1566, 0.    ], dtype=float32)

    References:
        Wang, Han, Huang, Dong, Scott (2019), Multi-Similarity Loss with General Pair Weighting for Deep Metric
        Learning. https://arxiv.org/abs/1904.06627
    """
    is_term = (positives | negatives).any()
    if epsilon is not None:
        hardest_positive = jnp.min(similarities, where=positives, initial=jnp.inf)
        hardest_negative = jnp.max(similarities, where=negatives, initial=-jnp.inf)
        # Said by what is left out, so that NaN is kept and reaches the loss.
        positives &= ~(similarities - epsilon >= hardest_negative)
        negatives &= ~(similarities + epsilon <= hardest_positive)
    pull = jax.nn.softplus(log_sum_exp(-alpha * (similarities - base), positives)) / alpha
    push = jax.nn.softplus(log_sum_exp(beta * (similarities - base), negatives)) / beta
    return terms(pull + push, where=is_term)


@per_anchor(similarity=cosine_similarity, within={"margin": FRACTION, "scale": POSITIVE})
def circle_loss(
    similarities: Array,
    positives: Array,
    negatives: Array,
    *,
    margin: float | Array = 0.25,
    scale: float | Array = 256.0,
) -> Terms:
    """Circle loss: every similarity is pulled the more, the farther it is from its optimum.

    ``L(a) = log(1 + Σ_n exp(γ α_n (s(a, n) - m)) Σ_p exp(-γ α_p (s(a, p) - 1 + m)))`` with the weights
    ``α_n = max(0, s(a, n) + m)`` and ``α_p = max(0, 1 + m - s(a, p))``, through which no gradient flows; its terms are
    the anchors that have both a positive and a negative.

    Args:
        margin: m, the relaxation: negatives should come below m and positives above 1 - m.
        scale: γ; the paper takes 256 for faces, 128 for persons and 80, with a margin of 0.4, for fine-grained images.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> mj.circle_loss(embeddings, jnp.array([0, 0, 1]), margin=0.5, scale=4.0, reduction="none").round(4)
        Array([0.1269, 0.1269, 0.    ], dtype=float32)

    References:
        Sun et al. (2020), Circle Loss: A Unified Perspective of Pair Similarity Optimization.
        https://arxiv.org/abs/2002.10857
    """
    weights = jax.nn.relu(jnp.where(positives, 1.0 + margin - similarities, similarities + margin))
    beyond = jnp.where(positives, 1.0 - margin - similarities, similarities - margin)
    logits = scale * lax.stop_gradient(weights) * beyond
    both = log_sum_exp(logits, positives) + log_sum_exp(logits, negatives)
    return terms(jax.nn.softplus(both), where=positives.any() & negatives.any())


def _check_betas(*, beta: Any, labels: Array | None, where: Array | None, **_: Any) -> None:
    """Raises a ValueError when a label has no entry in ``beta [classes]``, if both are known."""
    if np.ndim(beta) > 1:
        raise ValueError(f"margin_loss: beta must be a number or [classes], got shape {np.shape(beta)}")
    if np.ndim(beta) == 0:
        return
    if labels is None:
        raise ValueError("margin_loss: beta [classes] needs the labels of the anchors: pass labels too")
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"margin_loss: beta [classes] needs labels that number them, got {labels.dtype}{list(labels.shape)}: pass "
            "one number as beta"
        )
    where = jnp.ones(labels.shape, bool) if where is None else where
    if where.dtype == bool and where.shape == labels.shape:
        for label in outside(labels, where, len(beta))[:1]:
            raise ValueError(f"margin_loss: label {label} has no beta: there are {len(beta)} of them")


@batch_loss(
    distance=euclidean,
    within={"margin": NOT_NEGATIVE, "beta": Limits()},
    vectors=("beta",),
    check=_check_betas,
)
def margin_loss(batch: Batch, *, margin: float | Array = 0.2, beta: float | Array = 1.2) -> Terms:
    """Margin-based loss: positives inside a boundary, negatives outside, and the boundary may be learned.

    ``L(a) = Σ_p max(0, d(a, p) - β + α) + Σ_n max(0, β - d(a, n) + α)``; its terms are all pairs of an anchor and a
    reference. The paper divides by the pairs that cost something: ``reduction="mean_active"``.

    Args:
        margin: α, how far from the boundary a pair should be, in units of the distance.
        beta: β, the distance at which the boundary lies: a number, or ``[classes]``, one for the label of the anchor. A
            label beyond these makes the loss NaN where it is too late for an error.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings, labels = jnp.array([[0.0], [2.0], [1.0]]), jnp.array([0, 0, 1])
        >>> mj.margin_loss(embeddings, labels, margin=0.5, beta=1.0, reduction="none")
        Array([2., 2., 1.], dtype=float32)
        >>> mj.margin_loss(embeddings, labels, margin=0.5, beta=jnp.array([1.0, 2.0]), reduction="none")
        Array([2., 2., 3.], dtype=float32)

    References:
        Wu, Manmatha, Smola, Krähenbühl (2017), Sampling Matters in Deep Embedding Learning.
        https://arxiv.org/abs/1706.07567
    """
    compared, beta = batch.comparison, jnp.asarray(beta)
    if beta.ndim == 0:
        boundaries = jnp.broadcast_to(beta, compared.where.shape)
    else:
        known = (compared.labels >= 0) & (compared.labels < len(beta))
        own = beta[jnp.where(known, compared.labels, 0)]
        boundaries = jnp.where(known, own, jnp.where(compared.where, jnp.nan, 0.0))

    def one_anchor(distances: Array, positives: Array, negatives: Array, boundary: Array) -> Terms:
        beyond = jnp.where(positives, distances - boundary, boundary - distances)
        return terms(jax.nn.relu(beyond + margin), where=positives | negatives)

    return batch.over_anchors(one_anchor, boundaries)


@per_anchor(
    distance=euclidean,
    within={
        "margin": NOT_NEGATIVE,
        "alpha": POSITIVE,
        "balance": FRACTION,
        "positive_temperature": NOT_NEGATIVE,
        "negative_temperature": NOT_NEGATIVE,
    },
)
def ranked_list_loss(
    distances: Array,
    positives: Array,
    negatives: Array,
    *,
    margin: float | Array = 0.4,
    alpha: float | Array = 1.2,
    balance: float | Array = 0.5,
    positive_temperature: float | Array = 0.0,
    negative_temperature: float | Array = 10.0,
) -> Terms:
    """Ranked list loss: positives within a sphere, negatives out of a larger one, the worst of both weighing most.

    ``L(a) = (1 - λ) Σ_p w_p (d(a, p) - α + m) / Σ_p w_p + λ Σ_n w_n (α - d(a, n)) / Σ_n w_n``, over the positives with
    ``d(a, p) > α - m`` and the negatives with ``d(a, n) < α``, weighted by ``w_p = exp(T_p (d(a, p) - α + m))`` and
    ``w_n = exp(T_n (α - d(a, n)))``; no gradient flows through a weight, which is what the gradient of its pair is
    multiplied by. Its terms are the anchors that have a positive or a negative. The paper's rows have length 1.

    Args:
        margin: m, how much deeper than the negatives' sphere that of the positives is, in units of the distance.
        alpha: α, the radius that negatives should be beyond.
        balance: λ, the share of the negatives in the loss.
        positive_temperature: T_p; 0 weighs all positives alike, as the paper does.
        negative_temperature: T_n; the paper takes 10.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[0.0], [1.5], [0.5]])
        >>> mj.ranked_list_loss(embeddings, jnp.array([0, 0, 1]), margin=0.5, alpha=1.0, reduction="none")
        Array([0.75, 0.5 , 0.25], dtype=float32)

    References:
        Wang, Hua, Kodirov, Hu, Garnier, Robertson (2019), Ranked List Loss for Deep Metric Learning.
        https://arxiv.org/abs/1903.03238
    """
    too_far = _weighted_mean(distances - alpha + margin, positives, positive_temperature)
    too_near = _weighted_mean(alpha - distances, negatives, negative_temperature)
    return terms((1.0 - balance) * too_far + balance * too_near, where=(positives | negatives).any())


def _weighted_mean(excess: Array, where: Array, temperature: float | Array) -> Array:
    """The mean of what is above 0, weighted by ``exp(temperature * excess)``; 0 if nothing is."""
    above = where & ~(excess <= 0)  # NaN counts: it must not vanish
    excess = jnp.where(above, excess, 0.0)
    exponents = lax.stop_gradient(temperature * excess)
    weights = jnp.exp(exponents - log_sum_exp(exponents, jnp.ones_like(above)))
    weights = lax.stop_gradient(jnp.where(above, weights, 0.0))
    total = jnp.sum(weights)
    return jnp.sum(weights * excess) / jnp.where(above.any(), total, 1.0)


@batch_loss(
    similarity=cosine_similarity,
    within={"positive_epsilon": NOT_NEGATIVE, "negative_epsilon": NOT_NEGATIVE},
)
def intra_pair_variance_loss(
    batch: Batch, *, positive_epsilon: float | Array = 0.01, negative_epsilon: float | Array = 0.01
) -> tuple[Terms, Terms]:
    """Intra-pair variance loss: no positive pair much below the mean of its kind, no negative pair much above.

    ``L(a) = Σ_p max(0, (1 - ε_p) μ_p - s(a, p))² + Σ_n max(0, s(a, n) - (1 + ε_n) μ_n)²``, where μ_p and μ_n are the
    mean similarities of all positive and of all negative pairs of the batch; its terms are the pairs, and positive and
    negative ones are averaged apart. It is meant to go with another loss, the tuplet margin loss in the paper.

    Args:
        positive_epsilon: ε_p, the share of the mean by which a positive pair may fall below it.
        negative_epsilon: ε_n, the share of the mean by which a negative pair may rise above it.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> own = {"positive_epsilon": 0.0, "negative_epsilon": 0.0}
        >>> mj.intra_pair_variance_loss(embeddings, jnp.array([0, 0, 0, 1]), **own).round(3)  # 2/27 of each kind
        Array(0.148, dtype=float32)

    References:
        Yu, Tao (2019), Deep Metric Learning with Tuplet Margin Loss.
        https://openaccess.thecvf.com/content_ICCV_2019/html/Yu_Deep_Metric_Learning_With_Tuplet_Margin_Loss_ICCV_2019_paper.html
    """

    def of_kinds(similarities: Array, positives: Array, negatives: Array) -> tuple[Terms, Terms]:
        return terms(similarities, where=positives), terms(similarities, where=negatives)

    lowest, highest = (reduce(kind, "mean", batch.axis_name) for kind in batch.over_anchors(of_kinds))
    lowest, highest = (1.0 - positive_epsilon) * lowest, (1.0 + negative_epsilon) * highest

    def one_anchor(similarities: Array, positives: Array, negatives: Array) -> tuple[Terms, Terms]:
        return (
            terms(jax.nn.relu(lowest - similarities) ** 2, where=positives),
            terms(jax.nn.relu(similarities - highest) ** 2, where=negatives),
        )

    return batch.over_anchors(one_anchor)


@per_anchor(
    distance=signal_to_noise, within={"positive_margin": NOT_NEGATIVE, "negative_margin": NOT_NEGATIVE}
)
def signal_to_noise_loss(
    distances: Array,
    positives: Array,
    negatives: Array,
    *,
    positive_margin: float | Array = 0.0,
    negative_margin: float | Array = 1.0,
) -> tuple[Terms, Terms]:
    """Signal-to-noise contrastive loss: the difference to a reference is noise, measured against the anchor's signal.

    ``L(a) = Σ_p max(0, d(a, p) - m_p) + Σ_n max(0, m_n - d(a, n))`` with ``d(x, y) = var(x - y) / var(x)``; its terms
    are the pairs, and positive and negative ones are averaged apart.

    Args:
        positive_margin: m_p, the share of noise that a positive pair may have.
        negative_margin: m_n, the share of noise that a negative pair should have.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[0.0, 2.0], [0.0, 4.0], [0.0, 3.0]])
        >>> mj.signal_to_noise_loss(embeddings, jnp.array([0, 0, 1]), reduction="none").round(4)
        Array([1.75  , 1.1875, 1.7778], dtype=float32)

    References:
        Yuan, Deng, Tang, Tang, Chen (2019), Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric Learning.
        https://arxiv.org/abs/1904.02616
    """
    return (
        terms(jax.nn.relu(distances - positive_margin), where=positives),
        terms(jax.nn.relu(negative_margin - distances), where=negatives),
    )
