"""Regularizers: what embeddings should be like, whoever they belong to.

They take no labels, and are added to a loss with a small weight. Two spread the embeddings out: `koleo_loss` pushes
every row away from its nearest neighbour, `uniformity_loss` all rows apart, the near ones most. Both are meant for rows
of length 1 (`metric_jax.normalize`), which cannot run away from each other for ever. Two keep them in place:
`embedding_norm_loss` their lengths, `zero_mean_loss` their entries.

They stand beside the losses, since they are called like these and found by the same ending of their names.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metric_jax.anchors import Batch
from metric_jax.distances import euclidean, squared_euclidean
from metric_jax.interface import ROWS, publish
from metric_jax.limits import NOT_NEGATIVE, POSITIVE, Limits
from metric_jax.losses.softmax import log_mean_exp
from metric_jax.mining import first_argmin
from metric_jax.pairs import compare
from metric_jax.reductions import reduce, terms
from metric_jax.types import AxisName

UNTILED = tuple(name for name in ROWS if name != "tile")  # of a regularizer that compares no rows


def regularizer(
    body: Callable[..., Array] | None = None,
    *,
    shared: Sequence[str] = ROWS,
    within: Mapping[str, Limits] | None = None,
) -> Callable[..., Any]:
    """From ``body(batch, *, own)`` to the public function of ``(embeddings, *, own, where, tile, axis_name)``.

    To every anchor, all other rows are positives.
    """
    if body is None:
        return functools.partial(regularizer, shared=shared, within=within)

    def run(
        *, embeddings: Array, where: Array | None, axis_name: AxisName, tile: int | str = "auto", **own: Array
    ) -> Array:
        one_class = jnp.zeros(embeddings.shape[:1], jnp.int32)
        comparison = compare(embeddings, one_class, where=where, axis_name=axis_name)
        return body(Batch(comparison, squared_euclidean, tile=tile, axis_name=axis_name), **own)

    return publish(run, body, shared=shared, within=within)


@regularizer(within={"epsilon": POSITIVE})
def koleo_loss(batch: Batch, *, epsilon: float | Array = 1e-8) -> Array:
    """KoLeo: every row far from its nearest neighbour, as Kozachenko and Leonenko estimate entropy.

    ``L = -Σ_i log(min_{j≠i} |x_i - x_j| + ε) / N``. Rows of length 1 are meant: others it only scales up. The neighbour
    is found by matrix products and its distance measured by difference. Duplicates cost ``-log ε``, without a gradient.

    Args:
        epsilon: ε, which keeps the loss finite at distance 0.

    Returns:
        The loss, a scalar; 0 if there are fewer than two rows.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> print(f"{mj.koleo_loss(jnp.array([[0.6, 0.8], [0.6, -0.8], [1.0, 0.0]])):.4f}")
        0.1116

    References:
        Sablayrolles, Douze, Schmid, Jégou (2019), Spreading Vectors for Similarity Search.
        https://arxiv.org/abs/1806.03198
    """

    def nearest(distances: Array, others: Array, _: Array) -> Array:
        return first_argmin(distances, others)

    found = batch.frozen.over_anchors(nearest)
    compared = batch.comparison
    has_neighbour = found < len(compared.references)
    neighbours = compared.references[jnp.where(has_neighbour, found, 0)]
    values = -jnp.log(euclidean(compared.anchors, neighbours) + epsilon)
    return reduce(jax.vmap(terms)(values, has_neighbour), "mean", batch.axis_name)


@regularizer(within={"t": POSITIVE})
def uniformity_loss(batch: Batch, *, t: float | Array = 2.0) -> Array:
    """Uniformity: how far the rows are from being spread evenly over the sphere.

    ``L = log Σ_{i≠j} exp(-t |x_i - x_j|²) / (N (N - 1))``; 0 if all rows are one point. Rows of length 1 are meant.

    Args:
        t: In units of 1 / distance²: the larger, the more the nearest pairs count.

    Returns:
        The loss, a scalar, at most 0; 0 if there are fewer than two rows.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> mj.uniformity_loss(jnp.array([[1.0, 0.0], [-1.0, 0.0]]), t=0.5)
        Array(-2., dtype=float32)

    References:
        Wang, Isola (2020), Understanding Contrastive Representation Learning through Alignment and Uniformity on the
        Hypersphere. https://arxiv.org/abs/2005.10242
    """
    return log_mean_exp(batch, lambda squared, others, _: (-t * squared, others))


@regularizer(shared=UNTILED, within={"radius": NOT_NEGATIVE})
def embedding_norm_loss(batch: Batch, *, radius: float | Array = 0.0) -> Array:
    """Embedding norm: rows of a given length, or short ones.

    ``L = Σ_i (|x_i| - R)² / N``: with R = 0 the mean square length that N-pairs adds to its loss, with another, which
    may be learned, the ring loss (the paper halves it). The slope at a row of length 0 is 0.

    Args:
        radius: R, the length that rows should have.

    Returns:
        The loss, a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> mj.embedding_norm_loss(jnp.array([[3.0, 4.0], [0.0, 1.0]]))
        Array(13., dtype=float32)

    References:
        Sohn (2016), Improved Deep Metric Learning with Multi-class N-pair Loss Objective.
        https://papers.nips.cc/paper/6200-improved-deep-metric-learning-with-multi-class-n-pair-loss-objective
        Zheng, Pal, Savvides (2018), Ring Loss: Convex Feature Normalization for Face Recognition.
        https://arxiv.org/abs/1803.00130
    """
    rows = batch.comparison.anchors
    lengths = euclidean(rows, jnp.zeros_like(rows))
    return _mean((lengths - radius) ** 2, batch)


@regularizer(shared=UNTILED)
def zero_mean_loss(batch: Batch) -> Array:
    """Zero mean: the entries of a row cancel, as noise that is added to a signal should.

    ``L = Σ_i |Σ_k x_ik| / N``; the slope of |·| at 0 is 0.

    Returns:
        The loss, a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> mj.zero_mean_loss(jnp.array([[3.0, -4.0], [0.0, 2.0]]))
        Array(1.5, dtype=float32)

    References:
        Yuan, Deng, Tang, Tang, Chen (2019), Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric Learning.
        https://arxiv.org/abs/1904.02616
    """
    sums = jnp.sum(batch.comparison.anchors, axis=1)
    return _mean(jnp.where(sums == 0, 0.0, jnp.abs(sums)), batch)


def _mean(values: Array, batch: Batch) -> Array:
    """The mean over the rows that count, of all devices."""
    return reduce(jax.vmap(terms)(values, batch.comparison.where), "mean", batch.axis_name)
