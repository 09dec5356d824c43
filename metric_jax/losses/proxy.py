"""Proxy losses: a batch against one learned point, or a few, for each class.

Pairs and triplets of a batch are many, and most say nothing. A proxy stands for its whole class, so that every row
meets every class at every step, and there is nothing to mine. What differs is who is the anchor: in ProxyNCA,
SoftTriple and the center loss the row is, and looks at proxies; in Proxy-Anchor the proxy is, and looks at the rows of
the batch, which thereby feel each other.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metric_jax.distances import cosine_similarity, euclidean, normalize, squared_euclidean
from metric_jax.limits import COSINE_GAP, NOT_NEGATIVE, POSITIVE
from metric_jax.proxies import ProxyBatch, proxy_loss, softmax_head
from metric_jax.reductions import Parts, Terms, terms
from metric_jax.sums import log_sum_exp


@softmax_head(own_in_denominator=False, within={"scale": POSITIVE})
def proxy_nca_loss(similarities: Array, is_own: Array, *, scale: float | Array = 1.0) -> Array:
    """ProxyNCA: a row should be nearer to its own proxy than to the others.

    ``L(x) = -log(exp(-d(x, p_y)) / Σ_{z≠y} exp(-d(x, p_z)))`` with ``d(x, p) = s |x/|x| - p/|p||²``, which is
    ``2s - 2s cos``, and y the class of x. Its terms are the rows, if there is another class. As in the paper, the own
    proxy is not in the denominator, and the loss of a good row is negative; `proxy_nca_pp_loss` has it there.

    Args:
        scale: s, in front of the squared distance; 1 in the paper.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> proxies = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> mj.proxy_nca_loss(jnp.array([[3.0, 0.0]]), jnp.array([0]), proxies)
        Array(-2., dtype=float32)

    References:
        Movshovitz-Attias, Toshev, Leung, Ioffe, Singh (2017), No Fuss Distance Metric Learning using Proxies.
        https://arxiv.org/abs/1703.07464
    """
    del is_own
    return 2.0 * scale * similarities  # the constant of the distance cancels


@softmax_head(within={"temperature": POSITIVE})
def proxy_nca_pp_loss(similarities: Array, is_own: Array, *, temperature: float | Array = 1.0 / 9.0) -> Array:
    """ProxyNCA++: the probability of picking the own proxy, at a low temperature.

    ``L(x) = -log(exp(-d(x, p_y) / T) / Σ_z exp(-d(x, p_z) / T))`` with ``d(x, p) = |x/|x| - p/|p||²``, which is
    ``2 - 2 cos``, and y the class of x; its terms are the rows.

    Args:
        temperature: T, in units of the squared distance.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> proxies = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> mj.proxy_nca_pp_loss(jnp.array([[0.0, 3.0]]), jnp.array([0]), proxies, temperature=0.02)
        Array(100., dtype=float32)

    References:
        Teh, DeVries, Taylor (2020), ProxyNCA++: Revisiting and Revitalizing Proxy Neighborhood Component Analysis.
        https://arxiv.org/abs/2004.01113
    """
    del is_own
    return 2.0 * similarities / temperature  # the constant of the distance cancels


@proxy_loss(similarity=cosine_similarity, of_proxies=True, within={"margin": COSINE_GAP, "scale": POSITIVE})
def proxy_anchor_loss(
    batch: ProxyBatch, *, margin: float | Array = 0.1, scale: float | Array = 32.0
) -> Parts:
    """Proxy-Anchor: every proxy pulls its rows of the batch and pushes the others, the hardest the most.

    ``L = 1/|P⁺| Σ_{p∈P⁺} log(1 + Σ_{x⁺} exp(-α (s(x, p) - δ))) + 1/|P| Σ_{p∈P} log(1 + Σ_{x⁻} exp(α (s(x, p) + δ)))``
    with P all proxies and P⁺ those that have a row of their class in the batch. It has two parts, averaged apart: their
    terms are the proxies P⁺ and the proxies P.

    Args:
        margin: δ, in units of the similarity.
        scale: α, the inverse of a temperature.

    Returns:
        The loss: a scalar, or with ``reduction="none"`` one value for each proxy, ``[classes]``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings, proxies = jnp.array([[3.0, 0.0], [0.0, 2.0]]), jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> mj.proxy_anchor_loss(embeddings, jnp.array([1, 0]), proxies, margin=0.25, scale=80.0)
        Array(120., dtype=float32)

    References:
        Kim, Kim, Cho, Kwak (2020), Proxy Anchor Loss for Deep Metric Learning. https://arxiv.org/abs/2003.13911
    """

    def one_proxy(similarities: Array, positives: Array, negatives: Array) -> tuple[Terms, Terms]:
        pulled = jax.nn.softplus(log_sum_exp(-scale * (similarities - margin), positives))
        pushed = jax.nn.softplus(log_sum_exp(scale * (similarities + margin), negatives))
        return terms(pulled, where=positives.any()), terms(pushed, where=(positives | negatives).any())

    return batch.over_proxies(one_proxy)


@proxy_loss(
    similarity=cosine_similarity,
    centers=True,
    within={"scale": POSITIVE, "temperature": POSITIVE, "margin": COSINE_GAP, "tau": NOT_NEGATIVE},
)
def soft_triple_loss(
    batch: ProxyBatch,
    *,
    scale: float | Array = 20.0,
    temperature: float | Array = 0.1,
    margin: float | Array = 0.01,
    tau: float | Array = 0.0,
) -> Terms:
    """SoftTriple: a softmax over classes that have several centers each.

    ``L(x) = -log(exp(λ (S_y - δ)) / (exp(λ (S_y - δ)) + Σ_{j≠y} exp(λ S_j))) + τ R``, where
    ``S_j = Σ_k q_k s(x, w_jk)`` with ``q = softmax_k(s(x, w_jk) / γ)`` is the similarity to class j, y is the class of
    x, and ``R = Σ_j Σ_{k<l} |w_jk - w_jl| / (C K (K - 1))``, of centers at unit length, draws together those that a
    class does not need. Proxies are ``[classes, centers, dim]``; its terms are the rows.

    Args:
        scale: λ, the inverse of a temperature.
        temperature: γ, of the choice among the centers of a class, in units of the similarity.
        margin: δ, in units of the similarity.
        tau: τ, what the centers' distances cost; the paper takes 0.2.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> proxies = jnp.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
        >>> mj.soft_triple_loss(jnp.array([[0.0, 3.0]]), jnp.array([0]), proxies, margin=0.25, scale=80.0)
        Array(100., dtype=float32)

    References:
        Qian, Shang, Sun, Hu, Li, Jin (2019), SoftTriple Loss: Deep Metric Learning Without Triplet Sampling.
        https://arxiv.org/abs/1909.05235
    """

    def logits(similarities: Array, is_own: Array) -> Array:
        to_class = jnp.sum(jax.nn.softmax(similarities / temperature, axis=1) * similarities, axis=1)
        return scale * (to_class - jnp.where(is_own, margin, 0.0))

    distance = dataclasses.replace(euclidean, precision=batch.distance.precision)

    def spread(centers: Array) -> Array:
        count = len(centers)
        return jnp.sum(distance.pairwise(centers, centers)) / (2 * max(count * (count - 1), 1))

    spreads = jax.vmap(spread)(normalize(batch.proxies))
    classes = batch.sum_over_classes(jnp.ones_like(spreads).sum())
    return batch.cross_entropy(logits, plus=tau * batch.sum_over_classes(spreads.sum()) / classes)


@proxy_loss(distance=squared_euclidean)
def center_loss(batch: ProxyBatch) -> Terms:
    """Center loss: every row is drawn to the center of its class; used beside a softmax, which keeps classes apart.

    ``L(x) = ½ d(x, c_y)``, with y the class of x and d the squared Euclidean distance; its terms are the rows. No other
    center is looked at. The paper moves centers by a running mean; here they are learned, or updated as you like.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> centers = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> mj.center_loss(jnp.array([[4.0, 0.0], [0.0, 2.0]]), jnp.array([0, 1]), centers, reduction="none")
        Array([4.5, 0. ], dtype=float32)

    References:
        Wen, Zhang, Li, Qiao (2016), A Discriminative Feature Learning Approach for Deep Face Recognition.
        https://ydwen.github.io/papers/WenECCV16.pdf
    """
    compared = batch.comparison
    rows, labels, where = batch.gathered((compared.anchors, compared.labels, compared.where))
    order = jnp.argsort(batch.proxy_labels)
    place = jnp.searchsorted(batch.proxy_labels[order], labels.astype(batch.proxy_labels.dtype))
    own = order[jnp.minimum(place, len(order) - 1)]
    found = jax.vmap(terms)(
        0.5 * batch.distance(rows, batch.proxies[own]), where & (batch.proxy_labels[own] == labels)
    )
    return batch.merged(jax.lax.psum, found)
