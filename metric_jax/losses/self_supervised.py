"""Losses of two views of every item, without labels and without negatives.

Two augmentations of one image should have one embedding. That alone is easily met by a constant, which contrastive
losses forbid by their negatives. The losses here forbid it by statistics of the batch: each dimension must vary, and no
two may say the same. So they are no functions of one anchor's row, and cost O(batch * dim²) time and
O(batch * dim + dim²) memory. Wang and Isola's alignment is the bare attraction, to go with a term that repels, such as
`metric_jax.losses.regularizers.uniformity_loss`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from metric_jax.collectives import sum_over
from metric_jax.distances import HIGHEST
from metric_jax.interface import publish
from metric_jax.limits import NOT_NEGATIVE, POSITIVE, Limits
from metric_jax.pairs import check_views, checked_rows
from metric_jax.types import AxisName

ROUNDING = 4.0  # a dimension whose spread is that many units in its last place varies by rounding alone


class Views(NamedTuple):
    """Two views of a batch, zero where masked out, and how many rows all devices hold."""

    x: Array
    y: Array
    where: Array
    number: Array
    axis_name: AxisName

    def sum(self, values: Array) -> Array:
        """The sum of ``[batch, ...]`` over the rows of all devices."""
        return sum_over(jnp.sum(values, axis=0), self.axis_name)

    def mean(self, values: Array) -> Array:
        """The mean over the rows that count; 0 if there is none."""
        return self.sum(values) / jnp.maximum(self.number, 1.0)

    def centered(self, rows: Array) -> Array:
        """The rows less their mean; zero where masked out."""
        return jnp.where(self.where[:, None], rows - self.mean(rows)[None], 0.0)

    def products(self, x: Array, y: Array) -> Array:
        """``Σ_i x_i y_iᵀ [dim, dim]`` over the rows of all devices."""
        return sum_over(jnp.einsum("ij,ik->jk", x, y, precision=HIGHEST), self.axis_name)


def _views(x: Array, y: Array, where: Array | None, axis_name: AxisName) -> Views:
    """Checks two views and puts zeros where the mask leaves a row out, whatever it holds."""
    check_views(x, y)
    x, counted = checked_rows(x, where, "x", "where")
    y, _ = checked_rows(y, where, "y", "where")
    number = sum_over(jnp.sum(counted, dtype=x.dtype), axis_name)
    return Views(x, y, counted, number, axis_name)


def statistics_of_views(
    body: Callable[..., Array] | None = None, *, within: Mapping[str, Limits] | None = None
) -> Callable[..., Any]:
    """From ``body(views, *, own)`` to the public loss of ``(x, y, *, own, where, axis_name)``."""
    if body is None:
        return functools.partial(statistics_of_views, within=within)

    def run(*, x: Array, y: Array, where: Array | None, axis_name: AxisName, **own: Array) -> Array:
        return body(_views(x, y, where, axis_name), **own)

    return publish(run, body, shared=("x", "y", "where", "axis_name"), within=within)


def _off_diagonal(matrix: Array) -> Array:
    """The sum of the squares off the diagonal."""
    return jnp.sum(jnp.where(jnp.eye(len(matrix), dtype=bool), 0.0, matrix) ** 2)


@statistics_of_views(
    within={
        "invariance": NOT_NEGATIVE,
        "variance": NOT_NEGATIVE,
        "covariance": NOT_NEGATIVE,
        "epsilon": POSITIVE,
    }
)
def vicreg_loss(
    views: Views,
    *,
    invariance: float | Array = 25.0,
    variance: float | Array = 25.0,
    covariance: float | Array = 1.0,
    epsilon: float | Array = 1e-4,
) -> Array:
    """VICReg: two views agree, every dimension varies, and no two dimensions vary together.

    ``L = λ s(x, y) + μ [v(x) + v(y)] / 2 + ν [c(x) + c(y)]`` with ``s = Σ_i |x_i - y_i|² / (N d)``, the hinge
    ``v(z) = Σ_j max(0, 1 - √(Var(z_j) + ε)) / d`` and ``c(z) = Σ_{j≠k} Cov(z)²_jk / d``, variances and covariances over
    N - 1. The factors 1/2 of v and 1/d of s are those of the authors' code, for which the default weights are; the
    text of the paper leaves them out. Of fewer than two rows v and c are 0. Embeddings are not to be normalised.

    Args:
        invariance: λ, the weight of s.
        variance: μ, the weight of v.
        covariance: ν, the weight of c.
        epsilon: ε, which keeps the slope of the root finite at variance 0.

    Returns:
        The loss, a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> x = jnp.array([[1.0, 1.0], [-1.0, -1.0]])
        >>> mj.vicreg_loss(x, x, invariance=0.0, variance=0.0, covariance=1.0)
        Array(8., dtype=float32)

    References:
        Bardes, Ponce, LeCun (2022), VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning.
        https://arxiv.org/abs/2105.04906
    """
    dim = views.x.shape[1]
    total = invariance * jnp.sum(views.mean((views.x - views.y) ** 2)) / dim
    for rows in (views.x, views.y):
        z = views.centered(rows)
        degrees = jnp.maximum(views.number - 1.0, 1.0)
        deviation = jnp.sqrt(views.sum(z**2) / degrees + epsilon)
        hinge = jnp.sum(jax.nn.relu(1.0 - deviation)) / dim
        together = _off_diagonal(views.products(z, z) / degrees) / dim
        total += jnp.where(views.number >= 2, variance * hinge / 2.0 + covariance * together, 0.0)
    return total


@statistics_of_views(within={"offdiagonal": NOT_NEGATIVE})
def barlow_twins_loss(views: Views, *, offdiagonal: float | Array = 5e-3) -> Array:
    """Barlow twins: the correlations of the dimensions of two views are the identity.

    ``L = Σ_j (1 - C_jj)² + λ Σ_{j≠k} C²_jk``, where ``C_jk`` is the correlation over the batch of dimension j of x with
    dimension k of y. A dimension that does not vary correlates with nothing. 0 if there are fewer than two rows.

    Args:
        offdiagonal: λ, the weight of what two dimensions have in common.

    Returns:
        The loss, a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> x = jnp.array([[1.0, 2.0], [-1.0, -2.0], [1.0, 2.0], [-1.0, -2.0]])
        >>> mj.barlow_twins_loss(x, 2.0 * x, offdiagonal=0.25)
        Array(0.5, dtype=float32)

    References:
        Zbontar, Jing, Misra, LeCun, Deny (2021), Barlow Twins: Self-Supervised Learning via Redundancy Reduction.
        https://arxiv.org/abs/2103.03230
    """
    correlation = views.products(_standardised(views, views.x), _standardised(views, views.y))
    loss = jnp.sum((1.0 - jnp.diagonal(correlation)) ** 2) + offdiagonal * _off_diagonal(correlation)
    return jnp.where(views.number >= 2, loss, 0.0)


def _standardised(views: Views, rows: Array) -> Array:
    """Dimensions of mean 0 and length 1; zero, and without a gradient, those that vary by rounding alone."""
    z = views.centered(rows)
    squared = views.sum(z**2)
    resolution = (ROUNDING * float(jnp.finfo(z.dtype).eps)) ** 2 * lax.stop_gradient(views.sum(rows**2))
    is_constant = squared <= resolution
    lengths = jnp.sqrt(jnp.where(is_constant, 1.0, squared))
    return jnp.where(is_constant[None], 0.0, z / lengths[None])


@statistics_of_views(within={"power": POSITIVE})
def alignment_loss(views: Views, *, power: float | Array = 2.0) -> Array:
    """Alignment: how far apart the two views of an item are.

    ``L = Σ_i |x_i - y_i|^α / N``; the paper's rows have length 1.

    Args:
        power: α, the power of the distance.

    Returns:
        The loss, a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> mj.alignment_loss(jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0, 0.0], [0.0, -1.0]]))
        Array(2., dtype=float32)

    References:
        Wang, Isola (2020), Understanding Contrastive Representation Learning through Alignment and Uniformity on the
        Hypersphere. https://arxiv.org/abs/2005.10242
    """
    squared = jnp.sum((views.x - views.y) ** 2, axis=1)
    coincide = squared == 0  # where a power below 1 has an infinite slope
    return views.mean(jnp.where(coincide, 0.0, jnp.where(coincide, 1.0, squared) ** (power / 2.0)))
