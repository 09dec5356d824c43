"""Distances between embeddings, elementwise and pairwise.

A distance is called in two ways, which differ in how they round:

*   ``euclidean(x, y)`` compares row i with row i *by difference*: exact for near duplicates.
*   ``euclidean.pairwise(x, y)`` compares every row with every row *by one matrix product*, through
    ``|x - y|² = |x|² + |y|² - 2 x·y``. It is an order of magnitude faster, but that expansion cancels: far from the
    origin its error exceeds the distance. So the rows are centered first, and the product runs at full precision,
    where accelerators would otherwise round its inputs to bfloat16 or TF32. What is left is relative to the spread: two
    points of a set that are nearer to each other than a thousandth of their distance from its center are one, at
    distance 0. Neighbours within that reach call for the elementwise form, or for ``manhattan``, which has no product.

Every distance computes in float32 at least, whatever the type of its inputs, and its gradient is 0 where two
points coincide: √ has an infinite slope at 0, and a ``where`` behind it would turn that into NaN.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from metric_jax import powers

HIGHEST = lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True, repr=False)
class Distance:
    """A distance (or, with ``is_similarity``, a similarity) between embeddings.

    Frozen and hashable, so that it is a static argument of jitted functions. One that is made of another by
    ``dataclasses.replace`` has all else of it: with another ``against`` or ``prepare``, say anew what ``between``,
    ``ranks_like``, ``factors`` and ``is_symmetric`` are, or it is one distance here and another there.

    Attributes:
        name: What messages and configs call it.
        between: ``(x [..., dim], y [..., dim]) -> [...]``, by difference.
        against: ``(x [dim], ys [references, dim], precision) -> [references]``, by matrix product, of prepared rows.
        prepare: ``(rows [..., dim], center [dim]) -> [..., dim]``: what is done to every row once, before products.
        ranks_like: A distance that puts any rows in the same order, cheaper or with equal rows at exactly 0; miners and
            retrieval use it.
        is_similarity: Whether larger means closer.
        has_product: Whether ``against`` is a matrix product; if not, it holds ``[references, dim]`` differences.
        factors: ``prepared rows -> (left, right)`` such that ``left[i]·right[j]`` is the distance of row i from row j
            less that of row i from the origin: one bare product orders the rows. None if there are no such factors.
        precision: The precision of the matrix product; ``dataclasses.replace(euclidean, precision="default")``
            gives up exactness for speed on an accelerator.
        is_symmetric: Whether x is as far from y as y from x: a batch with itself needs half of the comparisons then.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> x, y = jnp.array([[0.0, 0.0], [3.0, 0.0]]), jnp.array([[0.0, 4.0], [3.0, 4.0]])
        >>> mj.euclidean(x, y)
        Array([4., 4.], dtype=float32)
        >>> mj.euclidean.pairwise(x, y)
        Array([[4., 5.],
               [5., 4.]], dtype=float32)

        The cosine compares directions, so it normalises the rows; no other distance does.

        >>> mj.cosine(x[1], 7.0 * x[1])
        Array(0., dtype=float32)

        One of your own compares row with row, and a row with many.

        >>> largest = lambda x, y: jnp.max(jnp.abs(x - y), axis=-1)
        >>> chebyshev = mj.Distance(
        ...     "chebyshev", largest, against=lambda x, ys, precision: largest(x[None], ys),
        ...     prepare=lambda rows, center: rows, has_product=False, is_symmetric=True)
        >>> chebyshev.pairwise(x, y).tolist()
        [[4.0, 4.0], [4.0, 4.0]]
    """

    name: str
    between: Callable[[Array, Array], Array]
    against: Callable[[Array, Array, lax.PrecisionLike], Array]
    prepare: Callable[[Array, Array], Array]
    ranks_like: "Distance | None" = None
    is_similarity: bool = False
    has_product: bool = True
    factors: Callable[[Array], tuple[Array, Array]] | None = None
    precision: lax.PrecisionLike = HIGHEST
    is_symmetric: bool = False

    def __call__(
        self, x: Float[Array, "*batch dim"], y: Float[Array, "*batch dim"]
    ) -> Float[Array, "*batch"]:
        """Compares row with row.

        Args:
            x: ``[..., dim]``, floating.
            y: The same shape as x.

        Returns:
            ``[...]``, float32 at least.

        Raises:
            TypeError: The inputs are not floating.
            ValueError: The shapes differ or are those of scalars.
        """
        x, y = as_rows(x, "x"), as_rows(y, "y")
        chex.assert_equal_shape(
            (x, y),
            custom_message=f"{self.name}(x, y) compares row with row: x and y need one shape, or use .pairwise",
            exception_type=ValueError,
        )
        return self.between(x, y)

    def pairwise(
        self, x: Float[Array, "batch dim"], y: Float[Array, "references dim"]
    ) -> Float[Array, "batch references"]:
        """Compares every row of x with every row of y, by one matrix product where the distance has one.

        Args:
            x: ``[batch, dim]``, floating.
            y: ``[references, dim]``, floating.

        Returns:
            ``[batch, references]``, float32 at least.

        Raises:
            TypeError: The inputs are not floating.
            ValueError: The inputs are not matrices, or their dimensions differ.
        """
        x, y = as_rows(x, "x"), as_rows(y, "y")
        for name, rows in (("x", x), ("y", y)):
            chex.assert_rank(
                rows,
                2,
                custom_message=f"{self.name}.pairwise needs {name} as [rows, dim]",
                exception_type=ValueError,
            )
        check_same_dim(x, y, "x", "y")
        middle = center(y)
        rows = self.prepare(x, middle)
        references = self.prepare(y, middle)
        return jax.vmap(lambda row: self.against(row, references, self.precision))(rows)

    def __repr__(self) -> str:
        return f"mj.{self.name}"

    @property
    def ranking(self) -> "Distance":
        """The distance to order rows by, at the same precision."""
        return dataclasses.replace(self.ranks_like or self, precision=self.precision)


def as_rows(x: Array, name: str) -> Array:
    """Floating rows ``[..., dim]`` in float32 at least; ``name`` is what a message calls them."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating, got {x.dtype}: convert with {name}.astype(jnp.float32)")
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(f"{name} must be [..., dim] with dim of at least 1, got shape {x.shape}")
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def check_same_dim(x: Array, y: Array, x_name: str, y_name: str) -> None:
    """Raises a ValueError when the rows of x and y differ in dimension."""
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"{x_name} has dimension {x.shape[-1]} and {y_name} has {y.shape[-1]}: they must agree"
        )


