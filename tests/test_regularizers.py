"""Regularizers, beside what the suite holds them to: their memory, duplicates, and bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references_self_supervised as formulas

import metric_jax as mj

REGULARIZERS = {
    "koleo": (mj.koleo_loss, formulas.koleo, {}),
    "koleo_smooth": (mj.koleo_loss, formulas.koleo, {"epsilon": 0.25}),
    "uniformity": (mj.uniformity_loss, formulas.uniformity, {}),
    "uniformity_sharp": (mj.uniformity_loss, formulas.uniformity, {"t": 8.0}),
    "embedding_norm": (mj.embedding_norm_loss, formulas.embedding_norm, {}),
    "ring": (mj.embedding_norm_loss, formulas.embedding_norm, {"radius": 1.5}),
    "zero_mean": (mj.zero_mean_loss, formulas.zero_mean, {}),
}
TILED = {
    name: loss for name, (loss, *_) in REGULARIZERS.items() if loss in (mj.koleo_loss, mj.uniformity_loss)
}
every_one = pytest.mark.parametrize("name", REGULARIZERS)

ROWS = np.round(np.random.default_rng(1).normal(size=(8, 3)) * 1024) / 1024
WHERE = np.array([True, True, False, True, True, True, False, True])


def ours(name):
    loss, _, own = REGULARIZERS[name]
    return functools.partial(loss, **own)


@functools.cache
def value_and_gradient(name, **options):
    return jax.jit(jax.value_and_grad(functools.partial(ours(name), **options)))


@pytest.mark.parametrize("name", TILED)
def test_memory_is_linear_in_the_batch(name):
    """The matrix of all distances alone would take 4 GiB."""
    rows = jax.ShapeDtypeStruct((32768, 16), jnp.float32)
    used = value_and_gradient(name).lower(rows).compile().memory_analysis()
    assert used.temp_size_in_bytes < 100 * 2**20


@every_one
def test_nothing_counts(name):
    value, gradient = value_and_gradient(name)(ROWS, where=np.zeros(len(ROWS), bool))
    assert value == 0
    assert not gradient.any()


def test_nothing_repels_a_duplicate():
    """At distance 0 there is no direction to flee in; the third row still flees from the first it meets."""
    value, gradient = jax.value_and_grad(mj.koleo_loss)(jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_allclose(value, -2 * np.log(1e-8) / 3, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-1 / 3, 0], [0, 0], [1 / 3, 0]], atol=1e-6)


def test_near_duplicates_keep_their_distance():
    """The expansion of |x - y|² would see no distance here."""
    rows = np.array([[100.0, 0.0], [100.0 + 2.0**-10, 0.0], [-100.0, 0.0]], np.float32)
    np.testing.assert_allclose(mj.koleo_loss(rows), (20 * np.log(2) - np.log(200)) / 3, rtol=1e-4)


def test_uniformity_of_distant_rows_does_not_underflow():
    rows = np.array([[0.0], [100.0], [300.0]], np.float32)
    np.testing.assert_allclose(mj.uniformity_loss(rows), -2 * 100.0**2 + np.log(1 / 3), rtol=1e-6)


def test_uniformity_is_lowest_where_rows_are_spread_out():
    def on_circle(angles):
        return mj.uniformity_loss(jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1))

    around, crowded = np.arange(8) * np.pi / 4, np.arange(8) * np.pi / 16
    assert on_circle(around) < on_circle(crowded) < 0
    np.testing.assert_allclose(jax.grad(on_circle)(around), 0, atol=1e-6)
    assert jax.grad(on_circle)(crowded)[0] > 0 > jax.grad(on_circle)(crowded)[-1]  # the ends move outwards


def test_a_radius_can_be_learned():
    slope = jax.grad(lambda radius: mj.embedding_norm_loss(jnp.array([[3.0, 4.0]]), radius=radius))(1.0)
    assert slope == -8.0


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"embeddings": ROWS[0]}, ValueError, "embeddings must be"),
        ({"embeddings": ROWS.astype(int)}, TypeError, "embeddings must be floating"),
        ({"where": WHERE.astype(int)}, TypeError, "where must be boolean"),
        ({"labels": None}, TypeError, "takes embeddings"),
    ],
)
@every_one
def test_wrong_input_is_named(name, wrong, error, message):
    with pytest.raises(error, match=message):
        ours(name)(**{"embeddings": ROWS, **wrong})


@pytest.mark.parametrize(
    ("loss", "own"),
    [
        (mj.koleo_loss, {"epsilon": 0.0}),
        (mj.uniformity_loss, {"t": -2.0}),
        (mj.embedding_norm_loss, {"radius": -1.0}),
    ],
)
def test_hyperparameter_out_of_range(loss, own):
    with pytest.raises(ValueError, match=next(iter(own))):
        loss(ROWS, **own)
