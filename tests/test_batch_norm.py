"""BatchNorm with sums of its own, against Flax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from metric_jax.models import batch_norm
from metric_jax.models.batch_norm import BatchNorm
from metric_jax.training import devices

SHAPE = (8, 5, 3, 4)


def made(kind, dtype=None):
    """One whose scale, bias, and running mean and variance are no longer what they begin with."""
    norm = kind(SHAPE[-1], momentum=0.9, dtype=dtype, rngs=nnx.Rngs(0))
    for number, variable in enumerate((norm.scale, norm.bias, norm.mean, norm.var)):
        variable[...] = jnp.asarray(np.random.default_rng(number).uniform(0.5, 1.5, SHAPE[-1]), jnp.float32)
    return norm


def drawn(seed, dtype=jnp.float32):
    return jnp.asarray(0.5 + np.random.default_rng(seed).normal(size=SHAPE), dtype)


def outcome(norm, x, **train):
    """What it returns, its running mean and variance then, and the gradients by x, scale and bias."""
    graphdef, *state = nnx.split(norm, nnx.Param, ...)
    params, rest = jax.tree.map(lambda v: v.astype(jnp.promote_types(x.dtype, jnp.float32)), state)

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
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-5), (jnp.bfloat16, 1e-2)])
def test_flax_says_the_same_in_float64(dtype, tolerance):
    x = drawn(1, dtype)
    found = outcome(made(BatchNorm, dtype), x, train=True)
    with jax.enable_x64(True):
        expected = outcome(made(nnx.BatchNorm), jnp.asarray(x, jnp.float64), use_running_average=False)
    assert found["y"].dtype == found["of x"].dtype == dtype
    for name, value in expected.items():
        difference = np.abs(np.asarray(found[name], np.float64) - np.asarray(value))
        assert difference.max() <= tolerance * np.abs(value).max(), name


def test_the_running_ones_are_used_and_left_after_training():
    found, expected = (
        outcome(made(BatchNorm), drawn(1), train=False),
        outcome(made(nnx.BatchNorm), drawn(1), use_running_average=True),
    )
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert np.array_equal(found["var"], made(BatchNorm).var[...])


def test_finite_differences_agree_with_the_gradient():
    with jax.enable_x64(True):
        x, towards = drawn(1, jnp.float64), drawn(2, jnp.float64)
        scale, bias = jnp.arange(1.0, 5.0), jnp.ones(4)

        def value(x, scale, bias):
            return jnp.sum(batch_norm.normalised(x, scale, bias, 1e-5)[0] * towards)

        jax.test_util.check_grads(value, (x, scale, bias), order=1, modes=["rev"], rtol=1e-6)


def test_a_batch_on_many_devices_is_one_batch():
    mesh = devices.mesh(SHAPE[0])
    assert mesh.size == 8
    x = jax.device_put(drawn(1), devices.spread(mesh))
    expected = outcome(made(BatchNorm), drawn(1), train=True)
    found = outcome(made(BatchNorm), x, train=True)
    assert found["y"].sharding.is_equivalent_to(jax.NamedSharding(mesh, PartitionSpec("data")), x.ndim)
    for name, value in expected.items():
        assert jnp.allclose(found[name], value, rtol=1e-5, atol=1e-5), name


def test_N4_a_channel_without_variance_has_finite_gradients():
    found = outcome(made(BatchNorm), jnp.ones(SHAPE), train=True)
    assert all(np.isfinite(value).all() for value in found.values())
    assert jnp.allclose(found["y"], made(BatchNorm).bias[...][None, None, None], atol=1e-2)
