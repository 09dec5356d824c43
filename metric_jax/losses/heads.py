"""Margin softmax heads: classify, but make the row's own class harder than it is.

A head has a proxy w_j for each class, and trains by ``-log softmax(logits)`` of the row's own class y. The logits are
made of the cosines of the angles θ_j between the row x and the proxies, and a margin takes something off the own one:

    NormSoftmax    cos θ_y / T
    CosFace        s (cos θ_y - m)
    ArcFace        s cos(θ_y + m)
    SphereFace     |x| ψ(m θ_y),  with cos(m θ) continued so that it falls from θ = 0 to π

None of them computes an angle: arccos has an infinite slope at ±1, where a trained row ends up. Sums and multiples of
angles are polynomials in the cosine and the sine.
"""

import math
import operator

import jax.numpy as jnp
from jaxtyping import Array

from metric_jax.distances import cosine_similarity, dot_product, euclidean
from metric_jax.limits import COSINE_GAP, POSITIVE, Limits
from metric_jax.losses.angles import cos_of_shifted
from metric_jax.proxies import ProxyBatch, proxy_loss, softmax_head
from metric_jax.reductions import Terms, terms

ANGLE = Limits(0.0, math.pi)


@softmax_head(within={"temperature": POSITIVE})
def normalized_softmax_loss(
    similarities: Array, is_own: Array, *, temperature: float | Array = 0.05
) -> Array:
    """Softmax over classes, by cosine.

    ``L(x) = -log(exp(s_y / T) / Σ_j exp(s_j / T))`` with ``s_j`` the similarity of x to the proxy of class j, and y the
    class of x; its terms are the rows.

    Args:
        temperature: T, in units of the similarity.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> proxies = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> mj.normalized_softmax_loss(jnp.array([[3.0, 3.0]]), jnp.array([1]), proxies)
        Array(0.6931472, dtype=float32)

    References:
        Zhai, Wu (2018), Classification is a Strong Baseline for Deep Metric Learning.
        https://arxiv.org/abs/1811.12649
    """
    del is_own
    return similarities / temperature


@softmax_head(angular=True, within={"margin": COSINE_GAP, "scale": POSITIVE})
def cosface_loss(
    similarities: Array, is_own: Array, *, margin: float | Array = 0.35, scale: float | Array = 64.0
) -> Array:
    """Softmax with a margin between cosines.

    ``L(x) = -log(exp(s (cos θ_y - m)) / (exp(s (cos θ_y - m)) + Σ_{j≠y} exp(s cos θ_j)))`` with θ_j the angle between x
    and the proxy of class j, and y the class of x; its terms are the rows.

    Args:
        margin: m, in units of the cosine.
        scale: s, the inverse of a temperature.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> proxies = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> mj.cosface_loss(jnp.array([[3.0, 3.0]]), jnp.array([1]), proxies, margin=0.5, scale=200.0)
        Array(100., dtype=float32)

    References:
        Wang et al. (2018), CosFace: Large Margin Cosine Loss for Deep Face Recognition.
        https://arxiv.org/abs/1801.09414
    """
    return scale * (similarities - jnp.where(is_own, margin, 0.0))


@softmax_head(angular=True, within={"margin": ANGLE, "scale": POSITIVE})
def arcface_loss(
    similarities: Array, is_own: Array, *, margin: float | Array = 0.5, scale: float | Array = 64.0
) -> Array:
    """Softmax with a margin between angles.

    ``L(x) = -log(exp(s cos(θ_y + m)) / (exp(s cos(θ_y + m)) + Σ_{j≠y} exp(s cos θ_j)))`` with θ_j the angle between x
    and the proxy of class j, and y the class of x; its terms are the rows. Where ``θ_y + m`` is beyond π, at which its
    cosine would rise again, ``cos θ_y - m sin m`` stands in its place, as in the authors' code.

    Args:
        margin: m, in radians.
        scale: s, the inverse of a temperature.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import math
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> proxies = jnp.array([[0.0, 1.0], [0.0, 2.0]])
        >>> mj.arcface_loss(jnp.array([[0.0, 3.0]]), jnp.array([1]), proxies, margin=math.pi / 2)
        Array(64., dtype=float32)

    References:
        Deng, Guo, Xue, Zafeiriou (2019), ArcFace: Additive Angular Margin Loss for Deep Face Recognition.
        https://arxiv.org/abs/1801.07698
    """
    return scale * jnp.where(is_own, _cos_of_sum(similarities, margin), similarities)