def check_measure(measure: Any, keyword: str) -> None:
    """Raises unless what was passed as ``keyword``, distance or similarity, is a `Distance` of that kind."""
    example = "mj.cosine_similarity" if keyword == "similarity" else "mj.euclidean"
    if not isinstance(measure, Distance):
        raise TypeError(
            f"{keyword} must be a metric_jax Distance such as {example}, got {measure!r}: help(mj.Distance) shows how "
            "to make one of your own"
        )
    if measure.is_similarity != (keyword == "similarity"):
        raise ValueError(f"{keyword} must be a {keyword} such as {example}, got {measure.name}")


def center(rows: Float[Array, "rows dim"], where: Array | None = None) -> Float[Array, "dim"]:
    """A row near the mean of the finite entries, so that a NaN stays in its own row.

    Any center gives the same distances, hence the ``stop_gradient``: its gradient is zero. So it is rounded, to a 64th
    of the spread: subtracting it is then exact for rows on a grid (integers, pixels), whose ties stay ties.
    """
    counted = jnp.isfinite(rows) if where is None else jnp.isfinite(rows) & where[:, None]
    mean = jnp.sum(rows, axis=0, where=counted) / jnp.maximum(jnp.sum(counted, axis=0), 1)
    spread = jnp.max(jnp.abs(rows - mean[None]), where=counted, initial=0.0)
    unit = jnp.ldexp(jnp.ones_like(spread), jnp.frexp(spread)[1] - 6)
    rounded = jnp.round(mean / unit) * unit
    return lax.stop_gradient(jnp.where(jnp.isfinite(rounded), rounded, mean))


