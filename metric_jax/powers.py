"""Powers of 2, by which numbers are scaled exactly: so that no square of them leaves the range of their type.

`jnp.ldexp` does this too, but gives the slope 1 where a number is 0, whatever it is scaled by.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def near_one(x: Array, *, axis: int | None) -> tuple[Array, Array]:
    """Numbers over a power of 2 near the largest of them, along an axis or of all; and its exponent.

    Example:
        >>> near_one(jnp.array([[6e30, 3e30], [2.0, -6.0]]), axis=-1)[1].ravel().tolist()
        [103, 3]
    """
    largest = lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=axis is not None))
    exponent = jnp.frexp(jnp.where(jnp.isfinite(largest), largest, 1.0))[1]
    return times(x, -exponent), exponent


def times(x: Array, exponent: Array) -> Array:
    """``x · 2^exponent``, in two halves, for the power itself may be out of range.

    Example:
        >>> times(jnp.array(2.0**-100), jnp.array(200)) == 2.0**100
        Array(True, dtype=bool)
    """
    half = exponent // 2
    first, second = (jnp.ldexp(jnp.ones_like(part, x.dtype), part) for part in (half, exponent - half))
    return x * first * second
