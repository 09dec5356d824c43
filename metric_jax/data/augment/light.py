"""Light and colour: one random matrix for the colours of every image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from metric_jax.data.augment.checks import check_amounts, check_images
from metric_jax.data.errors import DataError

# From red, green and blue to luma and the two coordinates of colour, as in NTSC television. Their rows sum to 1, 0, 0:
# grey has no colour.
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


@functools.partial(jax.jit, static_argnames=("brightness", "contrast", "saturation", "hue"))
def colour(
    images: Float[Array, "batch height width channels"],
    key: Array,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> Float[Array, "batch height width channels"]:
    """Changes brightness, contrast, saturation and hue of every image, each by amounts of its own.

    A pixel x, with luma ``y``, becomes ``b (m + c (y + s R(h) (x − y) − m))``, cut off at 0 and 1. m is the mean luma
    of the image, and ``R(h)`` turns the hue, in the plane of the I and Q of YIQ, and keeps the luma. All four are one
    affine map of the colours, so that the order in which they are taken does not matter and nothing is cut off halfway.

    Args:
        images: ``[batch, height, width, channels]`` in [0, 1], floating; saturation and hue need 3 channels.
        key: A PRNG key; the same key gives the same changes.
        brightness: The largest change of b: 0.2 is from 1/1.2 to 1.2, their logarithms uniform.
        contrast: The same of c.
        saturation: The same of s.
        hue: The largest h either way, in turns: at most 0.5, which is any hue.

    Returns:
        Images of the same shape and type.

    Raises:
        TypeError: Images that are not floating.
        ValueError: Images of another rank; an amount out of range; saturation or hue of images that are not coloured.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> grey = jnp.full((1, 2, 2, 3), 0.5)
        >>> tinted = colour(grey, jax.random.key(0), saturation=1.0, hue=0.5)
        >>> bool(jnp.allclose(tinted, grey, atol=1e-6))
        True

    References:
        FCC, 47 CFR § 73.682 (a)(20): the colours of NTSC television.
    """
    check_images(images)
    check_amounts(brightness=brightness, contrast=contrast, saturation=saturation)
    check_amounts(hue=hue, most=0.5)
    coloured = images.shape[-1] == 3
    for name, amount in {"saturation": saturation, "hue": hue}.items():
        if amount and not coloured:
            raise DataError(
                f"augment.{name} needs images of 3 channels, got {images.shape[-1]}: leave it at 0 for grey ones"
            )
    if not any((brightness, contrast, saturation, hue)):
        return images

    bright, contrasted, saturated, turn = jax.random.uniform(
        key, (4, len(images)), jnp.float32, minval=-1.0, maxval=1.0
    )
    b, c, s = (1.0 + brightness) ** bright, (1.0 + contrast) ** contrasted, (1.0 + saturation) ** saturated
    wide = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    means = wide.mean(axis=(1, 2))
    luma = jnp.sum(means * _TO_YIQ[:1], axis=-1) if coloured else means.mean(axis=-1)
    if coloured:
        matrices = _in_yiq(s, 2 * np.pi * hue * turn)[:, None, None]
        # A product of matrices would be several times as slow for three numbers at a time.
        wide = functools.reduce(jnp.add, (wide[..., j, None] * matrices[..., j] for j in range(3)))
    changed = (b * c)[:, None, None, None] * wide + (b * (1 - c) * luma)[:, None, None, None]
    return changed.clip(0, 1).astype(images.dtype)


def _in_yiq(stretch: Float[Array, "batch"], turn: Float[Array, "batch"]) -> Float[Array, "batch 3 3"]:
    """The maps of red, green and blue that stretch the plane of colours and turn it, and keep the luma."""
    zero, one = jnp.zeros_like(turn), jnp.ones_like(turn)
    cos, sin = stretch * jnp.cos(turn), stretch * jnp.sin(turn)
    rows = [[one, zero, zero], [zero, cos, -sin], [zero, sin, cos]]
    inside = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=1)
    return jnp.einsum("ij,njk,kl->nil", _FROM_YIQ, inside, _TO_YIQ, precision="highest")
