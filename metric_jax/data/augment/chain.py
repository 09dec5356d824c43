"""All random changes, one after the other."""

import jax
from jaxtyping import Array, Float

from metric_jax.data.augment import geometry, light, occlusion, smoothing
from metric_jax.data.errors import DataError


def random(
    images: Float[Array, "batch height width channels"],
    key: Array,
    *,
    eyepatch: float = 0.0,
    rotate: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    translate: float = 0.0,
    crop: float = 0.0,
    aspect: float = 0.0,
    flip: float = 0.0,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    blur: float = 0.0,
    cutout: float = 0.0,
    cutout_fill: float | None = None,
) -> Float[Array, "batch height width channels"]:
    """Changes every image at random in all these ways; an amount of 0 leaves its own way out.

    In the order of a photo that is taken: what the person wears (`eyepatch`), where the camera stands (`affine`, then
    `flip`), the light (`colour`), the lens (`blur`), and what gets in between (`cutout`).

    Args:
        images: ``[batch, height, width, channels]`` in [0, 1], floating.
        key: A PRNG key; the same key gives the same changes. Each way has a key of its own, so that what one does does
            not hang on the others; `affine` does what it does alone.
        eyepatch: The probability of `eyepatch`.
        rotate: Of `affine`, degrees.
        scale: Of `affine`.
        shear: Of `affine`.
        translate: Of `affine`, a fraction of the side.
        crop: Of `affine`, the smallest area.
        aspect: Of `affine`, the shape of crops.
        flip: The probability of `flip`.
        brightness: Of `colour`.
        contrast: Of `colour`.
        saturation: Of `colour`.
        hue: Of `colour`, in turns.
        blur: The sigma of `blur`, in pixels.
        cutout: The side of `cutout`.
        cutout_fill: The fill of `cutout`; None is noise.

    Returns:
        Images of the same shape and type; if all amounts are 0, the same bits.

    Raises:
        TypeError: Images that are not floating.
        ValueError: Images of another rank, or not coloured where that is needed; an amount out of range, or one that
            changes nothing without another.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> images = jnp.ones((2, 8, 8, 3)) / 2
        >>> random(images, jax.random.key(0), flip=0.5, crop=0.6, brightness=0.4, blur=1.0).shape
        (2, 8, 8, 3)
    """
    if cutout_fill is not None and not cutout:
        raise DataError(
            f"augment.cutout_fill={cutout_fill} is what the cut-out holds: set augment.cutout too"
        )
    patch_key, flip_key, colour_key, blur_key, cut_key = jax.random.split(jax.random.fold_in(key, 2), 5)
    images = occlusion.eyepatch(images, patch_key, probability=eyepatch)
    images = geometry.affine(
        images, key, rotate=rotate, scale=scale, shear=shear, translate=translate, crop=crop, aspect=aspect
    )
    images = geometry.flip(images, flip_key, probability=flip)
    images = light.colour(
        images, colour_key, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
    )
    images = smoothing.blur(images, blur_key, sigma=blur)
    return occlusion.cutout(images, cut_key, side=cutout, fill=cutout_fill)
