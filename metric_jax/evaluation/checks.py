"""What evaluation asks of its input, and how it says what is wrong."""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from metric_jax.distances import Distance, as_rows, center
from metric_jax.pairs import as_array


def finite_rows(embeddings: Any, name: str) -> Array:
    """The embeddings ``[rows, dim]`` in float32 at least; raises unless they are finite, floating and have rows."""
    with np.errstate(over="ignore"):  # of float64, which is told below
        rows = as_array(embeddings, name)
    if rows.ndim != 2 or len(rows) == 0:
        raise ValueError(f"{name} must be [rows, dim] with at least one row, got shape {list(rows.shape)}")
    rows = as_rows(rows, name)
    host = np.asarray(rows)
    if not np.isfinite(host).all():
        check_finite(np.asarray(embeddings, np.float64), name)
        row = np.flatnonzero(~np.isfinite(host).all(axis=-1))[0]
        raise ValueError(
            f"{name} are too large for {host.dtype} in row {row}: scale them down, or normalize them"
        )
    return rows


def check_finite(rows: np.ndarray, name: str) -> None:
    """Raises a ValueError that names the first row which holds NaN or infinity."""
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=-1))
    if bad.size:
        raise ValueError(
            f"{name} hold NaN or infinity in row {bad[0]} ({bad.size} rows in all): remove or repair them"
        )


@functools.partial(jax.jit, static_argnames="distance")
def reaches(prepared: Array, distance: Distance) -> Array:
    """What bounds the distances of prepared rows: ``|x|²``, of a distance without a product ``Σ_i |x_i|``."""
    return jnp.sum(prepared**2 if distance.has_product else jnp.abs(prepared), axis=-1)


def finite_distances(reaches: np.ndarray, name: str, distance: Distance) -> None:
    """Raises a ValueError if rows of these `reaches` may have infinite distances."""
    too_large = np.flatnonzero(~(reaches <= np.finfo(reaches.dtype).max / 4))  # |x - y|² <= 2 |x|² + 2 |y|²
    if too_large.size:
        raise ValueError(
            f"{name} are so large in row {too_large[0]} that their {distance.name} distances are infinite: "
            "scale them down, or normalize them"
        )


def comparable(rows: Array, name: str, distance: Distance, middle: Array | None = None) -> Array:
    """Where the rows are to be centered, if not at ``middle``; raises a ValueError if their distances are infinite."""
    middle = center(rows) if middle is None else middle
    finite_distances(np.asarray(reaches(distance.prepare(rows, middle), distance)), name, distance)
    return middle


def parts(gallery: Any, name: str) -> dict[str, Any]:
    """The matrices of a gallery that have rows, each by what a message calls it; they are checked as they are read."""
    if isinstance(gallery, Sequence) and len(gallery) and all(np.ndim(part) == 2 for part in gallery):
        found = {f"{name} part {i}": part for i, part in enumerate(gallery) if len(part)}
        return found or {name: finite_rows(gallery[0], name)}
    return {name: finite_rows(gallery, name)}


def same_dim(rows: Any, dim: int, name: str) -> Array:
    """The rows, finite and of the dimension of the queries; raises otherwise."""
    rows = finite_rows(rows, name)
    if rows.shape[1] != dim:
        raise ValueError(f"the queries have dimension {dim} and {name} has {rows.shape[1]}: they must agree")
    return rows


def integers(values: Any, name: str, rows: int, of: str) -> np.ndarray:
    """The values as ``[rows]`` integers; raises unless they are that. ``of`` says what there is one for each of."""
    return _integers(values, name, rows, of, f"number them with np.unique({name}, return_inverse=True)[1]")


def indices(values: Any, name: str, rows: int, of: str) -> np.ndarray:
    """The same of what is not a name but a place, which no other number may stand for; an empty list is one of them."""
    values = np.asarray(values)
    return _integers(values if values.size else values.astype(int), name, rows, of, "pass them as integers")


def _integers(values: Any, name: str, rows: int, of: str, remedy: str) -> np.ndarray:
    host = np.asarray(values)
    if host.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an array of integers, got {host.dtype}: {remedy}")
    check_length(host, name, rows, of)
    if host.size and host.max() > np.iinfo(np.int64).max:
        raise ValueError(
            f"{name} hold {host.max()}, which is no 64-bit integer with a sign: number them anew"
        )
    return host.astype(np.int64)


def mask(values: Any, name: str, rows: int, of: str) -> np.ndarray:
    """The values as ``[rows]`` booleans; raises unless they are that."""
    host = np.asarray(values)
    if host.dtype != bool:
        raise TypeError(f"{name} must be boolean, got {host.dtype}: pass {name}.astype(bool)")
    check_length(host, name, rows, of)
    return host


def check_length(values: np.ndarray, name: str, rows: int, of: str) -> None:
    """Raises a ValueError unless the values are ``[rows]``."""
    if values.shape != (rows,):
        raise ValueError(f"{name} must be one for each of the {rows} {of}, got shape {list(values.shape)}")


def numbers(values: Any, name: str) -> np.ndarray:
    """The values in float64; raises a TypeError unless they are real numbers."""
    try:
        kind = np.asarray(values).dtype
        if kind.kind in "biu" or jnp.issubdtype(kind, jnp.floating):  # which bfloat16 is too
            return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        pass
    raise TypeError(
        f"{name} must be an array of real numbers, got {getattr(values, 'dtype', type(values).__name__)}"
    )


def count(value: Any, name: str, least: int = 1) -> int:
    """The value as an int; raises unless it is an integer of at least ``least``."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return operator.index(value)
