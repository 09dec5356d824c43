"""Models by name: what a config can choose of each, what it gets, and what is refused."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from references_models import vit_shapes, weights_of, write_safetensors

from configs import base
from metric_jax import models
from metric_jax.training import RunError, choices

SMALL_VIT = {"patch": 8, "width": 12, "blocks": 1, "heads": 3, "dim": 5}


def made(name, image_shape=(32, 32, 3), **options):
    """By way of a config: its shapes alone."""
    config = base.get_config().model
    config.update(name=name, **options)
    return nnx.eval_shape(lambda: choices.model(**config, image_shape=image_shape, key=jax.random.key(0)))


@pytest.mark.parametrize("name", models.MODELS)
def test_every_option_is_a_key_of_the_config(name):
    keys = base.get_config().model
    for option, default in models.options(name).items():
        if option != "bottleneck":  # which is what a ResNet's name says
            keys[option] = default  # which raises if there is no such key, or one of another type


@pytest.mark.parametrize("name", models.MODELS)
def test_every_keyword_of_a_constructor_is_an_option(name):
    constructor = models.MODELS[name]
    family = getattr(constructor, "func", constructor)
    keywords = [each.name for each in inspect.signature(family.__init__).parameters.values()][2:]
    assert [*models.options(name), "rngs"] == keywords


def test_a_model_that_is_given_nothing_keeps_its_defaults():
    net = made("vit_small")
    assert (len(net.blocks), net.blocks[0].attention.heads, net.positions.shape) == (12, 6, (5, 384))
    net = made("convnet")
    assert [block.conv.kernel.shape[-1] for block in net.blocks] == [64] * 4


def test_a_model_gets_its_options():
    net = made("vit_base", (16, 24, 1), **SMALL_VIT, mean=(0.1, 0.2, 0.3), dtype="bfloat16", neck=False)
    assert (net.grid, net.positions.shape, net.blocks[0].attention.heads) == ((2, 3), (7, 12), 3)
    assert (net.mean, net.dtype, net.neck, net.head.kernel.shape) == (
        (0.1, 0.2, 0.3),
        "bfloat16",
        None,
        (12, 5),
    )
    net = made("resnet50", width=2, depths=(1, 3))
    assert [len(stage) for stage in net.stages] == [1, 3]
    assert net.stages[1][2].units[2].conv.kernel.shape == (1, 1, 4, 16)
    assert made("resnet18", width=2, depths=[1]).stages[0][0].units[0].conv.kernel.shape == (3, 3, 2, 2)
    assert [len(stage.blocks) for stage in made("convnext_tiny", width=2, depths=(1, 2)).stages] == [1, 2]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("convnet", {"blocks": 1, "width": 2}),
        ("convnet", {"blocks": 1, "width": 2, "norm": "group"}),
        ("resnet18", {"depths": (1, 1), "width": 2}),
        ("resnet50", {"depths": (1,), "width": 2}),
        ("vit_small", SMALL_VIT),
        ("convnext_tiny", {"depths": (1, 1), "width": 2}),
    ],
)
def test_bfloat16_is_what_all_layers_but_the_last_compute_in(name, options):
    net = made(name, **options, dtype="bfloat16")
    layers = {path: each.dtype for path, each in nnx.iter_modules(net) if path and hasattr(each, "dtype")}
    ends = {path: layers.pop(path, None) for path in (("head",), ("neck",), ("norm",))}
    assert {jnp.dtype(dtype) for dtype in layers.values()} == {jnp.dtype("bfloat16")}
    assert {jnp.dtype(dtype) for dtype in ends.values() if dtype is not None} <= {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(net))} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"heads": 3}, "refuses its options: it has no heads, so leave model.heads alone; it has depths"),
        ("vit_small", {"norm": "group"}, "it has no norm, .*; it has patch, width, blocks, heads"),
        ("convnet", {"neck": True}, "it has no neck, .*; it has width, dim, blocks, growth, patch, norm"),
        ("vit_small", {"patch": 5}, "'vit_small' refuses its options: model.patch=5 must divide"),
        ("vit_smal", {}, "model.name 'vit_smal', did you mean 'vit_small'"),
        ("convnext_tiny", {"pretrained": "/no/weights"}, "model.pretrained: there is no file /no/weights"),
    ],
)  # fmt: skip
def test_what_a_model_does_not_have_is_named(name, options, message):
    with pytest.raises(RunError, match=message):
        made(name, **options)


def test_a_model_begins_with_the_weights_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    weights = weights_of(vit_shapes(patch=8, width=12, blocks=1, tokens=17))
    path = write_safetensors(tmp_path / "weights.safetensors", weights)
    net = choices.model("vit_small", (32, 32, 3), key=jax.random.key(0), pretrained=str(path), **SMALL_VIT)
    np.testing.assert_array_equal(net.token[...], weights["cls_token"][0, 0])
    with pytest.raises(RunError, match=r"model\.pretrained: .* does not hold this ViT: it lacks blocks\.1\."):
        made("vit_small", pretrained="~/weights.safetensors", **{**SMALL_VIT, "blocks": 2})


def test_what_a_network_is_made_of_can_be_known_while_its_weights_are_loaded(tmp_path):
    """Opening a run traces its model for shapes alone, also one that began with positions of another size."""
    weights = weights_of(vit_shapes(patch=8, width=12, blocks=1, tokens=1 + 7 * 7))
    path = write_safetensors(tmp_path / "weights.safetensors", weights)
    assert made("vit_small", pretrained=str(path), **SMALL_VIT).positions.shape == (17, 12)