@softmax_head(centers=True, angular=True, within={"margin": ANGLE, "scale": POSITIVE})
def subcenter_arcface_loss(
    similarities: Array, is_own: Array, *, margin: float | Array = 0.5, scale: float | Array = 64.0
) -> Array:
    """ArcFace with several proxies a class, of which the nearest counts.

    `arcface_loss` with ``cos θ_j = max_k cos θ_jk``, over the centers k of class j: mislabelled and unusual rows gather
    around centers of their own. Proxies are ``[classes, centers, dim]``; its terms are the rows.

    Args:
        margin: m, in radians.
        scale: s, the inverse of a temperature.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import math
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> proxies = jnp.array([[[0.0, 1.0], [1.0, 0.0]], [[0.0, -1.0], [0.0, 2.0]]])
        >>> embeddings, labels = jnp.array([[0.0, 3.0]]), jnp.array([1])
        >>> mj.subcenter_arcface_loss(embeddings, labels, proxies, margin=math.pi / 2)
        Array(64., dtype=float32)

    References:
        Deng, Guo, Liu, Gong, Zafeiriou (2020), Sub-center ArcFace: Boosting Face Recognition by Large-scale Noisy Web
        Faces. https://www.ecva.net/papers/eccv_2020/papers_ECCV/papers/123560715.pdf
    """
    nearest = jnp.max(similarities, axis=1)
    lost = jnp.isnan(similarities).any(axis=1)  # XLA's maximum of a row may lose a NaN on CPU
    nearest = jnp.where(lost, jnp.nan, nearest)
    return scale * jnp.where(is_own, _cos_of_sum(nearest, margin), nearest)


@proxy_loss(similarity=cosine_similarity, angular=True, static=("margin",), within={"margin": Limits(1)})
def sphereface_loss(batch: ProxyBatch, *, margin: int = 4) -> Terms:
    """Softmax with a multiple of the angle, over proxies of length 1.

    ``L(x) = -log(exp(|x| ψ(θ_y)) / (exp(|x| ψ(θ_y)) + Σ_{j≠y} exp(|x| cos θ_j)))``, where ``ψ(θ) = (-1)^k cos(m θ) -
    2k`` for θ from ``kπ/m`` to ``(k+1)π/m``, θ_j is the angle between x and the proxy of class j, and y the class of x;
    its terms are the rows. Training often starts at a margin of 1, at which ψ is the cosine.

    Args:
        margin: m, a positive integer.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> proxies = jnp.array([[0.0, -5.0], [0.0, 2.0]])
        >>> mj.sphereface_loss(jnp.array([[100.0, 0.0]]), jnp.array([1]), proxies, margin=2)
        Array(100., dtype=float32)

    References:
        Liu, Wen, Yu, Li, Raj, Song (2017), SphereFace: Deep Hypersphere Embedding for Face Recognition.
        https://arxiv.org/abs/1704.08063
    """
    margin = _as_multiple(margin)

    def logits(similarities: Array, is_own: Array, length: Array) -> Array:
        return length * jnp.where(is_own, _cos_of_multiple(similarities, margin), similarities)

    return batch.cross_entropy(logits, _lengths(batch.comparison.anchors))


@proxy_loss(similarity=cosine_similarity, angular=True, static=("margin",), within={"margin": Limits(1)})
def large_margin_softmax_loss(batch: ProxyBatch, *, margin: int = 4) -> Terms:
    """Softmax with a multiple of the angle (L-softmax), over proxies of any length.

    `sphereface_loss` with ``|w_j| |x|`` in the place of ``|x|``: at a margin of 1 it is the plain softmax over
    ``w_j · x``. Its terms are the rows.

    Args:
        margin: m, a positive integer.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> proxies = jnp.array([[0.0, -5.0], [0.0, 2.0]])
        >>> mj.large_margin_softmax_loss(jnp.array([[100.0, 0.0]]), jnp.array([1]), proxies, margin=2)
        Array(200., dtype=float32)

    References:
        Liu, Wen, Yu, Yang (2016), Large-Margin Softmax Loss for Convolutional Neural Networks.
        https://arxiv.org/abs/1612.02295
    """
    margin, weights = _as_multiple(margin), _lengths(batch.proxies)

    def logits(similarities: Array, is_own: Array, length: Array) -> Array:
        cosines = jnp.where(is_own, _cos_of_multiple(similarities, margin), similarities)
        return length * weights * cosines

    return batch.cross_entropy(logits, _lengths(batch.comparison.anchors))


