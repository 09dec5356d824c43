"""Weights put into networks: what goes where is tested with each network; here, what is refused and what stays."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from references_models import convnext_shapes, resnet_shapes, vit_shapes, weights_of, write_safetensors

from metric_jax.models import ConvNet, ConvNeXt, ResNet, ViT, load_pretrained
from metric_jax.models.pretrained import Rule

SHAPES = resnet_shapes((1, 1), 4, bottleneck=False)


def network(**options):
    return ResNet((32, 32, 3), **{"depths": (1, 1), "width": 4, "dim": 5, **options}, rngs=nnx.Rngs(0))


def arrays(net):
    return {
        ".".join(map(str, key)): np.asarray(value[...]) for key, value in nnx.to_flat_state(nnx.state(net))
    }


def refused(net, weights, folder):
    """The message, after which the network is as it was."""
    before = arrays(net)
    path = write_safetensors(folder / "weights.safetensors", weights)
    with pytest.raises(ValueError, match=str(path)) as error:
        load_pretrained(net, path)
    for key, array in arrays(net).items():
        np.testing.assert_array_equal(array, before[key])
    return str(error.value)


def test_all_but_head_and_neck_comes_from_the_file(tmp_path):
    net = network(neck=True)
    before = arrays(net)
    load_pretrained(net, write_safetensors(tmp_path / "weights.safetensors", weights_of(SHAPES)))
    after = arrays(net)
    kept = {key for key in after if np.array_equal(after[key], before[key])}
    assert kept == {key for key in after if key.startswith(("head.", "neck."))}


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_weights_of_any_precision_become_float32(dtype, tmp_path):
    weights = {name: w if w.dtype == np.int64 else w.astype(dtype) for name, w in weights_of(SHAPES).items()}
    net = network()
    load_pretrained(net, write_safetensors(tmp_path / "weights.safetensors", weights))
    kernel = net.stem.conv.kernel[...]
    assert kernel.dtype == jnp.float32
    np.testing.assert_array_equal(kernel, weights["conv1.weight"].transpose(2, 3, 1, 0).astype(np.float32))


def test_a_tensor_too_few_or_too_many(tmp_path):
    weights = weights_of(SHAPES)
    for name in [name for name in weights if name.startswith("layer2")]:
        del weights[name]
    weights |= {
        "layer5.0.conv1.weight": np.float32([1]),
        "epoch": np.int64(3),
        "a\nb": np.float32(1),
    }
    told = refused(network(), weights, tmp_path)
    assert "it lacks stages.1.0.shortcut.conv.kernel, stages.1.0.shortcut.norm.bias, " in told
    assert "and 12 more; " in told
    assert "no place is there for 'layer5.0.conv1.weight', 'epoch', 'a\\nb'" in told
    assert "\n" not in told


def test_weights_of_another_size(tmp_path):
    told = refused(network(width=8), weights_of(SHAPES), tmp_path)
    assert (
        "'conv1.weight' [4, 3, 7, 7] for stem.conv.kernel [7, 7, 3, 8], 'bn1.weight' [4] for stem.norm.scale [8]"
        in told
    )
    assert "lacks" not in told


def test_weights_of_another_family(tmp_path):
    told = refused(network(), weights_of(convnext_shapes((1,), 4)), tmp_path)
    assert "does not hold this ResNet: it lacks " in told
    assert "no place is there for 'stem.0.weight', 'stem.0.bias', " in told
    net = ConvNeXt((32, 32, 3), depths=(1,), width=4, rngs=nnx.Rngs(0))
    assert "does not hold this ConvNeXt" in refused(net, weights_of(SHAPES), tmp_path)


def test_two_tensors_for_one_place(tmp_path):
    weights = weights_of(SHAPES)
    weights["layer01.0.conv1.weight"] = weights["layer1.0.conv1.weight"]
    assert "no place is there for 'layer01.0.conv1.weight'" in refused(network(), weights, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value, tmp_path):
    weights = weights_of(SHAPES)
    weights["bn1.bias"][2] = value
    assert "tensor 'bn1.bias' holds NaN or infinity" in refused(network(), weights, tmp_path)


def test_whole_numbers_are_no_weights(tmp_path):
    weights = weights_of(SHAPES)
    weights["bn1.bias"] = weights["bn1.bias"].astype(np.uint8)
    assert "tensor 'bn1.bias' is uint8: weights are floating" in refused(network(), weights, tmp_path)


def test_positions_of_no_square_grid(tmp_path):
    net = ViT((32, 32, 3), patch=8, width=12, blocks=1, heads=3, rngs=nnx.Rngs(0))
    weights = weights_of(vit_shapes(patch=8, width=12, blocks=1, tokens=16))
    assert "'pos_embed' [1, 16, 12] for positions [17, 12]" in refused(net, weights, tmp_path)


def test_a_network_without_published_weights(tmp_path):
    net = ConvNet((8, 8, 1), width=4, blocks=1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="there are no published weights for ConvNet"):
        load_pretrained(net, tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("layer2.13.conv1.weight", "stages.1.13.units.0.kernel"),
        ("layer2.13.conv1.bias", None),
        ("layer2.13.conv1.weight_v", None),
        ("my.layer2.13.conv1.weight", None),
        ("layer2x13xconv1xweight", None),
        ("layer.13.conv1.weight", None),
    ],
)
def test_a_rule_matches_whole_names_and_counts_from_its_numbers(name, path):
    assert Rule("layer<1>.<0>.conv<1>.weight", "stages.{}.{}.units.{}.kernel").path(name) == path
