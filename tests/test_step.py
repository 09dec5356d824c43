"""One training step and its state, against the same arithmetic written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import metric_jax as mj
from metric_jax.models import ConvNet
from metric_jax.training import devices, state, step

IMAGES = np.random.default_rng(0).integers(0, 256, size=(8, 8, 8, 1), dtype=np.uint8)
LABELS = np.repeat(np.arange(4), 2).astype(np.int32)
LEARNING_RATE = 0.1


def loss(embeddings, labels):
    return mj.batch_all_triplet_loss(embeddings, labels, margin=0.5)


@pytest.fixture
def new():
    """``(graphdef, state)`` of a small network, always the same; the state is donated to the step that takes it."""

    def create():
        model = ConvNet((8, 8, 1), width=4, dim=4, blocks=1, rngs=nnx.Rngs(0))
        graphdef, created = state.create(model, optax.sgd(LEARNING_RATE), jax.random.key(7))
        return graphdef, jax.device_put(created, devices.replicated(devices.mesh(8)))

    return create


def make(graphdef, augment=None):
    mesh = devices.mesh(8)
    return step.make_train_step(graphdef, optax.sgd(LEARNING_RATE), loss, augment=augment, mesh=mesh)


def host(tree):
    return jax.tree.map(np.asarray, tree)


def test_a_model_is_parted_and_put_together_again():
    model = ConvNet((8, 8, 1), width=4, dim=4, blocks=1, rngs=nnx.Rngs(0))
    graphdef, created = state.create(model, optax.adam(1e-3), jax.random.key(0))
    again = state.assemble(graphdef, created.params, created.rest)
    images = IMAGES / np.float32(255)
    np.testing.assert_array_equal(again(images), model(images))
    assert created.step == 0
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(created))
    assert set(created.rest["blocks"][0]["norm"]) == {"mean", "var"}


def test_a_step_is_a_gradient_step(new):
    graphdef, start = new()
    images = jnp.asarray(IMAGES, jnp.float32) / 255

    def objective(params):
        return loss(state.assemble(graphdef, params, start.rest)(images, train=True), LABELS)

    value, gradient = jax.value_and_grad(objective)(start.params)
    expected = host(jax.tree.map(lambda p, g: p - LEARNING_RATE * g, start.params, gradient))
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(host(gradient))))
    after, output = make(graphdef)(start, IMAGES, LABELS)
    assert after.step == 1
    np.testing.assert_allclose(output.loss, value, rtol=1e-5)
    np.testing.assert_allclose(output.gradient_norm, norm, rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), host(after.params), expected
    )
    assert output.embeddings.shape == (8, 4)


def test_a_step_updates_what_the_model_keeps_of_itself(new):
    graphdef, start = new()
    before = host(start.rest)
    after, _ = make(graphdef)(start, IMAGES, LABELS)
    kept = after.rest["blocks"][0]["norm"]
    assert np.any(np.asarray(kept["mean"]) != before["blocks"][0]["norm"]["mean"])


def test_a_step_updates_its_state_in_place(new):
    graphdef, start = new()
    make(graphdef)(start, IMAGES, LABELS)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(start.params))


def test_many_steps_are_one_compilation_and_lower_the_loss(new, compilations):
    graphdef, now = new()
    take = make(graphdef)
    now, first = take(now, IMAGES, LABELS)
    before = compilations()
    for _ in range(20):
        now, output = take(now, IMAGES, LABELS)
    assert compilations() == before
    assert output.loss < first.loss
    assert now.step == 21


def test_every_step_augments_with_a_key_of_its_own(new):
    graphdef, now = new()
    seen = []

    def augment(images, key):
        jax.debug.callback(lambda data: seen.append(tuple(data.tolist())), jax.random.key_data(key))
        return images

    take = make(graphdef, augment)
    for _ in range(3):
        now, _ = take(now, IMAGES, LABELS)
    jax.effects_barrier()
    expected = [jax.random.key_data(jax.random.fold_in(jax.random.key(7), i)) for i in range(3)]
    assert set(seen) == {tuple(key.tolist()) for key in expected}


def test_bytes_become_fractions():
    found = step.to_unit(jnp.array([0, 51, 255], jnp.uint8))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, [0, 0.2, 1], rtol=1e-6)


@pytest.mark.parametrize(("batch", "devices_used"), [(16, 8), (12, 6), (7, 7), (1, 1), (11, 1), (80, 8)])
def test_a_mesh_has_as_many_devices_as_can_share_the_batch(batch, devices_used):
    assert devices.mesh(batch).size == devices_used


def test_a_batch_lies_spread_and_a_state_on_every_device(new):
    mesh = devices.mesh(8)
    images, labels = devices.place((IMAGES, LABELS), mesh)
    assert [shard.data.shape for shard in images.addressable_shards] == [(1, 8, 8, 1)] * 8
    np.testing.assert_array_equal(labels, LABELS)
    graphdef, start = new()
    after, _ = make(graphdef)(start, images, labels)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(after))
