"""What hides a part of an image: a patch anywhere, or one over an eye."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metric_jax.data.augment.checks import check_amounts, check_images

# Where a portrait has its eyes and how much a patch covers, as fractions of height and width.
EYE_DOWN, EYE_ASIDE = 0.45, 0.18
PATCH_HEIGHT, PATCH_WIDTH = 0.2, 0.26
JITTER = 0.03


@functools.partial(jax.jit, static_argnames=("side", "fill"))
def cutout(
    images: Float[Array, "batch height width channels"],
    key: Array,
    *,
    side: float = 0.0,
    fill: float | None = None,
) -> Float[Array, "batch height width channels"]:
    """Hides a rectangle of every image, of the image's own shape, its centre anywhere in the image.

    Args:
        images: ``[batch, height, width, channels]`` in [0, 1], floating.
        key: A PRNG key; the same key hides the same.
        side: The rectangle's sides as a fraction of the image's. Near a border a part of it lies outside.
        fill: What stands in it, between 0 and 1; None is noise, uniform in [0, 1], which no image of a set has.

    Returns:
        Images of the same shape and type.

    Raises:
        TypeError: Images that are not floating.
        ValueError: Images of another rank; a side or a fill out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> hidden = cutout(jnp.ones((1, 8, 8, 1)), jax.random.key(0), side=0.5, fill=0.0)
        >>> hidden.shape, 4 <= int((hidden == 0).sum()) <= 16
        ((1, 8, 8, 1), True)

    References:
        DeVries, Taylor. Improved Regularization of Convolutional Neural Networks with Cutout. 2017.
        https://arxiv.org/abs/1708.04552
        Zhong, Zheng, Kang, Li, Yang. Random Erasing Data Augmentation. AAAI 2020 (noise).
        https://arxiv.org/abs/1708.04896
    """
    check_images(images)
    check_amounts(cutout=side, cutout_fill=fill or 0.0, most=1.0)
    if not side:
        return images
    place_key, noise_key = jax.random.split(key)
    rows, columns = _from(images, jax.random.uniform(place_key, (2, len(images)), jnp.float32))
    hidden = (jnp.abs(rows) < side / 2) & (jnp.abs(columns) < side / 2)
    filling = _noise(images, noise_key, side) if fill is None else jnp.asarray(fill, images.dtype)
    return jnp.where(hidden[..., None], filling, images)


@functools.partial(jax.jit, static_argnames=("probability",))
def eyepatch(
    images: Float[Array, "batch height width channels"], key: Array, *, probability: float = 0.0
) -> Float[Array, "batch height width channels"]:
    """Puts a black patch over one eye of a portrait, the left or the right.

    Two photos of one person, one of them with an eyepatch, are a hard positive pair. The patch is an ellipse where a
    portrait that fills the image has an eye, give or take a little; which eye is a matter of chance.

    Args:
        images: ``[batch, height, width, channels]`` in [0, 1], floating: portraits, upright.
        key: A PRNG key; the same key puts the same patches on the same images.
        probability: That an image gets one.

    Returns:
        Images of the same shape and type.

    Raises:
        TypeError: Images that are not floating.
        ValueError: Images of another rank; a probability that is none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> faces = eyepatch(jnp.ones((1000, 16, 16, 1)), jax.random.key(0), probability=0.3)
        >>> worn = (faces == 0).any(axis=(1, 2, 3))
        >>> print(f"{worn.mean():.1f}")
        0.3
    """
    check_images(images)
    check_amounts(eyepatch=probability, most=1.0)
    if not probability:
        return images
    worn, left, down, right = jax.random.uniform(key, (4, len(images)), jnp.float32)
    middle = jnp.where(left < 0.5, 0.5 - EYE_ASIDE, 0.5 + EYE_ASIDE) + JITTER * (2 * right - 1)
    rows, columns = _from(images, jnp.stack([EYE_DOWN + JITTER * (2 * down - 1), middle]))
    inside = (rows / (PATCH_HEIGHT / 2)) ** 2 + (columns / (PATCH_WIDTH / 2)) ** 2 < 1
    return jnp.where((inside & (worn < probability)[:, None, None])[..., None], 0, images)


def _from(images: Array, place: Float[Array, "2 batch"]) -> tuple[Array, Array]:
    """How far each pixel's middle lies below and to the right of a place, [batch, height, 1] and [batch, 1, width].

    Places and distances are fractions of the height and of the width.
    """
    _, height, width, _ = images.shape
    rows, columns = ((jnp.arange(size) + 0.5) / size for size in (height, width))
    down, right = place
    return (rows[None] - down[:, None])[:, :, None], (columns[None] - right[:, None])[:, None]


def _noise(images: Array, key: Array, side: float) -> Array:
    """Noise for a rectangle of that side, wherever it lies: a tile of it, again and again, for noise is costly."""
    count, height, width, channels = images.shape
    tile = [math.ceil(side * size) + 1 for size in (height, width)]
    noise = jax.random.uniform(key, (count, *tile, channels), jnp.float32).astype(images.dtype)
    times = [math.ceil(size / length) for size, length in zip((height, width), tile, strict=True)]
    return jnp.tile(noise, (1, *times, 1))[:, :height, :width]
