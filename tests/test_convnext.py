"""ConvNeXt against NumPy and the published size."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from references_models import convnext, convnext_shapes, weights_of
from small_models import embed, features, images, in_torch, loaded, size_without_head, unmoved

from metric_jax.models import IMAGENET_MEAN, IMAGENET_STD, ConvNeXt


def network(image_shape=(32, 32, 3), *, depths=(1, 2), width=4, dim=5, **options):
    return ConvNeXt(image_shape, depths=depths, width=width, dim=dim, **options, rngs=nnx.Rngs(0))


def test_numpy_says_the_same(tmp_path):
    weights = weights_of(convnext_shapes((1, 2), 4))
    net = loaded(network((31, 36, 3)), weights, tmp_path)
    x = images(3, (31, 36, 3))
    expected = convnext(in_torch(x, IMAGENET_MEAN, IMAGENET_STD), weights, (1, 2))
    np.testing.assert_allclose(features(net, x), expected, rtol=1e-4, atol=1e-4)


LAYERS = {
    "conv_dw": "block.0",
    "norm": "block.2",
    "mlp.fc1": "block.3",
    "mlp.fc2": "block.5",
    "gamma": "layer_scale",
}
ENDS = {"stem.": "features.0.", "head.norm": "classifier.0", "head.fc": "classifier.2"}


def by_torchvision(name):
    """What torchvision calls a tensor of timm's."""
    for timm, torchvision in ENDS.items():
        if name.startswith(timm):
            return name.replace(timm, torchvision)
    _, stage, part, index, rest = name.split(".", 4)
    if part == "downsample":
        return f"features.{2 * int(stage)}.{index}.{rest}"
    for timm, torchvision in LAYERS.items():
        rest = re.sub(f"^{timm}", torchvision, rest)
    return f"features.{2 * int(stage) + 1}.{index}.{rest}"


def test_torchvision_names_the_same_weights(tmp_path):
    weights = weights_of(convnext_shapes((1, 2), 4))
    theirs = {
        by_torchvision(name): weight[:, None, None] if name.endswith("gamma") else weight
        for name, weight in weights.items()
    }
    assert {"features.1.0.block.0.weight", "features.2.1.bias", "features.3.1.layer_scale"} < theirs.keys()
    one, other = loaded(network(), weights, tmp_path), loaded(network(), theirs, tmp_path)
    for (key, array), (_, same) in zip(
        *(nnx.to_flat_state(nnx.state(net)) for net in (one, other)), strict=True
    ):
        np.testing.assert_array_equal(array[...], same[...], err_msg=str(key))


def test_as_large_as_published():
    assert size_without_head("convnext_tiny") == 27_820_128


def test_every_parameter_learns():
    assert unmoved(network(depths=(1, 1), neck=False), images(3)) == []


def test_bfloat16_embeds_in_float32():
    exact, half = (network(depths=(1, 1), neck=False, dtype=dtype) for dtype in ("float32", "bfloat16"))
    embeddings = embed(half, images(3))
    assert embeddings.dtype == jnp.float32
    np.testing.assert_allclose(embeddings, embed(exact, images(3)), atol=0.05)
    np.testing.assert_allclose(jnp.linalg.norm(embeddings, axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (7, 32, 3)}, "2 stages need images of at least 8×8, got 7×32: .*data.size=8"),
        ({"depths": (3, 0)}, r"model\.depths must be the blocks of each stage, 1 or more, got \(3, 0\)"),
        ({"width": 0}, r"model\.width must be at least 1, got 0"),
        ({"dtype": "half"}, r"model\.dtype must be"),
    ],
)
def test_a_network_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        network(**options)
