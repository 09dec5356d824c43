"""Vision transformers against NumPy and the published sizes; positions for images of another size."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from references_models import vit, vit_shapes, weights_of
from small_models import embed, features, images, in_torch, loaded, size_without_head, unmoved

from metric_jax.models import ViT
from metric_jax.models.vit import resample


def network(image_shape=(32, 32, 3), *, patch=8, width=12, blocks=2, heads=3, dim=5, **options):
    return ViT(
        image_shape,
        patch=patch,
        width=width,
        blocks=blocks,
        heads=heads,
        dim=dim,
        **options,
        rngs=nnx.Rngs(0),
    )


def test_numpy_says_the_same(tmp_path):
    weights = weights_of(vit_shapes(patch=8, width=12, blocks=2, tokens=17))
    net = loaded(network(), weights, tmp_path)
    expected = vit(in_torch(images(3), 0.5, 0.5), weights, patch=8, blocks=2, heads=3)
    np.testing.assert_allclose(features(net, images(3)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "size"), [("vit_small", 21_665_664), ("vit_base", 85_798_656)])
def test_as_large_as_published(name, size):
    assert size_without_head(name) == size


def test_every_parameter_learns():
    assert unmoved(network(blocks=1, neck=False), images(3)) == []


def test_bfloat16_embeds_in_float32():
    exact, half = (network(blocks=1, neck=False, dtype=dtype) for dtype in ("float32", "bfloat16"))
    embeddings = embed(half, images(3))
    assert embeddings.dtype == jnp.float32
    np.testing.assert_allclose(embeddings, embed(exact, images(3)), atol=0.05)
    np.testing.assert_allclose(jnp.linalg.norm(embeddings, axis=-1), 1, rtol=1e-5)


def test_the_class_token_sees_every_patch():
    net = network(blocks=1, neck=False)
    x = images(1)
    seen = features(net, jnp.concatenate([x, x.at[0, 31, 31].add(1.0), x.at[0, 0, 0].add(1.0)]))
    assert jnp.abs(seen[1:] - seen[:1]).max(axis=-1).min() > 1e-5


def test_positions_are_loaded_for_images_of_another_size(tmp_path):
    """The class token's stays; the patches' are as theirs between: a slope stays a slope but for the borders."""
    weights = weights_of(vit_shapes(patch=8, width=12, blocks=1, tokens=1 + 4 * 4))
    slopes = np.linspace(-1, 1, 12)
    theirs = np.arange(4.0)[:, None, None] + slopes * np.arange(4.0)[:, None]
    weights["pos_embed"] = np.float32(
        np.concatenate([np.full((1, 1, 12), 9.0), theirs.reshape(1, 16, 12)], axis=1)
    )
    net = loaded(network((64, 48, 3), blocks=1), weights, tmp_path)
    positions = np.asarray(net.positions[...])
    np.testing.assert_array_equal(positions[0], 9.0)
    rows, columns = ((np.arange(n) + 0.5) * 4 / n - 0.5 for n in (8, 6))
    expected = rows[:, None, None] + slopes * columns[:, None]
    inner = (slice(3, -3), slice(2, -2))  # which the borders do not reach
    np.testing.assert_allclose(positions[1:].reshape(8, 6, 12)[inner], expected[inner], atol=1e-5)


def test_positions_of_as_many_patches_in_another_order_are_interpolated_too():
    theirs = np.float32(np.random.default_rng(0).normal(size=(17, 3)))
    assert resample(theirs, (4, 4)) is theirs
    other = resample(theirs, (2, 8))
    assert other.shape == theirs.shape
    assert np.abs(other - theirs)[1:].max() > 0.1


@pytest.mark.parametrize("theirs", [np.ones((16, 3)), np.ones(()), np.ones((1, 0, 3)), np.ones((4, 0))])
def test_positions_of_no_square_grid_are_left_to_be_refused(theirs):
    assert resample(theirs, (4, 4)) is theirs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (28, 32, 3)}, r"model\.patch=8 must divide the sides .* 28×32: .*data\.size=24, or"),
        ({"heads": 5}, r"model\.heads=5 must divide model\.width=12"),
        ({"blocks": 0}, r"model\.blocks must be at least 1, got 0"),
        ({"patch": 0}, r"model\.patch must be at least 1, got 0"),
        ({"dtype": "half"}, r"model\.dtype must be"),
    ],
)
def test_a_network_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        network(**options)
