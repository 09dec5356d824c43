"""ResNets against NumPy and the published sizes, and what a training step relies on."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from references_models import resnet, resnet_shapes, weights_of
from small_models import embed, features, images, in_torch, loaded, size_without_head, unmoved

from metric_jax.models import IMAGENET_MEAN, IMAGENET_STD, ResNet


def network(image_shape=(32, 32, 3), *, depths=(1, 2), width=4, dim=5, **options):
    return ResNet(image_shape, depths=depths, width=width, dim=dim, **options, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("bottleneck", "train"), [(False, False), (True, False), (False, True)])
def test_numpy_says_the_same(bottleneck, train, tmp_path):
    weights = weights_of(resnet_shapes((1, 2), 4, bottleneck=bottleneck))
    net = loaded(network((27, 32, 3), bottleneck=bottleneck), weights, tmp_path)
    x = images(3, (27, 32, 3))
    expected = resnet(
        in_torch(x, IMAGENET_MEAN, IMAGENET_STD), weights, (1, 2), bottleneck=bottleneck, train=train
    )
    np.testing.assert_allclose(features(net, x, train=train), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "size"), [("resnet18", 11_176_512), ("resnet50", 23_508_032)])
def test_as_large_as_published(name, size):
    assert size_without_head(name) == size


def test_every_parameter_learns():
    assert unmoved(network(neck=False), images(3)) == []


def test_embeddings_have_length_one_and_are_those_of_the_features():
    net = network(depths=(1,), neck=False)
    embeddings = net(images(3))
    expected = np.asarray(features(net, images(3))) @ np.asarray(net.head.kernel[...])
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(embeddings, expected, rtol=1e-4, atol=1e-5)
    net.normalise = False
    assert jnp.abs(jnp.linalg.norm(net(images(3)), axis=-1) - 1).min() > 1e-3


def test_running_means_change_in_training_alone():
    net = network(depths=(1,))

    def statistics():
        return [np.asarray(variable[...]) for _, variable in nnx.to_flat_state(nnx.state(net, nnx.BatchStat))]

    before = statistics()
    assert len(before) == 2 * (1 + 2 + 1), "a mean and a variance in stem, block and neck"
    net(images(3))
    assert all(np.array_equal(old, new) for old, new in zip(before, statistics(), strict=True))
    net(images(3), train=True)
    assert not any(np.any(old == new) for old, new in zip(before, statistics(), strict=True))


def test_bfloat16_embeds_in_float32():
    exact, half = (network(depths=(1,), neck=False, dtype=dtype) for dtype in ("float32", "bfloat16"))
    embeddings = embed(half, images(3))
    assert embeddings.dtype == jnp.float32
    np.testing.assert_allclose(embeddings, embed(exact, images(3)), atol=0.05)
    np.testing.assert_allclose(jnp.linalg.norm(embeddings, axis=-1), 1, rtol=1e-5)


def test_grey_images_are_three_equal_colours():
    grey, coloured = network((32, 32, 1), depths=(1,)), network(depths=(1,))
    x = images(2, (32, 32, 1))
    np.testing.assert_allclose(grey(x), coloured(jnp.repeat(x, 3, axis=-1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, r"model\.width must be at least 1, got 0"),
        ({"dim": 0}, r"model\.dim must be at least 1, got 0"),
        ({"depths": ()}, r"model\.depths must be the blocks of each stage, 1 or more, got \(\)"),
        ({"depths": [2, 0]}, r"got \(2, 0\)"),
        ({"dtype": "float16"}, r"model\.dtype must be 'float32' or 'bfloat16', got 'float16'"),
        ({"mean": ("a", 0.5, 0.5)}, r"model\.mean must be three numbers, got \('a', 0\.5, 0\.5\)"),
        ({"mean": (0.5,)}, r"model\.mean must be three numbers, got \(0\.5,\)"),
        ({"std": (0.5, 0.0, 0.5)}, r"model\.std must be three positive numbers, got \(0\.5, 0\.0, 0\.5\)"),
        ({"image_shape": (8, 8)}, r"image_shape must be \(height, width, channels\), got \(8, 8\)"),
        ({"image_shape": (8, 8, 4)}, "images must be grey or coloured, of 1 or 3 channels, got 4"),
    ],
)
def test_a_network_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        network(**options)
