"""BatchNorm with sums of its own, against Flax's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec
from jax.test_util import check_grads
from test_convnet import shaken

from metric_jax.models import batch_norm
from metric_jax.models.batch_norm import BatchNorm
from metric_jax.training import devices

SHAPE = (8, 5, 3, 4)


def ours(dtype="float32"):
    return shaken(BatchNorm(SHAPE[-1], dtype=dtype, rngs=nnx.Rngs(0)))


def flax():
    return shaken(nnx.BatchNorm(SHAPE[-1], momentum=0.9, rngs=nnx.Rngs(0)))


def drawn(seed, dtype=jnp.float32):
    return jnp.asarray(0.5 + np.random.default_rng(seed).normal(size=SHAPE), dtype)


def outcome(norm, x, **train):
    """What it returns, its running mean and variance then, and the gradients by x, scale and bias."""
    graphdef, params, rest = nnx.split(norm, nnx.Param, ...)

    def value(x, params):
        whole = nnx.merge(graphdef, params, rest, copy=True)
        y = whole(x, **train)
        return jnp.sum(y * drawn(9)), (y, whole.mean[...], whole.var[...])

    gradients, found = jax.jit(jax.grad(value, argnums=(0, 1), has_aux=True))(x, params)
    return {
        **dict(zip(("y", "mean", "var"), found, strict=True)),
        "of x": gradients[0],
        "of scale": gradients[1]["scale"][...],
        "of bias": gradients[1]["bias"][...],
    }


@pytest.fixture(params=["cpu", "default"])
def platform(request, monkeypatch):
    """Both ways to sum, on whatever this machine has."""
    monkeypatch.setattr(
        batch_norm.lax, "platform_dependent", lambda *args, **ways: ways[request.param](*args)
    )


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 1e-2)])
def test_P1_flax_says_the_same_in_float64(dtype, tolerance):
    x = drawn(1, dtype)
    found = outcome(ours(dtype), x, train=True)
    with jax.enable_x64(True):
        graphdef, state = nnx.split(flax())
        wide = nnx.merge(graphdef, jax.tree.map(lambda v: v.astype(jnp.float64), state))
        expected = outcome(wide, jnp.asarray(x, jnp.float64), use_running_average=False)
    assert found["y"].dtype == found["of x"].dtype == dtype
    for name, value in expected.items():
        difference = np.abs(np.asarray(found[name], np.float64) - np.asarray(value))
        assert difference.max() <= tolerance * np.abs(value).max(), name


def test_the_running_ones_are_used_and_left_after_training():
    found, expected = (
        outcome(ours(), drawn(1), train=False),
        outcome(flax(), drawn(1), use_running_average=True),
    )
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert np.array_equal(found["var"], ours().var[...])


def test_P1_finite_differences_agree_with_the_gradient():
    with jax.enable_x64(True):
        x, towards = drawn(1, jnp.float64), drawn(2, jnp.float64)
        scale, bias = jnp.arange(1.0, 5.0), jnp.ones(4)

        def value(x, scale, bias):
            return jnp.sum(batch_norm._normalised(x, scale, bias, 1e-5)[0] * towards)

        check_grads(value, (x, scale, bias), order=1, modes=["rev"], rtol=1e-6)


def test_a_batch_on_many_devices_is_one_batch():
    mesh = devices.mesh(SHAPE[0])
    assert mesh.size == 8
    x = jax.device_put(drawn(1), devices.spread(mesh))
    expected = outcome(ours(), drawn(1), train=True)
    found = outcome(ours(), x, train=True)
    assert found["y"].sharding.is_equivalent_to(jax.NamedSharding(mesh, PartitionSpec("data")), x.ndim)
    for name, value in expected.items():
        assert jnp.allclose(found[name], value, rtol=1e-5, atol=1e-5), name


def test_each_device_may_have_a_batch_of_its_own():
    mesh = devices.mesh(SHAPE[0])
    graphdef, params, rest = nnx.split(ours(), nnx.Param, ...)

    def value(params, x, towards):
        y = nnx.merge(graphdef, params, rest, copy=True)(x, train=True)
        return jnp.sum(y * towards)

    rows, whole = PartitionSpec("data"), PartitionSpec()

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(whole, rows, rows), out_specs=(whole, rows))
    def on_each(params, x, towards):
        return jax.grad(value, argnums=(0, 1))(params, x, towards)

    found = on_each(params, drawn(1), drawn(2))
    each = [
        jax.grad(value, argnums=(0, 1))(params, drawn(1)[i:][:1], drawn(2)[i:][:1])
        for i in range(len(drawn(1)))
    ]
    expected = jax.tree.map(lambda *parts: sum(parts), *[of_params for of_params, _ in each])
    for one, other in zip(jax.tree.leaves(found[0]), jax.tree.leaves(expected), strict=True):
        assert jnp.allclose(one, other, rtol=1e-4, atol=1e-4)
    assert jnp.allclose(found[1], jnp.concatenate([of_x for _, of_x in each]), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("platform")
def test_N10_a_variance_that_rounds_below_zero_is_zero_and_has_no_gradient():
    far = np.array([1000.1, 1000.4, 1000.7, 0.0])
    x, towards = jnp.asarray(far + 0.01 * np.asarray(drawn(1)), jnp.float32), drawn(2)
    scale, bias = jnp.arange(1.0, 5.0), jnp.ones(4)
    (y, mean, var), back = jax.vjp(lambda x: batch_norm._normalised(x, scale, bias, 1e-5), x)
    is_cut = np.asarray(var == 0)
    assert is_cut.any()
    assert not is_cut[-1]
    assert jnp.isfinite(y).all()
    (found,) = back((towards, mean, var))
    expected = (
        (towards - towards.mean(axis=(0, 1, 2))[None, None, None]) * scale[None, None, None] / np.sqrt(1e-5)
    )
    assert jnp.allclose(found[..., is_cut], expected[..., is_cut], rtol=1e-4)
