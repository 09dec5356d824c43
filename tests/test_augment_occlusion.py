"""What hides and what blurs: repeated by loops over pixels, and by scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references_augment
from drawn import random_images, spread_evenly, with_draws
from scipy import ndimage

from metric_jax.data.augment import blur, cutout, eyepatch

KEY = jax.random.key(7)


@pytest.mark.parametrize("place", [(0.5, 0.5), (0.0, 0.95), (0.31, 0.07)])
def test_cutout_hides_what_loops_hide(monkeypatch, place):
    images = random_images(1, 10, 14, 2)
    down, right = place
    found = with_draws(monkeypatch, cutout, images, [[down], [right]], side=0.37, fill=0.25)[0]
    hidden = references_augment.hidden_by_cutout(10, 14, 0.37, down=down, right=right)
    np.testing.assert_array_equal(found, np.where(hidden[..., None], np.float32(0.25), images[0]))
    assert hidden.any()


def test_cutout_may_lie_anywhere():
    n, size = 2000, 16
    hidden = np.asarray(cutout(jnp.ones((n, size, size, 1)), KEY, side=1 / size, fill=0.0))[..., 0] == 0
    assert (hidden.sum(axis=(1, 2)) == 1).all()
    _, rows, columns = np.nonzero(hidden)
    spread_evenly(rows + 0.5 - size / 2, size / 2)
    spread_evenly(columns + 0.5 - size / 2, size / 2)
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 4 / np.sqrt(n)


def test_cutout_hides_by_noise_unless_told_otherwise():
    images = jnp.full((40, 20, 30, 3), 2.0)
    found = np.asarray(cutout(images, KEY, side=0.4))
    for image in found:
        noise = image[image != 2.0]
        assert len(np.unique(noise)) > 0.999 * len(noise)  # the tile that is repeated never shows twice
    assert not np.array_equal(*(image[image != 2.0][:3] for image in found[:2]))
    noise = found[found != 2.0]
    assert 0 <= noise.min() <= noise.max() < 1
    spread_evenly(2 * noise - 1, 1)
    visible = cutout(images, KEY, side=0.4, fill=0.0) == 2.0
    np.testing.assert_array_equal(found == 2.0, visible)


@pytest.mark.parametrize("left", [True, False])
def test_eyepatch_hides_what_loops_hide(monkeypatch, left):
    images = random_images(2, 30, 22, 3)
    draws = [[0.59, 0.61], [0.2 if left else 0.8] * 2, [0.0, 0.5], [1.0, 0.5]]
    found = with_draws(monkeypatch, eyepatch, images, draws, probability=0.6)
    hidden = references_augment.hidden_by_eyepatch(30, 22, left=left, down=-1, right=1)
    np.testing.assert_array_equal(found[0], np.where(hidden[..., None], 0, images[0]))
    np.testing.assert_array_equal(found[1], images[1])


def test_eyepatch_covers_one_eye_or_the_other_or_none():
    n = 2000
    patched = np.asarray(eyepatch(jnp.ones((n, 32, 32, 1)), KEY, probability=0.7))[..., 0] == 0
    worn = patched.any(axis=(1, 2))
    left, right = patched[:, :, :16].any(axis=(1, 2)), patched[:, :, 16:].any(axis=(1, 2))
    assert abs(worn.mean() - 0.7) < 4 * np.sqrt(0.7 * 0.3 / n)
    assert not (left & right).any()
    assert abs(left[worn].mean() - 0.5) < 4 * np.sqrt(0.25 / worn.sum())
    middles = (np.argwhere(patched)[:, 1]).mean()
    assert middles < 16  # the upper half


@pytest.mark.parametrize("sigma", [0.4, 1.5])
def test_blur_is_the_one_of_scipy(monkeypatch, sigma):
    images = random_images(3, 9, 12, 2)
    shares = [1.0, 0.3, 0.0]
    found = with_draws(monkeypatch, blur, images, [[share] for share in shares], sigma=sigma)
    radius = int(np.ceil(3 * sigma))
    for image, got, share in zip(images, found, shares, strict=True):
        for channel in range(2):
            expected = image[..., channel].astype(np.float64)
            if share:
                expected = ndimage.gaussian_filter(expected, share * sigma, mode="nearest", radius=radius)
            np.testing.assert_allclose(got[..., channel], expected, atol=1e-6)


def test_blurs_are_spread_evenly_up_to_the_largest():
    points = jnp.zeros((2000, 9, 9, 1)).at[:, 4, 4].set(1.0)
    blurred = np.asarray(blur(points, KEY, sigma=1.2), np.float64)[:, 4, :, 0]
    with np.errstate(divide="ignore"):
        widths = np.sqrt(-1 / (2 * np.log(blurred[:, 5] / blurred[:, 4])))
    spread_evenly(2 * widths / 1.2 - 1, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda images: cutout(images, KEY, side=0.4),
        lambda images: cutout(images, KEY, side=0.4, fill=0.3),
        lambda images: eyepatch(images, KEY, probability=1.0),
        lambda images: blur(images, KEY, sigma=1.0),
    ],
    ids=["noise", "cutout", "eyepatch", "blur"],
)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_the_type_stays(x64, change, dtype):
    images = jnp.asarray(random_images(2), dtype)
    found = change(images)
    assert found.dtype == dtype
    exact = change(images.astype(jnp.float32)).astype(jnp.float64)
    np.testing.assert_allclose(found.astype(jnp.float64), exact, atol=float(jnp.finfo(dtype).eps) + 1e-6)
