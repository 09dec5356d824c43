"""The state of training: what a model is parted into, what is frozen, what is averaged."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from metric_jax.models import ConvNet
from metric_jax.training import RunError, state

IMAGES = np.random.default_rng(0).random(size=(4, 8, 8, 1), dtype=np.float32)


def network(blocks=2):
    return ConvNet((8, 8, 1), width=4, dim=4, blocks=blocks, rngs=nnx.Rngs(0))


def names(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(tree)
    }


def create(model, **options):
    return state.create(model, optax.adam(1e-3), jax.random.key(0), **options)


@pytest.mark.parametrize("frozen", [(), ("head", "blocks.0.conv")])
@pytest.mark.parametrize("averages", [False, True])
def test_a_model_is_parted_and_put_together_again(frozen, averages):
    model = network()
    graphdef, created = create(model, frozen=frozen, averages=averages)
    again = state.assemble(graphdef, *created.evaluated)
    np.testing.assert_array_equal(again(IMAGES), model(IMAGES))
    assert created.step == 0
    assert created.memory is None
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(created))


def test_what_a_model_changes_itself_is_no_parameter():
    _, created = create(network(1))
    assert names(created.params) == {
        *("model.blocks.0.conv.kernel", "model.blocks.0.norm.bias", "model.blocks.0.norm.scale"),
        *("model.head.bias", "model.head.kernel"),
    }
    assert names(created.rest) == {
        *("blocks.0.norm.mean", "blocks.0.norm.var", "neck.mean", "neck.var"),
    }


def test_what_is_frozen_is_among_the_rest_and_the_optimizer_knows_nothing_of_it():
    _, created = create(network(11), frozen=("blocks.1", "head.bias"))
    trained = names(created.params["model"])
    assert "blocks.10.conv.kernel" in trained  # which only begins alike
    assert {name for name in names(created.rest) if not name.endswith(("mean", "var"))} == {
        *("blocks.1.conv.kernel", "blocks.1.norm.bias", "blocks.1.norm.scale", "head.bias"),
    }
    moments = {name.split(".", 3)[-1] for name in names(created.opt_state) if ".mu." in name}
    assert moments == trained


def test_the_rest_of_a_model_that_ran_has_the_places_of_that_before():
    graphdef, created = create(network(), frozen=("head",))
    model = state.assemble(graphdef, *created.evaluated)
    model(IMAGES, train=True)
    rest = state.rest_of(model, created.params["model"])
    assert jax.tree.structure(rest) == jax.tree.structure(created.rest)
    np.testing.assert_array_equal(rest["head"]["kernel"], created.rest["head"]["kernel"])
    assert np.any(rest["blocks"][0]["norm"]["mean"] != created.rest["blocks"][0]["norm"]["mean"])


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (
            ("block.0",),
            r"unknown optimizer.freeze 'block.0', did you mean 'blocks.0'\? There is: blocks, .*, head",
        ),
        (("blocks.2",), "unknown optimizer.freeze 'blocks.2'"),
        ((2,), "unknown optimizer.freeze '2'. There is: blocks, "),
        (("head.kernels",), "unknown optimizer.freeze 'head.kernels', did you mean 'head.kernel'"),
        (("blocks", "head"), "leaves nothing of the model to train"),
    ],
)
def test_a_part_that_there_is_not_is_named_and_so_are_those_that_there_are(frozen, message):
    with pytest.raises(RunError, match=message) as error:
        create(network(), frozen=frozen)
    assert "\n" not in str(error.value)


def test_averages_are_what_is_evaluated_and_arrays_of_their_own():
    _, created = create(network(), averages=True)
    params, rest = created.evaluated
    assert params is created.average["params"]
    assert rest is created.average["rest"]
    jax.tree.map(np.testing.assert_array_equal, params, created.params["model"])
    places = [
        leaf.unsafe_buffer_pointer()
        for leaf in jax.tree.leaves((created.params, created.rest, created.average))
    ]
    assert len(set(places)) == len(places)


def test_a_moving_average_moves_what_is_real_and_takes_over_the_rest():
    before = {"real": jnp.array([1.0, 4.0]), "count": jnp.array(3), "key": jax.random.key(0)}
    now = {"real": jnp.array([2.0, 4.0]), "count": jnp.array(5), "key": jax.random.key(1)}
    found = state.moved(before, now, share=jnp.float32(0.25))
    np.testing.assert_array_equal(found["real"], [1.25, 4.0])
    assert found["count"] == 5
    assert found["key"] == jax.random.key(1)
