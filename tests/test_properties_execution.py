"""However it is run, a loss is the same: P2 jit, vmap, second calls; P5 four devices; P8 other hardware.

In float64, to 1e-10, which shows a wrong formula, and in float32, to 1e-5, which shows a wrong implementation.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from catalogue import LOSSES
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from subjects import DIM, EVERYTHING, LABELS, N
from suite import (
    CORE_LOSSES,
    OWN_ENGINES,
    assert_close,
    assert_same_triplets,
    compiled,
    every,
    every_core_loss,
    every_core_miner,
    every_loss,
    every_loss_in,
    every_loss_with,
    every_miner,
    every_miner_in_its_precisions,
    mine,
    of_references,
    random_rows,
    value_and_gradient,
    with_references,
)

# P2: jit, vmap, compilations.


@every_core_loss
def test_P2_jit_equals_op_by_op(loss):
    rows = loss.batch().astype(np.float32)
    with jax.disable_jit():
        eager_value, eager_gradient = jax.value_and_grad(loss)(jnp.asarray(rows), jnp.asarray(LABELS))
    value, gradient = value_and_gradient(loss)(rows, LABELS)
    assert_close(value, eager_value, 1e-5)
    assert_close(gradient, eager_gradient, 1e-5)


@every_loss
def test_P2_jit_equals_eager_and_a_second_call_compiles_nothing(loss, compilations):
    def step(rows):
        rows, labels = jnp.asarray(rows, jnp.float32), jnp.asarray(LABELS)
        found = [loss(rows, labels), *([jax.grad(loss)(rows, labels)] if loss.is_core else [])]
        return jax.block_until_ready(found)

    eager = step(loss.batch())
    before = compilations()
    step(random_rows(1))
    assert compilations() == before
    jitted = value_and_gradient(loss)(loss.batch().astype(np.float32), LABELS)
    for found, expected in zip(jitted, eager, strict=False):
        assert_close(found, expected, 1e-5)


@every_loss_in("float32", losses=OWN_ENGINES)
def test_P2_vmap_equals_loop(loss, precision):
    batches = np.stack([loss.batch(), random_rows()]).astype(precision.dtype)
    labels = np.stack([LABELS, np.roll(LABELS, 1)])
    step = compiled(loss)
    values, gradients = jax.jit(jax.vmap(lambda e, y: step(e, y, EVERYTHING)))(batches, labels)
    for i in range(2):
        value, gradient = value_and_gradient(loss)(batches[i], labels[i])
        assert_close(values[i], value, precision.tolerance)
        assert_close(gradients[i], gradient, precision.tolerance)


@every("loss", [loss for loss in CORE_LOSSES if loss.numbers])
def test_P2_another_margin_or_temperature_compiles_nothing(loss, compilations):
    rows = loss.batch().astype(np.float32)

    def step(factor):
        own = {name: jnp.float32(factor * number) for name, number in loss.numbers.items()}
        return dataclasses.replace(loss, own={**loss.own, **own})(rows, LABELS)

    first = step(1.0)
    before = compilations()
    second = step(0.99)
    assert compilations() == before
    assert first != second or set(loss.numbers) <= {"margin"}


@every_core_miner
def test_P2_mining_jit_equals_op_by_op(miner, precision):
    rows = random_rows(1).astype(precision.dtype)
    with jax.disable_jit():
        eager = miner(jnp.asarray(rows), jnp.asarray(LABELS))
    assert_same_triplets(mine(miner)(rows, LABELS, None), eager)


@every_miner_in_its_precisions
def test_P2_mining_vmap_equals_loop(miner, precision):
    batches = np.stack([random_rows(1), random_rows(2)]).astype(precision.dtype)
    stacked = jax.jit(jax.vmap(lambda e: miner(e, LABELS)))(batches)
    for i in range(2):
        assert_same_triplets([column[i] for column in stacked], mine(miner)(batches[i], LABELS, None))


@every_miner
def test_P2_a_second_mining_compiles_nothing(miner, compilations):
    miner(random_rows(), LABELS)
    before = compilations()
    miner(random_rows(1), LABELS)
    assert compilations() == before


# P5: four devices are one.

WHERE = np.arange(N) != 4  # one device has a row less than the others
SHARDED = [loss for loss in LOSSES if loss.takes("axis_name")]
REDUCED = [loss for loss in SHARDED if loss.takes("reduction") and (loss in OWN_ENGINES or loss.is_per_proxy)]


@functools.cache
def mesh():
    return jax.make_mesh((4,), ("data",), devices=jax.devices()[:4], axis_types=(AxisType.Auto,))


def on_devices(fn, in_specs, out_specs):
    on_four = jax.shard_map(fn, mesh=mesh(), in_specs=in_specs, out_specs=out_specs)
    return jax.jit(on_four)


def sharded(*arrays):
    return [jax.device_put(array, NamedSharding(mesh(), P("data"))) for array in arrays]


@every_loss_in("float64", losses=SHARDED)
def test_P5_shard_map_differentiated_outside(loss, precision):
    rows = loss.batch().astype(precision.dtype)
    options = {"tile": 1} if loss.takes("tile") else {}

    def local(embeddings, labels, where):
        return loss(embeddings, labels, where=where, axis_name="data", **options)

    on_four = on_devices(local, P("data"), P())
    step = jax.jit(jax.value_and_grad(on_four))
    value, gradient = step(rows, LABELS, WHERE)
    expected_value, expected_gradient = value_and_gradient(loss)(rows, LABELS, WHERE)
    assert_close(value, expected_value, precision.tolerance)
    assert_close(gradient, expected_gradient, precision.tolerance)


@every_loss_in("float32", losses=[loss for loss in SHARDED if loss in OWN_ENGINES])
def test_P5_shard_map_differentiated_inside(loss, precision):
    rows = loss.batch().astype(precision.dtype)
    weights = np.random.default_rng(0).normal(size=(DIM, DIM)).astype(precision.dtype)

    def value(weights, inputs, labels):
        return loss(inputs @ weights, labels, axis_name="data")

    specs = (P(), P("data"), P("data")), (P(), P())
    on_four = on_devices(jax.value_and_grad(value), *specs)
    value, gradient = on_four(weights, rows, LABELS)
    expected_value, to_embeddings = value_and_gradient(loss)(rows @ weights, LABELS)
    assert_close(value, expected_value, precision.tolerance)
    assert_close(gradient, rows.T @ to_embeddings, precision.tolerance)


@every_loss_with("reduction", ["mean_active", "sum", "none"], ["none"], losses=REDUCED)
def test_P5_shard_map_reductions(loss, reduction):
    def local(embeddings, labels):
        return loss(embeddings, labels, reduction=reduction, axis_name="data")

    of_rows = reduction == "none" and not loss.is_per_proxy
    on_four = on_devices(local, P("data"), P("data") if of_rows else P())
    value = on_four(loss.batch().astype(np.float32), LABELS)
    assert_close(value, loss.expected(loss.batch(), LABELS, reduction=reduction), 1e-5)


@every_loss_in("float32", losses=[loss for loss in CORE_LOSSES if loss.takes("references")])
def test_P5_shard_map_with_references(loss, precision):
    rows, memory = loss.batch().astype(precision.dtype), random_rows(7).astype(precision.dtype)
    arguments = (rows, LABELS, memory, np.roll(LABELS, 3), np.arange(N) != 2)
    on_four = on_devices(of_references(loss, axis_name="data"), P("data"), P())
    found = jax.jit(jax.value_and_grad(on_four, argnums=(0, 2)))(*arguments)
    expected = with_references(loss)(*arguments)
    jax.tree.map(functools.partial(assert_close, tolerance=precision.tolerance), found, expected)


@every_loss_in("float32", losses=OWN_ENGINES)
def test_P5_sharded_inputs_under_plain_jit(loss, precision):
    rows = loss.batch().astype(precision.dtype)
    value, gradient = value_and_gradient(loss)(*sharded(rows, LABELS, WHERE))
    expected_value, expected_gradient = value_and_gradient(loss)(rows, LABELS, WHERE)
    assert_close(value, expected_value, precision.tolerance)
    assert_close(gradient, expected_gradient, precision.tolerance)


@every_miner_in_its_precisions
def test_P5_mining_on_four_devices(miner, precision):
    rows = random_rows(6).astype(precision.dtype)

    def local(embeddings, labels, where):
        mined = miner(embeddings, labels, where=where, axis_name="data")
        return tuple(mined)[1:]  # the anchor is an index into the device's own rows

    expected = mine(miner)(rows, LABELS, WHERE)
    assert_same_triplets(on_devices(local, P("data"), P("data"))(rows, LABELS, WHERE), tuple(expected)[1:])
    assert_same_triplets(mine(miner)(*sharded(rows, LABELS, WHERE)), expected)


# P8: other platforms.

PLATFORMS = ("cpu", "cuda", "tpu")
SHAPES = (
    jax.ShapeDtypeStruct((N, DIM), np.float32),
    jax.ShapeDtypeStruct((N,), np.int32),
    jax.ShapeDtypeStruct((N,), bool),
)


@every_loss_with("tile", ["auto", 3], [3])
def test_P8_value_and_gradient_lower_for_every_platform(loss, tile):
    exported = jax.export.export(compiled(loss, tile=tile), platforms=PLATFORMS)(*SHAPES)
    assert exported.platforms == PLATFORMS


@every_miner
def test_P8_miners_lower_for_every_platform(miner):
    def as_tuple(embeddings, labels, where):
        return tuple(miner(embeddings, labels, where=where))

    assert jax.export.export(jax.jit(as_tuple), platforms=PLATFORMS)(*SHAPES).platforms == PLATFORMS
