"""Brightness, contrast, saturation, hue: repeated by loops over pixels, by Pillow, and by the colours of colorsys."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references_augment
from drawn import random_images, spread_evenly, with_draws
from PIL import Image, ImageEnhance

from metric_jax.data.augment import colour

KEY = jax.random.key(5)
# The largest amounts, and what draws of 1 then make of them.
ALL = {"brightness": 0.5, "contrast": 0.25, "saturation": 1.0, "hue": 0.3}
DRAWS = [[0.5, -1.0], [-1.0, 1.0], [1.0, -0.5], [0.25, -1.0]]
IMAGE = random_images(1, 16, 12, 3)[0]


def changed(monkeypatch, image, **of):
    """The image with one kind of change of a given size."""
    draws = [[float(name in of)] for name in ALL]
    return with_draws(monkeypatch, colour, image[None], draws, **of)[0]


@pytest.mark.parametrize("channels", [1, 3])
def test_loops_say_the_same(monkeypatch, channels):
    images = random_images(2, 5, 7, channels)
    amounts = ALL if channels == 3 else {**ALL, "saturation": 0.0, "hue": 0.0}
    found = with_draws(monkeypatch, colour, images, DRAWS, **amounts)
    for image, got, (b, c, s, h) in zip(images, found, np.transpose(DRAWS), strict=True):
        factors = {"b": 1.5**b, "c": 1.25**c, "s": 2.0**s, "turns": 0.3 * h}
        np.testing.assert_allclose(got, references_augment.colour(image, **factors), atol=1e-5)
    assert (found == 0).any()
    assert (found == 1).any()


@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_pillow_says_the_same(monkeypatch, name, enhance):
    pixels = np.round(IMAGE * 255).astype(np.uint8)
    for factor in (1.6, 1.0):
        expected = np.asarray(enhance(Image.fromarray(pixels)).enhance(factor), np.float64)
        found = changed(monkeypatch, pixels / 255, **{name: factor - 1})
        np.testing.assert_allclose(found * 255, expected, atol=2)  # it rounds more than once


def test_hue_turns_as_the_colours_of_colorsys_do(monkeypatch):
    """Whose coefficients have two digits only."""
    pastel = 0.4 + 0.2 * IMAGE
    found = changed(monkeypatch, pastel, hue=0.2)
    for pixel, got in zip(pastel.reshape(-1, 3), found.reshape(-1, 3), strict=True):
        y, i, q = colorsys.rgb_to_yiq(*pixel)
        turned = (i + 1j * q) * np.exp(2j * np.pi * 0.2)
        np.testing.assert_allclose(got, colorsys.yiq_to_rgb(y, turned.real, turned.imag), atol=5e-3)


def test_a_whole_turn_is_none(monkeypatch):
    one_way, other_way = (
        with_draws(monkeypatch, colour, IMAGE[None], [[0.0]] * 3 + [[u]], hue=0.5) for u in (1, -1)
    )
    np.testing.assert_allclose(one_way, other_way, atol=1e-5)


def test_amounts_are_spread_evenly_up_to_the_largest():
    n, images = 2000, jnp.asarray([[[0.4, 0.3, 0.35], [0.3, 0.36, 0.4]]])
    images = jnp.tile(images[None], (n, 1, 1, 1))  # of two pixels each, far from 0 and 1
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    yiq = np.asarray(images[0, 0]) @ to_yiq.T

    def after(**amounts):
        return np.asarray(colour(images, KEY, **amounts), np.float64)[:, 0] @ to_yiq.T

    spread_evenly(np.log(after(brightness=0.5)[:, 0, 0] / yiq[0, 0]), np.log(1.5))
    contrasts = np.diff(after(contrast=0.5)[:, :, 0], axis=1)[:, 0] / np.diff(yiq[:, 0])
    spread_evenly(np.log(contrasts), np.log(1.5))
    chroma, before = (
        values[..., 1] + 1j * values[..., 2] for values in (after(saturation=0.5)[:, 0], yiq[0])
    )
    spread_evenly(np.log(np.abs(chroma / before)), np.log(1.5))
    turned = after(hue=0.1)[:, 0]
    spread_evenly(np.angle((turned[:, 1] + 1j * turned[:, 2]) / before) / (2 * np.pi), 0.1)


def test_grey_images_have_light_and_no_colour():
    images = jnp.asarray(random_images(2))
    assert not np.array_equal(colour(images, KEY, brightness=0.5, contrast=0.5), images)
    for name in ("saturation", "hue"):
        with pytest.raises(
            ValueError, match=rf"augment\.{name} needs images of 3 channels, got 1: leave it at 0"
        ):
            colour(images, KEY, **{name: 0.1})


def test_grey_stays_grey():
    images = jnp.repeat(jnp.asarray(random_images(3)), 3, axis=-1)
    np.testing.assert_allclose(colour(images, KEY, saturation=2.0, hue=0.5), images, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_the_type_stays(x64, dtype):
    images = jnp.asarray(random_images(2, channels=3), dtype)
    found = colour(images, KEY, **ALL)
    assert found.dtype == dtype
    exact = colour(images.astype(jnp.float64), KEY, **ALL)
    np.testing.assert_allclose(found.astype(jnp.float64), exact, atol=2 * float(jnp.finfo(dtype).eps) + 1e-6)