def _sqrt(x: Array) -> Array:
    """√x with slope 0 at 0. NaN stays NaN: the test is for ``<= 0``, which NaN fails."""
    at_zero = x <= 0
    return jnp.where(at_zero, 0.0, jnp.sqrt(jnp.where(at_zero, 1.0, x)))


def _abs(x: Array) -> Array:
    """|x| with slope 0 at 0, where JAX's own has slope 1."""
    return jnp.where(x == 0, 0.0, jnp.abs(x))


def normalize(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """Scales rows to length 1.

    ``x / |x|``; a zero row stays zero, and its gradient is finite.

    Args:
        x: ``[..., dim]``, floating.

    Returns:
        ``[..., dim]``, float32 at least.

    Raises:
        TypeError: The input is not floating.
        ValueError: The input is a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> mj.normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
        Array([[0.6, 0.8],
               [0. , 0. ]], dtype=float32)
    """
    return _unit(as_rows(x, "x"))


def _unit(x: Array) -> Array:
    x, _ = powers.near_one(x, axis=-1)
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * lax.rsqrt(jnp.where(squared == 0, 1.0, squared))


def _products(x: Array, ys: Array, precision: lax.PrecisionLike) -> Array:
    """x·y for each row y. With x on the left, vmap over x makes this one [batch, references] matrix product."""
    return lax.dot_general(x, ys, (((0,), (1,)), ((), ())), precision=precision)


def _squared_against(x: Array, ys: Array, precision: lax.PrecisionLike) -> Array:
    """|x|² + |y|² - 2 x·y, where what lies below the rounding error of these terms is 0, and its gradient too.

    Each is a sum over the dimensions, and its error grows as the logarithm of their number: measured up to 4096.
    """
    norms = jnp.sum(x * x) + jnp.sum(ys * ys, axis=-1)
    squared = norms - 2.0 * _products(x, ys, precision)
    # Less, not equal: where both are infinite, the rows are far apart and not one point.
    return jnp.where(squared < _resolution(x) * lax.stop_gradient(norms), 0.0, squared)


def _squared_factors(rows: Array) -> tuple[Array, Array]:
    """|y|² - 2 x·y as the product of [x, 1] and [-2 y, |y|²]."""
    squared = jnp.sum(rows * rows, axis=-1, keepdims=True)
    left, right = [rows, jnp.ones_like(squared)], [-2.0 * rows, squared]
    return jnp.concatenate(left, axis=-1), jnp.concatenate(right, axis=-1)


def _resolution(x: Array) -> float:
    """The relative error of a sum of as many products as x has dimensions."""
    units = 2.0 + math.log2(x.shape[-1])
    return units * float(jnp.finfo(x.dtype).eps)


def _cosine_against(x: Array, ys: Array, precision: lax.PrecisionLike) -> Array:
    return 1.0 - _products(x, ys, precision)


def _cosine_ranking(x: Array, ys: Array, precision: lax.PrecisionLike) -> Array:
    """The same, but 0 between rows that rounding alone tells apart: without a gradient, and ranking needs none."""
    found = _cosine_against(x, ys, precision)
    return jnp.where(found <= _resolution(x), 0.0, found)


def _squared_between(x: Array, y: Array) -> Array:
    return jnp.sum((x - y) ** 2, axis=-1)


def _cosine_between(x: Array, y: Array) -> Array:
    """``|x/|x| - y/|y||² / 2``, 0 for equal rows where the product is not; a zero row is 1 from all."""
    x, y = _unit(x), _unit(y)
    has_zero = (x == 0).all(axis=-1) | (y == 0).all(axis=-1)
    return jnp.where(has_zero, 1.0 - jnp.sum(x * y, axis=-1), 0.5 * _squared_between(x, y))


def _noise_between(x: Array, y: Array) -> Array:
    x, y = _without_mean(x), _without_mean(y)
    return _squared_between(x, y) / (x.shape[-1] * _signal(x))


def _noise_against(x: Array, ys: Array, precision: lax.PrecisionLike) -> Array:
    return _squared_against(x, ys, precision) / (len(x) * _signal(x))


def _signal(x: Array) -> Array:
    """The variance of rows without their mean; 1 for one that has none, so that there is something to divide by."""
    variance = jnp.mean(x * x, axis=-1)
    return jnp.where(variance == 0, 1.0, variance)


def _without_mean(rows: Array) -> Array:
    """Every row less the mean of its entries: exactly zero where only rounding tells these apart."""
    rest = rows - jnp.mean(rows, axis=-1, keepdims=True)
    squared, rest_squared = (jnp.sum(x * x, axis=-1, keepdims=True) for x in (rows, rest))
    is_constant = (rest_squared <= _resolution(rows) ** 2 * squared) & (squared < jnp.inf)
    return jnp.where(is_constant, 0.0, rest)


def _subtract(rows: Array, middle: Array) -> Array:
    return rows - middle[None]


def _keep(rows: Array, middle: Array) -> Array:
    del middle  # a product with another origin is another product
    return rows


def _subtract_own_mean(rows: Array, middle: Array) -> Array:
    del middle  # the signal is the row itself, and not how it differs from others
    return _without_mean(rows)


def _normalise(rows: Array, middle: Array) -> Array:
    del middle  # a direction has no other origin than 0
    return _unit(rows)


squared_euclidean = Distance(
    "squared_euclidean",
    between=_squared_between,
    against=_squared_against,
    prepare=_subtract,
    is_symmetric=True,
    factors=_squared_factors,
)
"""``|x - y|²``: FaceNet's, of rows of length 1."""

euclidean = Distance(
    "euclidean",
    between=lambda x, y: _sqrt(_squared_between(x, y)),
    against=lambda x, ys, precision: _sqrt(_squared_against(x, ys, precision)),
    prepare=_subtract,
    ranks_like=squared_euclidean,
    is_symmetric=True,
)
"""``|x - y|``."""

manhattan = Distance(
    "manhattan",
    between=lambda x, y: jnp.sum(_abs(x - y), axis=-1),
    against=lambda x, ys, precision: jnp.sum(_abs(x[None] - ys), axis=-1),
    prepare=_subtract,
    has_product=False,
    is_symmetric=True,
)
"""``Σ_i |x_i - y_i|``; it has no matrix product, and holds ``[references, dim]`` differences."""

cosine = Distance(
    "cosine", between=_cosine_between, against=_cosine_against, prepare=_normalise, is_symmetric=True
)
cosine = dataclasses.replace(
    cosine,
    ranks_like=dataclasses.replace(cosine, against=_cosine_ranking, factors=lambda rows: (rows, -rows)),
)
"""``1 - cos θ``, with θ the angle between x and y: from 0 to 2."""

cosine_similarity = Distance(
    "cosine_similarity",
    between=lambda x, y: jnp.sum(_unit(x) * _unit(y), axis=-1),
    against=_products,
    prepare=_normalise,
    is_similarity=True,
)
"""``cos θ``, with θ the angle between x and y: from -1 to 1."""

dot_product = Distance(
    "dot_product",
    between=lambda x, y: jnp.sum(x * y, axis=-1),
    against=_products,
    prepare=_keep,
    is_similarity=True,
)
"""``x · y``, of rows as they are."""

# Not symmetric: the anchor's variance is the signal, and that of the difference is noise. An anchor that has the same
# number everywhere has no signal, and the noise stands alone.
signal_to_noise = Distance(
    "signal_to_noise", between=_noise_between, against=_noise_against, prepare=_subtract_own_mean
)
"""``var(x - y) / var(x)``, the variances over the entries of a row: the anchor x is the signal."""
