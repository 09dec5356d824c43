"""Blur."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metric_jax.data.augment.checks import check_amounts, check_images


@functools.partial(jax.jit, static_argnames=("sigma",))
def blur(
    images: Float[Array, "batch height width channels"], key: Array, *, sigma: float = 0.0
) -> Float[Array, "batch height width channels"]:
    """Blurs every image by a Gaussian of a width of its own, rows first and then columns.

    A pixel becomes ``Σ_k w_k x_k`` over its neighbours at distance k in the column, then in the row, with
    ``w_k ∝ exp(−k² / 2σ²)`` for ``|k| ≤ ⌈3 sigma⌉``, which sum to 1. Beyond the border the border's own pixels go on.

    Args:
        images: ``[batch, height, width, channels]`` in [0, 1], floating.
        key: A PRNG key; the same key gives the same blur.
        sigma: The largest σ, in pixels; that of an image is uniform from 0 up to it.

    Returns:
        Images of the same shape and type.

    Raises:
        TypeError: Images that are not floating.
        ValueError: Images of another rank; a negative or infinite sigma.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> point = jnp.zeros((1, 9, 9, 1)).at[0, 4, 4, 0].set(1.0)
        >>> blurred = blur(point, jax.random.key(0), sigma=1.0)
        >>> print(f"{blurred.sum():.3f}", bool(blurred.max() < 1))
        1.000 True
    """
    check_images(images)
    check_amounts(blur=sigma)
    if not sigma:
        return images
    radius = math.ceil(3 * sigma)
    widths = sigma * jax.random.uniform(key, (len(images), 1), jnp.float32)
    # No blur at all, σ = 0, is the limit: all weight at k = 0.
    distances = jnp.arange(-radius, radius + 1)[None] / jnp.maximum(widths, 1e-6)
    weights = jax.nn.softmax(-(distances**2) / 2, axis=-1)[:, :, None, None, None]
    blurred = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    for axis in (1, 2):
        border = [(radius, radius) if each == axis else (0, 0) for each in range(4)]
        # The barrier has XLA lay the padded images out once rather than look for the border again in every term.
        padded = jax.lax.optimization_barrier(jnp.pad(blurred, border, mode="edge"))
        size = images.shape[axis]
        shifted = [jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(2 * radius + 1)]
        blurred = functools.reduce(jnp.add, (weights[:, k] * each for k, each in enumerate(shifted)))
    return blurred.astype(images.dtype)