@softmax_head(similarity=dot_product, within={"scale": POSITIVE})
def instance_loss(similarities: Array, is_own: Array, *, scale: float | Array = 1.0) -> Array:
    """Plain softmax in which every instance is a class of its own.

    ``L(x) = -log(exp(s w_y · x) / Σ_j exp(s w_j · x))`` with y the instance that x shows: an image and its captions, a
    picture and its crops. Labels are the numbers of the instances, and its terms are the rows.

    Args:
        scale: s, the inverse of a temperature; with ``similarity=mj.cosine_similarity`` it should be large.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> proxies = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> mj.instance_loss(jnp.array([[70.0, 30.0]]), jnp.array([1]), proxies)
        Array(40., dtype=float32)

    References:
        Zheng et al. (2017), Dual-Path Convolutional Image-Text Embeddings with Instance Loss.
        https://arxiv.org/abs/1711.05535
    """
    del is_own
    return scale * similarities


@proxy_loss(similarity=cosine_similarity)
def p2sgrad_loss(batch: ProxyBatch) -> Terms:
    """Squared error of the cosines, whose own should be 1 and the others 0: a head without hyperparameters.

    ``L(x) = Σ_j (cos θ_j - [j = y])²`` with θ_j the angle between x and the proxy of class j, and y the class of x; its
    terms are the pairs of a row and a class. The gradient that the paper defines, ``(cos θ_j - [j = y]) ∇cos θ_j``, is
    half of that of the sum.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> proxies = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> mj.p2sgrad_loss(jnp.array([[3.0, 0.0]]), jnp.array([1]), proxies, reduction="none")
        Array([2.], dtype=float32)

    References:
        Zhang, Zhao, Yan, Wang, Li (2019), P2SGrad: Refined Gradients for Optimizing Deep Face Models.
        https://arxiv.org/abs/1905.02479
    """

    def squared_errors(similarities: Array, is_own: Array) -> Terms:
        errors = (similarities - is_own.astype(similarities.dtype)) ** 2
        return terms(errors, where=jnp.ones_like(is_own))

    return batch.class_terms(squared_errors)


def _cos_of_sum(cosines: Array, margin: float | Array) -> Array:
    """``cos(θ + m)`` while ``θ + m <= π``, and beyond it ``cos θ - m sin m``."""
    beyond = cosines - margin * jnp.sin(margin)
    return jnp.where(cosines >= -jnp.cos(margin), cos_of_shifted(cosines, margin), beyond)


def _cos_of_multiple(cosines: Array, margin: int) -> Array:
    """``(-1)^k cos(m θ) - 2k`` for ``kπ/m <= θ <= (k+1)π/m``; cos(m θ) is Chebyshev's polynomial of cos θ."""
    before, multiple = jnp.ones_like(cosines), cosines
    for _ in range(margin - 1):
        before, multiple = multiple, 2.0 * cosines * multiple - before
    edges = [math.cos(k * math.pi / margin) for k in range(1, margin)]
    k = sum(((cosines < edge).astype(cosines.dtype) for edge in edges), jnp.zeros_like(cosines))
    return (1.0 - 2.0 * (k % 2.0)) * multiple - 2.0 * k


def _as_multiple(margin: int) -> int:
    try:
        return operator.index(margin)
    except TypeError:
        raise TypeError(f"margin multiplies an angle and must be an integer, got {margin!r}") from None


def _lengths(rows: Array) -> Array:
    """The length of every row, with slope 0 at 0."""
    return euclidean(rows, jnp.zeros_like(rows))
