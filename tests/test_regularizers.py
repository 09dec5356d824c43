"""Regularizers: their formulas, what masks, tiles and devices must not change, and rows that have no neighbour."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import references_self_supervised as formulas
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from suite import assert_close

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


def expected(name, rows):
    _, reference, own = REGULARIZERS[name]
    return reference(rows, **own)


@functools.cache
def value_and_gradient(name, **options):
    return jax.jit(jax.value_and_grad(functools.partial(ours(name), **options)))


@every_one
def test_value_and_gradient(name, precision):
    value, gradient = value_and_gradient(name)(ROWS.astype(precision.dtype))
    assert value.dtype == gradient.dtype == precision.dtype
    assert_close(value, expected(name, ROWS), precision.tolerance)
    slopes = references.central_differences(functools.partial(expected, name), ROWS)
    assert_close(gradient, slopes, max(precision.tolerance, 1e-8))


@every_one
def test_masked_rows_change_nothing(name, precision):
    rows = np.where(WHERE[:, None], ROWS, np.nan).astype(precision.dtype)
    value, gradient = value_and_gradient(name)(rows, where=WHERE)
    wanted, slope = value_and_gradient(name)(ROWS[WHERE].astype(precision.dtype))
    assert_close(value, wanted, precision.tolerance)
    assert_close(gradient[WHERE], slope, precision.tolerance)
    assert not gradient[~WHERE].any()


@pytest.mark.parametrize("name", TILED)
@pytest.mark.parametrize("tile", [1, 3, 8])
def test_tiles(name, tile, precision):
    rows = ROWS.astype(precision.dtype)
    found, wanted = (value_and_gradient(name, tile=size)(rows, where=WHERE) for size in (tile, "auto"))
    jax.tree.map(functools.partial(assert_close, tolerance=precision.tolerance), found, wanted)


@pytest.mark.parametrize("name", TILED)
def test_memory_is_linear_in_the_batch(name):
    """The matrix of all distances alone would take 4 GiB."""
    rows = jax.ShapeDtypeStruct((32768, 16), jnp.float32)
    used = value_and_gradient(name).lower(rows).compile().memory_analysis()
    assert used.temp_size_in_bytes < 100 * 2**20


@pytest.mark.parametrize("place", ["inside", "outside"])
@every_one
def test_devices(name, place, precision):
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4], axis_types=(AxisType.Auto,))
    rows = ROWS.astype(precision.dtype)

    def local(rows, where):
        return ours(name)(rows, where=where, axis_name="data")

    specs = P("data")
    if place == "inside":
        step = jax.shard_map(jax.value_and_grad(local), mesh=mesh, in_specs=specs, out_specs=(P(), specs))
    else:
        step = jax.value_and_grad(jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P()))
    found = jax.jit(step)(rows, WHERE)
    wanted = value_and_gradient(name)(rows, where=WHERE)
    jax.tree.map(functools.partial(assert_close, tolerance=precision.tolerance), found, wanted)


@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16])
@every_one
def test_half_precision_is_computed_in_float32(name, half):
    rows = jnp.asarray(ROWS, half)
    value, gradient = value_and_gradient(name)(rows)
    wanted, slope = value_and_gradient(name)(rows.astype(jnp.float32))
    assert value.dtype == jnp.float32
    assert_close(value, wanted, 1e-6)
    np.testing.assert_array_equal(gradient, slope.astype(half))


@every_one
def test_nan_in_a_row_that_counts_is_seen(name):
    broken = ROWS.astype(np.float32)
    broken[3, 2] = np.nan
    assert np.isnan(ours(name)(broken))


POOR = {
    "duplicates": np.full((5, 3), 0.1),
    "zeros": np.zeros((5, 3)),
    "one row": np.array([[1.0, -1.0, 0.5]]),
}


@pytest.mark.parametrize("rows", POOR.values(), ids=POOR)
@every_one
def test_poor_batches_are_finite(name, rows, precision):
    value, gradient = value_and_gradient(name)(rows.astype(precision.dtype))
    np.testing.assert_allclose(value, expected(name, rows), atol=1e-6, rtol=1e-6)
    assert np.isfinite(gradient).all()


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


@every_one
def test_vmap(name):
    batches = np.stack([ROWS, 2 * ROWS[::-1]]).astype(np.float32)
    assert_close(jax.vmap(ours(name))(batches), [ours(name)(rows) for rows in batches], 1e-6)


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
