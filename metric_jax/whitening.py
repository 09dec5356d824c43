"""Whitening: embeddings of unit variance in every direction, by what the training set's are.

A network that was trained for one set of classes spreads their embeddings along the few directions that part these
classes, and leaves the others narrow, though they may be the ones that part classes it has never seen. Whitening after
training evens this out:

    whitening = mj.whitening.fit(embeddings_of_the_training_set)
    mj.normalize(mj.whitening.apply(whitening, embeddings))

It is fitted without labels, and is a plain pytree of arrays. `config.eval_whitening` has training do it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metric_jax import powers
from metric_jax.distances import as_rows, check_same_dim
from metric_jax.limits import Limits, check


class Whitening(NamedTuple):
    """The affine map ``(x - mean) @ projection``.

    Attributes:
        mean: ``[dim]``.
        projection: ``[dim, dim]``, symmetric.
    """

    mean: Float[Array, "dim"]
    projection: Float[Array, "dim dim"]


def none(dim: int) -> Whitening:
    """The map that changes nothing.

    Example:
        >>> import jax.numpy as jnp
        >>> apply(none(2), jnp.array([[3.0, 4.0]])).tolist()
        [[3.0, 4.0]]
    """
    return Whitening(jnp.zeros(dim), jnp.eye(dim))


def fit(embeddings: Float[Array, "batch dim"], *, shrinkage: Any = 0.5) -> Whitening:
    """The whitening of these embeddings.

    ::

        projection = C^(-1/2)      C = (1 - s) cov(x) + s tr(cov(x)) / dim I

    with the shrinkage s. Little of it trusts directions along which the training set hardly varies, and makes their
    noise as large as the rest; 1 moves the mean and turns nothing. Embeddings that are all one point, but for their
    rounding, have no covariance, and `none` is for them: a network that has collapsed is not to look well.

    Args:
        embeddings: ``[batch, dim]``, floating; rows of the training set, not of the classes that are to be told apart.
        shrinkage: In (0, 1]; may be differentiated, as the embeddings may.

    Returns:
        The map, in float32 at least.

    Raises:
        TypeError: Embeddings that are not floating, a shrinkage that is no number.
        ValueError: Embeddings of another shape, a shrinkage out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> rows = jnp.array([[4.0, 1.0], [4.0, -1.0], [-4.0, 1.0], [-4.0, -1.0]])
        >>> found = apply(fit(rows, shrinkage=0.001), rows)
        >>> [round(float(x), 1) for x in found.std(axis=0)]
        [1.0, 1.0]

    References:
        Jégou, Chum (2012), Negative evidences and co-occurences in image retrieval: the benefit of PCA and whitening.
        https://doi.org/10.1007/978-3-642-33709-3_55
        Ledoit, Wolf (2004), A well-conditioned estimator for large-dimensional covariance matrices.
        https://doi.org/10.1016/S0047-259X(03)00096-4
    """
    rows = as_rows(embeddings, "embeddings")
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"embeddings must be [batch, dim] with a row at least, got shape {rows.shape}")
    if shrinkage is None or jnp.ndim(shrinkage):
        raise TypeError(f"whitening.fit: shrinkage must be one number, got {shrinkage!r}")
    check("whitening.fit", {"shrinkage": shrinkage}, {"shrinkage": Limits(0.0, 1.0, excludes=(0.0,))})
    return _fit(rows, shrinkage)


@jax.jit
def _fit(rows: Array, shrinkage: Any) -> Whitening:
    rows, exponent = powers.near_one(rows, axis=None)
    mean = rows.mean(axis=0)
    centred = rows - mean[None]
    covariance = _product(centred.T, centred) / len(rows)
    size, dtype = len(covariance), rows.dtype
    variance = jnp.trace(covariance) / size
    is_point = variance <= (4 * jnp.finfo(dtype).eps) ** 2 * jnp.mean(jnp.square(rows))
    shrunk = (1 - shrinkage) * covariance + shrinkage * variance * jnp.eye(size, dtype=dtype)
    shrunk = jnp.where(is_point, jnp.eye(size, dtype=dtype), shrunk)
    mean = jnp.where(is_point, 0.0, mean)
    root = _inverse_root(shrunk, jnp.where(is_point, 1.0, shrinkage * variance).astype(dtype))
    projection = jnp.where(is_point, root, powers.times(root, -exponent))
    return Whitening(powers.times(mean, exponent), projection)


@jax.custom_jvp
def _inverse_root(matrix: Array, least: Array) -> Array:
    """M^(-1/2) of a symmetric matrix; rounding may say otherwise, but no eigenvalue is less than ``least``."""
    roots, vectors = _roots(matrix, least)
    return _product(vectors / roots[None], vectors.T)


@_inverse_root.defjvp
def _inverse_root_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """The slope between two eigenvalues, (a^(-1/2) - b^(-1/2)) / (a - b), written so that a may equal b."""
    roots, vectors = _roots(*primals)
    a, b = roots[:, None], roots[None]
    turned = _product(_product(vectors.T, tangents[0]), vectors)
    change = _product(_product(vectors, -turned / (a * b * (a + b))), vectors.T)
    return _product(vectors / roots[None], vectors.T), change


def _roots(matrix: Array, least: Array) -> tuple[Array, Array]:
    values, vectors = jnp.linalg.eigh(matrix)
    return jnp.sqrt(jnp.maximum(values, least)), vectors


def _product(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision="highest")


def apply(whitening: Whitening, embeddings: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """Embeddings moved and stretched by a whitening, to be normalised again if they were before.

    Args:
        whitening: From `fit`.
        embeddings: ``[..., dim]``, floating.

    Returns:
        ``[..., dim]``, in float32 at least.

    Raises:
        TypeError: Embeddings that are not floating.
        ValueError: Embeddings of another dimension than those it was fitted to.

    Example:
        >>> import jax.numpy as jnp
        >>> whitening = Whitening(jnp.array([1.0, 0.0]), jnp.array([[2.0, 0.0], [0.0, 1.0]]))
        >>> apply(whitening, jnp.array([2.0, 5.0])).tolist()
        [2.0, 5.0]
    """
    rows = as_rows(embeddings, "embeddings")
    check_same_dim(rows, whitening.projection, "embeddings", "the whitening")
    centred = rows - jnp.broadcast_to(whitening.mean, rows.shape)
    return _product(centred, whitening.projection)
