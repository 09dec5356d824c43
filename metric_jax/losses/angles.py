"""Angles between rows, of which only the cosine is at hand."""

import jax.numpy as jnp
from jaxtyping import Array


def cos_of_shifted(cosine: Array, shift: float | Array) -> Array:
    """``cos(θ + shift)`` of ``cos θ``, with a finite slope at ``cos θ = ±1``, where θ has none.

    A sine below the rounding error of the cosine is 0: two equal rows have the angle 0, not one of rounding's making.
    """
    squared_sine = 1.0 - cosine * cosine
    at_zero = squared_sine <= 16.0 * jnp.finfo(cosine.dtype).eps
    sine = jnp.where(at_zero, 0.0, jnp.sqrt(jnp.where(at_zero, 1.0, squared_sine)))
    return cosine * jnp.cos(shift) - sine * jnp.sin(shift)
