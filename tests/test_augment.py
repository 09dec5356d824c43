"""Affine maps, crops, mirror images: read off images of coordinates, drawn by hand, repeated by scipy and Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import random_images, spread_evenly, with_draws
from PIL import Image
from scipy import ndimage

from metric_jax.data.augment import affine, flip

KEY = jax.random.key(3)
SIDE = 24
CENTER = np.array([(SIDE - 1) / 2] * 2)
# Amounts at which no pixel near the centre is taken from beyond the border.
ALL = {"rotate": 30.0, "scale": 0.25, "shear": 0.2, "translate": 0.1}


def coordinates(n):
    """Images whose two channels say where each pixel comes from."""
    return np.broadcast_to(np.stack(np.mgrid[:SIDE, :SIDE], axis=-1), (n, SIDE, SIDE, 2)).astype(np.float32)


def maps(n, key=KEY, **amounts):
    """The matrix [n, 2, 2] and shift [n, 2] of every image: where it takes the pixels about its centre from."""
    source = np.asarray(affine(jnp.asarray(coordinates(n)), key, **amounts), np.float64)
    middle = SIDE // 2
    here, below, beside = (
        source[:, middle, middle],
        source[:, middle + 1, middle],
        source[:, middle, middle + 1],
    )
    matrices = np.stack([below - here, beside - here], axis=-1)
    return matrices, here - np.einsum("nij,j->ni", matrices, middle - CENTER) - CENTER


@pytest.fixture
def drawn(monkeypatch):
    """A function that augments with given draws, in [-1, 1]: turn, zoom, slant, down, right."""

    def augment(image, draws, **amounts):
        return with_draws(monkeypatch, affine, image[None], np.array(draws)[:, None], **amounts)[0]

    return augment


def test_nothing_asked_nothing_done():
    images = jnp.asarray(random_images(3, channels=2))
    np.testing.assert_array_equal(affine(images, KEY), images)


def test_scipy_says_the_same():
    """Its affine_transform, given the maps that images of coordinates show, must give the same textures."""
    matrices, shifts = maps(6, **ALL)
    images = random_images(6, channels=2)
    moved = affine(jnp.asarray(images), KEY, **ALL)
    for i, (matrix, shift) in enumerate(zip(matrices, shifts, strict=True)):
        for channel in range(2):
            expected = ndimage.affine_transform(
                images[i, ..., channel], matrix, CENTER - matrix @ CENTER + shift, order=1, mode="nearest"
            )
            np.testing.assert_allclose(moved[i, ..., channel], expected, atol=1e-4)


@pytest.mark.parametrize("shape", [(5, 5, 1), (6, 6, 3), (5, 9, 1)])
def test_a_half_turn(drawn, shape):
    image = np.random.default_rng(1).random(shape)
    np.testing.assert_allclose(drawn(image, [1, 0, 0, 0, 0], rotate=180.0), np.rot90(image, 2), atol=1e-5)


@pytest.mark.parametrize("side", [5, 6])
def test_a_quarter_turn(drawn, side):
    image = np.random.default_rng(1).random((side, side, 2))
    np.testing.assert_allclose(drawn(image, [1, 0, 0, 0, 0], rotate=90.0), np.rot90(image, -1), atol=1e-5)
    np.testing.assert_allclose(drawn(image, [-1, 0, 0, 0, 0], rotate=90.0), np.rot90(image), atol=1e-5)


def test_a_shift_continues_the_border(drawn):
    image = np.random.default_rng(1).random((8, 4, 1))
    moved = drawn(image, [0, 0, 0, 1, -1], translate=0.25)  # 2 of 8 rows, 1 of 4 columns
    rows, columns = np.minimum(np.arange(8) + 2, 7), np.maximum(np.arange(4) - 1, 0)
    np.testing.assert_allclose(moved, image[rows][:, columns], atol=1e-6)


def test_twice_the_size(drawn):
    image = np.random.default_rng(1).random((9, 9, 1))
    larger = drawn(image, [0, 1, 0, 0, 0], scale=1.0)
    np.testing.assert_allclose(larger[::2, ::2], image[2:7, 2:7], atol=1e-6)
    smaller = drawn(image, [0, -1, 0, 0, 0], scale=1.0)
    np.testing.assert_allclose(smaller[2:7, 2:7], image[::2, ::2], atol=1e-6)


def test_a_slant_moves_rows_sideways(drawn):
    image = np.random.default_rng(1).random((5, 7, 1))
    slanted = drawn(image, [0, 0, 1, 0, 0], shear=1.0)
    for row in range(5):
        columns = np.clip(np.arange(7) + row - 2, 0, 6)
        np.testing.assert_allclose(slanted[row], image[row, columns], atol=1e-6)


def test_slant_then_turn_then_size(drawn):
    image = coordinates(1)[0]
    amounts = {"rotate": 30.0, "shear": 0.2, "scale": 0.25}
    source = drawn(image, [1, 1, 1, 0, 0], **amounts)
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, 0], [0.2, 1]]) / 1.25
    for row, column in ((10, 10), (11, 14), (13, 9)):
        expected = matrix @ ([row, column] - CENTER) + CENTER
        np.testing.assert_allclose(source[row, column], expected, atol=1e-4)


def test_amounts_are_spread_evenly_up_to_the_largest():
    n = 2000
    matrices, _ = maps(n, rotate=20.0)
    turns = np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-4)
    spread_evenly(turns, 20.0)
    matrices, _ = maps(n, scale=0.2)
    spread_evenly(np.log(matrices[:, 0, 0]), np.log(1.2))
    spread_evenly(maps(n, shear=0.3)[0][:, 1, 0], 0.3)
    _, shifts = maps(n, translate=0.1)
    spread_evenly(shifts[:, 0], 0.1 * SIDE)
    spread_evenly(shifts[:, 1], 0.1 * SIDE)
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 4 / np.sqrt(n)


@pytest.mark.parametrize(
    ("area", "shape", "down", "right"), [(0.2, 1, -1, 1), (-1, -0.4, 0.5, 0), (0.9, 1, 1, -1)]
)
def test_a_crop_is_the_one_of_pillow(monkeypatch, area, shape, down, right):
    image = random_images(1, 20, 30)[0]
    draws = np.array([area, shape, down, right])[:, None]
    found = with_draws(monkeypatch, affine, image[None], np.zeros((5, 1)), draws, crop=0.3, aspect=0.5)[0]
    share = 0.3 + 0.7 * (area + 1) / 2
    stretch = min(1.5, 1 / share) ** shape
    height, width = 20 * np.sqrt(share / stretch), 30 * np.sqrt(share * stretch)
    top, left = (20 - height) * (1 + down) / 2, (30 - width) * (1 + right) / 2
    box = (left, top, left + width, top + height)
    expected = Image.fromarray(image[..., 0]).transform(
        (30, 20), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR
    )
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-4)


def test_crops_are_spread_evenly_and_lie_within_the_image():
    n = 2000
    matrices, shifts = maps(n, crop=0.4, aspect=0.5)
    sides = np.diagonal(matrices, axis1=1, axis2=2)
    areas, ratios = sides.prod(axis=1), sides[:, 1] / sides[:, 0]
    spread_evenly((areas - 0.7) / 0.3, 1)
    spread_evenly(np.log(ratios) / np.minimum(np.log(1.5), -np.log(areas)), 1)
    room = (1 - sides) / 2 * SIDE
    assert (np.abs(shifts) < room + 1e-3).all()
    for axis in range(2):
        inside = room[:, axis] > 0.1
        spread_evenly(shifts[inside, axis] / room[inside, axis], 1.001)


def test_a_crop_of_everything_is_the_image():
    images = jnp.asarray(random_images(2))
    np.testing.assert_array_equal(affine(images, KEY, crop=1.0), images)


def test_a_crop_is_made_first_and_in_the_same_resampling():
    """The map is that of the crop after that of the rest; two resamplings would smooth what one leaves rough."""
    (crops, places), (matrices, shifts) = maps(6, crop=0.6, aspect=0.2), maps(6, **ALL)
    together, moved = maps(6, **ALL, crop=0.6, aspect=0.2)
    np.testing.assert_allclose(together, crops @ matrices, atol=1e-4)
    np.testing.assert_allclose(moved, np.einsum("nij,nj->ni", crops, shifts) + places, atol=1e-3)
    images = random_images(6)
    found = affine(jnp.asarray(images), KEY, **ALL, crop=0.6, aspect=0.2)
    for image, matrix, shift, got in zip(images, together, moved, found, strict=True):
        offset = CENTER - matrix @ CENTER + shift
        expected = ndimage.affine_transform(image[..., 0], matrix, offset, order=1, mode="nearest")
        np.testing.assert_allclose(got[..., 0], expected, atol=1e-3)


def test_flips_mirror_as_many_images_as_they_should():
    images = random_images(1000, 3, 4, 2)
    flipped = np.asarray(flip(jnp.asarray(images), KEY, probability=0.3))
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(flipped[~mirrored], images[~mirrored])
    assert abs(mirrored.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 1000)


def test_each_image_has_its_own_map_and_each_key_its_own_maps():
    found = [maps(8, jax.random.key(seed), **ALL) for seed in (3, 4)]
    flat = np.concatenate([np.hstack([matrices.reshape(8, 4), shifts]) for matrices, shifts in found])
    distances = np.abs(flat[:, None] - flat[None]).max(axis=-1)
    assert distances[~np.eye(16, dtype=bool)].min() > 0.01


def test_the_same_key_gives_the_same_maps():
    images = jnp.asarray(random_images(4))
    np.testing.assert_array_equal(affine(images, KEY, **ALL), affine(images, KEY, **ALL))


def test_inside_a_jitted_step_it_is_the_same():
    images = jnp.asarray(random_images(4))
    inside = jax.jit(lambda images, key: affine(images, key, **ALL) * 2.0)
    np.testing.assert_allclose(inside(images, KEY), affine(images, KEY, **ALL) * 2.0, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_of_the_pixels_not_of_the_map(dtype):
    images = jnp.asarray(random_images(2, 300, 300)).astype(dtype)  # bfloat16 does not have the centre, 149.5
    moved = affine(images, KEY, **ALL)
    assert moved.dtype == dtype
    expected = affine(images.astype(jnp.float32), KEY, **ALL).astype(dtype)
    one_ulp = jnp.finfo(dtype).eps  # each was computed in float32 and rounded once
    np.testing.assert_allclose(moved.astype(jnp.float32), expected.astype(jnp.float32), rtol=one_ulp, atol=0)


def test_float64(x64):
    images = jnp.asarray(random_images(2), jnp.float64)
    assert affine(images, KEY, **ALL).dtype == jnp.float64


def test_values_stay_between_those_of_the_image():
    moved = affine(jnp.asarray(random_images(8)), KEY, rotate=180.0, scale=1.0, shear=1.0, translate=1.0)
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1


def test_images_that_are_none():
    with pytest.raises(TypeError, match="images must be floating, got uint8: divide bytes by 255"):
        affine(jnp.zeros((1, 4, 4, 1), jnp.uint8), KEY)
    with pytest.raises(
        ValueError, match=r"images must be \[batch, height, width, channels\], got \[4, 4, 1\]"
    ):
        affine(jnp.zeros((4, 4, 1)), KEY)
