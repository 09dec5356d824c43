"""Random affine maps, on the device, inside the jitted step."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metric_jax.data.errors import DataError


@functools.partial(jax.jit, static_argnames=("rotate", "scale", "shear", "translate"))
def affine(
    images: Float[Array, "batch height width channels"],
    key: Array,
    *,
    rotate: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    translate: float = 0.0,
) -> Float[Array, "batch height width channels"]:
    """Turns, scales, slants and shifts every image about its centre, each by amounts of its own.

    The pixel at x = (row, column), seen from the centre, is taken bilinearly from ``A x + t``, with
    ``A = R(turn) S(slant) / zoom``, ``R(a) = [[cos a, -sin a], [sin a, cos a]]`` and ``S(s) = [[1, 0], [s, 1]]``.
    Beyond the border the border's own pixels go on, so that paper stays white and a black ground black.

    Args:
        images: ``[batch, height, width, channels]``, floating.
        key: A PRNG key; the same key gives the same maps.
        rotate: The largest angle, in degrees, either way.
        scale: The largest change of size: 0.1 is from 1/1.1 to 1.1, their logarithms uniform.
        shear: The largest slant: by how many pixels a row moves sideways for every row that it lies from the centre.
        translate: The largest shift in either direction, as a fraction of the side.

    Returns:
        Images of the same shape and type.

    Raises:
        TypeError: Images that are not floating.
        ValueError: Images of another rank; a negative or infinite amount.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> image = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2, 0].set(1.0)
        >>> moved = affine(image, jax.random.key(0), translate=0.3)
        >>> moved.shape, bool((affine(image, jax.random.key(0)) == image).all())
        ((1, 5, 5, 1), True)
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images must be floating, got {images.dtype}: divide bytes by 255 first")
    if images.ndim != 4:
        raise ValueError(f"images must be [batch, height, width, channels], got {list(images.shape)}")
    for name, amount in {"rotate": rotate, "scale": scale, "shear": shear, "translate": translate}.items():
        if not 0 <= amount < math.inf:
            raise DataError(f"augment.{name} must be at least 0 and finite, got {amount}")

    _, height, width, _ = images.shape
    draws = jax.random.uniform(key, (5, len(images)), jnp.float32, minval=-1.0, maxval=1.0)
    turn, zoom, slant, down, right = draws
    turn, zoom, slant = math.radians(rotate) * turn, (1.0 + scale) ** zoom, shear * slant
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    rows = [[cos - sin * slant, -sin], [sin + cos * slant, cos]]
    matrices = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=1) / zoom[:, None, None]
    shifts = translate * jnp.stack([height * down, width * right], axis=-1)
    return jax.vmap(_resample)(images, matrices, shifts)


def _resample(image: Array, matrix: Array, shift: Array) -> Array:
    """One image ``[height, width, channels]``, each pixel taken from where the map sends it; float32 at least."""
    center = (jnp.array(image.shape[:2], jnp.float32) - 1) / 2
    grid = jnp.stack(jnp.meshgrid(*map(jnp.arange, image.shape[:2]), indexing="ij"))
    offsets = grid - center[:, None, None]
    source = jnp.einsum("ij,jhw->ihw", matrix, offsets, precision="highest") + (center + shift)[:, None, None]
    sample = functools.partial(jax.scipy.ndimage.map_coordinates, order=1, mode="nearest")
    wide = image.astype(jnp.promote_types(image.dtype, jnp.float32))
    moved = jax.vmap(lambda channel: sample(channel, list(source)), in_axes=2, out_axes=2)(wide)
    return moved.astype(image.dtype)
