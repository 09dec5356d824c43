"""Where pixels go: random affine maps and crops, in one resampling, and mirror images."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metric_jax.data.augment.checks import check_amounts, check_images
from metric_jax.data.errors import DataError


@functools.partial(jax.jit, static_argnames=("rotate", "scale", "shear", "translate", "crop", "aspect"))
def affine(
    images: Float[Array, "batch height width channels"],
    key: Array,
    *,
    rotate: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    translate: float = 0.0,
    crop: float = 0.0,
    aspect: float = 0.0,
) -> Float[Array, "batch height width channels"]:
    """Crops, turns, scales, slants and shifts every image about its centre, each by amounts of its own.

    The pixel at x = (row, column), seen from the centre, is taken bilinearly from ``C (A x + t) + c``, with
    ``A = R(turn) S(slant) / zoom``, ``R(a) = [[cos a, -sin a], [sin a, cos a]]`` and ``S(s) = [[1, 0], [s, 1]]``. The
    crop is a rectangle about c that covers ``C = diag(h, w)`` of the height and the width. What lies in it gets the
    size of the image, and it is this larger image that is turned and shifted; but all of it is one resampling, so that
    the image is blurred once. Beyond the border the border's own pixels go on, so that paper stays white and a black
    ground black.

    Args:
        images: ``[batch, height, width, channels]``, floating.
        key: A PRNG key; the same key gives the same maps.
        rotate: The largest angle, in degrees, either way.
        scale: The largest change of size: 0.1 is from 1/1.1 to 1.1, their logarithms uniform.
        shear: The largest slant: by how many pixels a row moves sideways for every row that it lies from the centre.
        translate: The largest shift in either direction, as a fraction of the side. 4/32 is the crop of an image of 32
            pixels that is padded by 4.
        crop: The smallest area of a crop, as a fraction of the image's: its area is uniform from there to 1, its place
            uniform where it fits. 0 is no crop.
        aspect: The largest change of a crop's shape, w / h: 0.33 is from 1/1.33 to 1.33, their logarithms uniform, as
            far as a crop of its area fits into the image.

    Returns:
        Images of the same shape and type.

    Raises:
        TypeError: Images that are not floating.
        ValueError: Images of another rank; an amount out of range; an aspect without a crop.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> image = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2, 0].set(1.0)
        >>> moved = affine(image, jax.random.key(0), translate=0.3)
        >>> moved.shape, bool((affine(image, jax.random.key(0)) == image).all())
        ((1, 5, 5, 1), True)

    References:
        Szegedy et al. Going Deeper with Convolutions. CVPR 2015 (crops of random area and shape).
        https://arxiv.org/abs/1409.4842
    """
    check_images(images)
    check_amounts(rotate=rotate, scale=scale, shear=shear, translate=translate, aspect=aspect)
    check_amounts(crop=crop, most=1.0)
    if aspect and not crop:
        raise DataError(f"augment.aspect={aspect} is the shape of crops: set augment.crop too")
    if not any((rotate, scale, shear, translate, crop)):
        return images

    _, height, width, _ = images.shape
    draws = jax.random.uniform(key, (5, len(images)), jnp.float32, minval=-1.0, maxval=1.0)
    turn, zoom, slant, down, right = draws
    turn, zoom, slant = math.radians(rotate) * turn, (1.0 + scale) ** zoom, shear * slant
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    rows = [[cos - sin * slant, -sin], [sin + cos * slant, cos]]
    matrices = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=1) / zoom[:, None, None]
    shifts = translate * jnp.stack([height * down, width * right], axis=-1)
    if crop:
        # A key of its own, so that what the other amounts do does not hang on whether there is a crop.
        sides, middles = _crops(jax.random.fold_in(key, 1), len(images), crop, aspect)
        matrices = sides[:, :, None] * matrices
        shifts = sides * shifts + middles * jnp.array([[height, width]], jnp.float32)
    return jax.vmap(_resample)(images, matrices, shifts)


@functools.partial(jax.jit, static_argnames=("probability",))
def flip(
    images: Float[Array, "batch height width channels"], key: Array, *, probability: float = 0.0
) -> Float[Array, "batch height width channels"]:
    """Mirrors images, left to right.

    Args:
        images: ``[batch, height, width, channels]``, floating.
        key: A PRNG key; the same key mirrors the same images.
        probability: That an image is mirrored.

    Returns:
        Images of the same shape and type.

    Raises:
        TypeError: Images that are not floating.
        ValueError: Images of another rank; a probability that is none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> flip(jnp.array([[[[1.0], [2.0], [3.0]]]]), jax.random.key(0), probability=1.0)[0, 0, :, 0]
        Array([3., 2., 1.], dtype=float32)
    """
    check_images(images)
    check_amounts(flip=probability, most=1.0)
    if not probability:
        return images
    mirrored = jax.random.uniform(key, (len(images),), jnp.float32) < probability
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def _crops(key: Array, count: int, smallest: float, aspect: float) -> tuple[Array, Array]:
    """Crops' heights and widths [count, 2] and where their centres lie [count, 2], as fractions of the sides."""
    area, shape, down, right = jax.random.uniform(key, (4, count), jnp.float32, minval=-1.0, maxval=1.0)
    area = jnp.log(smallest + (1 - smallest) * (1 + area) / 2)
    # Beyond -area, one side would be longer than the image's.
    shape = shape * jnp.minimum(math.log1p(aspect), -area)
    sides = jnp.exp(jnp.stack([area - shape, area + shape], axis=-1) / 2)
    return sides, (1 - sides) / 2 * jnp.stack([down, right], axis=-1)


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
