"""Chunks of a batch: value and gradient of the whole, and the memory of a part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from suite import assert_close

import metric_jax as mj

BATCH = 12
LABELS = np.arange(BATCH) % 4


def parameters(dtype=np.float32):
    generator = np.random.default_rng(0)
    return {
        "first": generator.normal(size=(5, 7)).astype(dtype),
        "second": generator.normal(size=(7, 3)).astype(dtype),
    }


def encode(params, inputs):
    return jnp.tanh(inputs @ params["first"]) @ params["second"]


def images(dtype=np.float32, batch=BATCH):
    return np.random.default_rng(1).normal(size=(batch, 5)).astype(dtype)


def step_of(encode, axis_name=None):
    def value(params, inputs, labels):
        return mj.batch_all_triplet_loss(encode(params, inputs), labels, axis_name=axis_name)

    return jax.value_and_grad(value, argnums=(0, 1))


def assert_same(found, expected, tolerance):
    jax.tree.map(lambda x, y: assert_close(x, y, tolerance), found, expected)


@pytest.mark.parametrize("wrap", [jax.jit, lambda step: step], ids=["jit", "eager"])
@pytest.mark.parametrize("chunk", [1, 3, 5, 11, BATCH, BATCH + 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_value_and_gradient_are_those_of_the_whole_batch(chunk, dtype, tolerance, wrap):
    with jax.enable_x64(dtype is np.float64):
        arguments = parameters(dtype), images(dtype), LABELS
        found = wrap(step_of(mj.grad_cache.chunked(encode, chunk)))(*arguments)
        assert_same(found, step_of(encode)(*arguments), tolerance)


def test_inputs_and_embeddings_are_pytrees():
    def encode_both(params, inputs):
        return {side: encode(params, x) for side, x in inputs.items()}

    def value(encode, params):
        rows = encode(params, {"left": images(), "right": images()[::-1]})
        return mj.infonce_loss(rows["left"], rows["right"])

    found, expected = (
        jax.value_and_grad(lambda params, f=f: value(f, params))(parameters())
        for f in (mj.grad_cache.chunked(encode_both, 5), encode_both)
    )
    assert_same(found, expected, 1e-6)


def test_a_random_key_for_each_row():
    """Dropout is drawn again in the backward pass, and must be the same draw."""

    def with_dropout(params, inputs):
        def one(row, key):
            kept = jax.random.bernoulli(key, 0.5, (7,))
            return jnp.where(kept, jnp.tanh(row @ params["first"]), 0.0) @ params["second"]

        return jax.vmap(one)(*inputs)

    inputs = images(), jax.random.split(jax.random.key(0), BATCH)

    def step(encode):
        return jax.value_and_grad(lambda p: mj.batch_all_triplet_loss(encode(p, inputs), LABELS))

    found = jax.jit(step(mj.grad_cache.chunked(with_dropout, 5)))(parameters())
    assert_same(found, step(with_dropout)(parameters()), 1e-6)


def test_on_four_devices():
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4], axis_types=(AxisType.Auto,))
    step = step_of(mj.grad_cache.chunked(encode, 2), axis_name="data")
    on_four = jax.shard_map(
        step, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=(P(), (P(), P("data")))
    )
    arguments = parameters(), images(), jnp.asarray(LABELS)
    assert_same(jax.jit(on_four)(*arguments), step_of(encode)(*arguments), 1e-5)


def convolutional(params, inputs):
    """Of the usual proportions: the activations of an image outweigh its embedding a thousand times."""
    x = inputs
    for kernel in params:
        x = jax.nn.relu(
            lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )
    return x.mean(axis=(1, 2))


def temporary_bytes(encode, batch):
    generator = np.random.default_rng(0)
    params = [generator.normal(size=(3, 3, n, 16)).astype(np.float32) / 12 for n in (3, 16, 16)]
    labels = np.arange(batch) % 8

    def value(params, inputs):
        return mj.batch_hard_triplet_loss(encode(params, inputs), labels)

    inputs = jax.ShapeDtypeStruct((batch, 16, 16, 3), np.float32)
    compiled = jax.jit(jax.value_and_grad(value)).lower(params, inputs).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_is_that_of_a_chunk():
    plain, chunked = (
        [temporary_bytes(f, batch) for batch in (64, 256)]
        for f in (convolutional, mj.grad_cache.chunked(convolutional, 16))
    )
    assert plain[1] > 3 * plain[0]
    assert chunked[1] < plain[1] / 6
    activations_of_one_image = 3 * 16 * 16 * 16 * 4
    assert (
        chunked[1] - chunked[0] < 192 * activations_of_one_image / 6
    )  # four times the batch adds inputs alone


def test_no_activations_are_kept_between_the_passes():
    def kept(encode):
        _, pullback = jax.vjp(lambda params: encode(params, images()), parameters())
        return sum(leaf.size for leaf in jax.tree.leaves(pullback) if leaf.size % (BATCH * 7) == 0)

    assert kept(encode) > 0  # tanh keeps its values
    assert kept(mj.grad_cache.chunked(encode, 3)) == 0


@pytest.mark.parametrize("chunk", [0, -1, 2.5, True, None])
def test_bad_chunks(chunk):
    with pytest.raises(ValueError, match="chunk must be a positive integer"):
        mj.grad_cache.chunked(encode, chunk)


def test_bad_inputs():
    chunked = mj.grad_cache.chunked(lambda params, inputs: inputs["x"], 2)
    with pytest.raises(ValueError, match=r"inputs need a leading axis.*\(4, 3\), \(5, 3\)"):
        chunked({}, {"x": np.zeros((4, 3)), "y": np.zeros((5, 3))})
    with pytest.raises(ValueError, match="inputs need a leading axis"):
        chunked({}, {"x": np.zeros((4, 3)), "y": 1.0})
    with pytest.raises(ValueError, match="one row of embeddings for each row of inputs"):
        mj.grad_cache.chunked(lambda params, x: x.mean(axis=0, keepdims=True), 2)({}, np.zeros((4, 3)))
