"""Properties P1 to P8: what every loss and every miner of the catalogue must do, in float64 and in float32.

float64 (to 1e-10) shows a wrong formula, float32 (to 1e-5) a wrong implementation.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import (
    DIM,
    DISTANCES,
    LABELS,
    assert_close,
    assert_same_triplets,
    every_distance,
    every_loss,
    every_miner,
    mine,
    value_and_gradient,
)
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import metric_jax as mj

N = len(LABELS)


def rows_of(batch, precision):
    return np.asarray(batch, precision.dtype)


def random_rows(seed=0, n=N):
    """Rows without a structure, exact in float32 and after a shift by an integer."""
    return np.round(np.random.default_rng(seed).normal(size=(n, DIM)) * 1024) / 1024


# P1: gradients.


@every_distance
@every_loss
def test_P1_gradient(loss, distance, precision):
    rows = rows_of(loss.batch(distance), precision)
    value, gradient = value_and_gradient(loss, distance)(rows, LABELS, None)
    assert value.dtype == gradient.dtype == precision.dtype
    assert_close(value, loss.expected(loss.batch(distance), LABELS, distance=distance), precision.tolerance)
    assert_close(gradient, loss.expected_gradient(distance), max(precision.tolerance, 1e-8))


@every_loss
def test_P1_the_batch_has_terms_on_both_sides_of_the_hinge(loss):
    if loss.own.get("penalty") is not jax.nn.softplus:
        for distance in DISTANCES:
            means = [
                loss.expected(loss.batch(distance), LABELS, distance=distance, reduction=r)
                for r in ("mean", "mean_active")
            ]
            assert 0 < means[0] < means[1]


# P2: jit, vmap, compilations.


@every_loss
def test_P2_jit_equals_eager(loss, precision):
    rows = rows_of(loss.batch(), precision)
    with jax.disable_jit():
        eager = jax.value_and_grad(loss)(jnp.asarray(rows), jnp.asarray(LABELS))
    value, gradient = value_and_gradient(loss)(rows, LABELS, None)
    assert_close(value, eager[0], precision.tolerance)
    assert_close(gradient, eager[1], precision.tolerance)


@every_loss
def test_P2_vmap_equals_loop(loss, precision):
    rows = np.stack([rows_of(loss.batch(), precision), rows_of(random_rows(), precision)])
    labels = np.stack([LABELS, np.roll(LABELS, 1)])
    step = value_and_gradient(loss)
    values, gradients = jax.jit(jax.vmap(lambda e, y: step(e, y, None)))(rows, labels)
    for i in range(2):
        value, gradient = step(rows[i], labels[i], None)
        assert_close(values[i], value, precision.tolerance)
        assert_close(gradients[i], gradient, precision.tolerance)


@every_loss
def test_P2_a_second_call_compiles_nothing(loss, compilations):
    def step(shift):
        value = loss(loss.batch().astype(np.float32) + np.float32(shift), LABELS)
        gradient = jax.grad(loss)(jnp.asarray(loss.batch() + shift, jnp.float32), jnp.asarray(LABELS))
        return jax.block_until_ready((value, gradient))

    step(0)
    before = compilations()
    step(1)
    assert compilations() == before


@every_loss
def test_P2_a_margin_is_traced_and_learnable(loss, compilations):
    def value(margin):
        return loss.function(loss.batch().astype(np.float32), LABELS, **{**loss.own, "margin": margin})

    slope = jax.grad(value)(jnp.float32(1.3))
    assert np.isfinite(slope)
    assert slope != 0
    value(1.4)
    before = compilations()
    value(1.5)
    assert compilations() == before


@every_miner
def test_P2_mining_jit_eager_and_vmap_agree(miner, precision):
    rows = np.stack([rows_of(random_rows(seed), precision) for seed in (1, 2)])
    with jax.disable_jit():
        eager = miner(jnp.asarray(rows[0]), jnp.asarray(LABELS))
    assert_same_triplets(mine(miner)(rows[0], LABELS, None), eager)
    stacked = jax.jit(jax.vmap(lambda e: miner(e, LABELS)))(rows)
    for i in range(2):
        assert_same_triplets([column[i] for column in stacked], mine(miner)(rows[i], LABELS, None))


@every_miner
def test_P2_a_second_mining_compiles_nothing(miner, compilations):
    miner(random_rows().astype(np.float32), LABELS)
    before = compilations()
    miner(random_rows(1).astype(np.float32), LABELS)
    assert compilations() == before


# P3: the order of the rows, and rows that are not there.


@every_loss
def test_P3_permuting_the_rows(loss, precision):
    rows = rows_of(loss.batch(), precision)
    order = np.random.default_rng(0).permutation(N)
    value, gradient = value_and_gradient(loss)(rows, LABELS, None)
    permuted_value, permuted_gradient = value_and_gradient(loss)(rows[order], LABELS[order], None)
    assert_close(permuted_value, value, precision.tolerance)
    assert_close(permuted_gradient, gradient[order], precision.tolerance)


def padded(rows, padding):
    """The rows with others between, before and behind them, masked: they hold NaN, inf and labels that exist."""
    generator = np.random.default_rng(padding)
    where = generator.permutation(np.arange(len(rows) + padding) < len(rows))
    embeddings = np.full((len(where), DIM), np.nan, rows.dtype)
    embeddings[::2] = np.inf
    embeddings[where] = rows
    labels = generator.integers(0, 4, len(where))
    labels[where] = LABELS
    return embeddings, labels, where


@pytest.mark.parametrize("padding", [1, 7, N])
@every_loss
def test_P3_padding_changes_nothing(loss, padding, precision):
    rows = rows_of(loss.batch(), precision)
    value, gradient = value_and_gradient(loss)(rows, LABELS, None)
    embeddings, labels, where = padded(rows, padding)
    padded_value, padded_gradient = value_and_gradient(loss)(embeddings, labels, where)
    assert_close(padded_value, value, precision.tolerance)
    assert_close(padded_gradient[where], gradient, precision.tolerance)
    np.testing.assert_array_equal(padded_gradient[~where], 0)


@every_miner
def test_P3_mining_permuted_rows(miner, precision):
    rows = rows_of(random_rows(3), precision)
    order = np.random.default_rng(0).permutation(N)
    options = {} if miner.own else {"labels": LABELS[order]}
    permuted = mine(miner)(rows[order], LABELS[order], None)
    assert_same_triplets(permuted, miner.expected(random_rows(3)[order], LABELS[order]))
    plain = as_set(mine(miner)(rows, LABELS, None))
    if options:  # with max_positives, which positives are kept depends on the order
        assert {tuple(order[list(triplet)]) for triplet in as_set(permuted)} == plain


def as_set(triplets):
    anchor, positive, negative, valid = (np.asarray(column) for column in triplets)
    return set(zip(anchor[valid], positive[valid], negative[valid], strict=True))


@pytest.mark.parametrize("padding", [1, 7, N])
@every_miner
def test_P3_mining_padded_rows(miner, padding, precision):
    rows = rows_of(random_rows(4), precision)
    embeddings, labels, where = padded(rows, padding)
    places = np.flatnonzero(where)
    mined = as_set(mine(miner)(embeddings, labels, where))
    plain = as_set(mine(miner)(rows, LABELS, None))
    assert mined == {tuple(places[list(triplet)]) for triplet in plain}


# P4: what a distance does not see, its losses do not see.

rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0]


@pytest.mark.parametrize("distance", [mj.euclidean, mj.squared_euclidean], ids=lambda d: d.name)
@every_loss
def test_P4_translation_and_rotation(loss, distance, precision):
    step = value_and_gradient(loss, distance)
    batch = loss.batch(distance)
    value, gradient = step(rows_of(batch, precision), LABELS, None)
    moved_value, moved_gradient = step(rows_of(batch + np.array([16.0, -8.0, 32.0]), precision), LABELS, None)
    turned_value, turned_gradient = step(rows_of(batch @ rotation, precision), LABELS, None)
    assert_close(moved_value, value, precision.tolerance)
    assert_close(moved_gradient, gradient, precision.tolerance)
    assert_close(turned_value, value, precision.tolerance)
    assert_close(turned_gradient, gradient @ rotation, precision.tolerance)


@pytest.mark.parametrize("distance", [mj.euclidean, mj.squared_euclidean, mj.manhattan], ids=lambda d: d.name)
@every_loss
def test_P4_gradient_rows_sum_to_zero(loss, distance, precision):
    gradient = np.asarray(
        value_and_gradient(loss, distance)(rows_of(loss.batch(distance), precision), LABELS, None)[1]
    )
    np.testing.assert_allclose(gradient.sum(axis=0), 0, atol=precision.tolerance * np.abs(gradient).max())


@every_loss
def test_P4_cosine_does_not_see_lengths(loss, precision):
    step = value_and_gradient(loss, mj.cosine)
    batch = loss.batch(mj.cosine)
    lengths = 2.0 ** np.arange(-3, N - 3)[:, None]
    value, gradient = step(rows_of(batch, precision), LABELS, None)
    scaled_value, scaled_gradient = step(rows_of(batch * lengths, precision), LABELS, None)
    assert_close(scaled_value, value, precision.tolerance)
    assert_close(scaled_gradient * lengths, gradient, precision.tolerance)
    assert_close(
        np.sum(gradient * batch, axis=1) + 1, np.ones(N), precision.tolerance
    )  # only directions move


@every_miner
def test_P4_mining_moved_and_turned_rows(miner, precision):
    expected = miner.expected(random_rows(5), LABELS)
    for rows in (random_rows(5) + 16.0, random_rows(5) @ rotation):
        assert_same_triplets(mine(miner)(rows_of(rows, precision), LABELS, None), expected)
    lengths = 2.0 ** np.arange(-3, N - 3)[:, None]
    mined = mine(miner, distance=mj.cosine)(rows_of(random_rows(5) * lengths, precision), LABELS, None)
    assert_same_triplets(mined, miner.expected(random_rows(5), LABELS, distance=mj.cosine))


# P5: four devices are one.


@functools.cache
def mesh():
    return jax.make_mesh((4,), ("data",), devices=jax.devices()[:4], axis_types=(AxisType.Auto,))


def on_devices(fn, in_specs, out_specs):
    return jax.jit(jax.shard_map(fn, mesh=mesh(), in_specs=in_specs, out_specs=out_specs))


WHERE = np.arange(N) != 4  # one device has a row less than the others


@every_loss
def test_P5_shard_map_differentiated_outside(loss, precision):
    rows = rows_of(loss.batch(), precision)

    def local(embeddings, labels, where):
        return loss(embeddings, labels, where=where, axis_name="data", tile=1)

    sharded = on_devices(local, P("data"), P())
    value, gradient = jax.jit(jax.value_and_grad(sharded))(rows, LABELS, WHERE)
    expected_value, expected_gradient = value_and_gradient(loss)(rows, LABELS, WHERE)
    assert_close(value, expected_value, precision.tolerance)
    assert_close(gradient, expected_gradient, precision.tolerance)


@every_loss
def test_P5_shard_map_differentiated_inside(loss, precision):
    rows, weights = rows_of(loss.batch(), precision), rows_of(rotation, precision)

    def value(weights, inputs, labels, axis_name):
        return loss(inputs @ weights, labels, axis_name=axis_name)

    step = jax.value_and_grad(value)
    local = functools.partial(step, axis_name="data")
    value, gradient = on_devices(local, (P(), P("data"), P("data")), (P(), P()))(weights, rows, LABELS)
    expected_value, expected_gradient = jax.jit(functools.partial(step, axis_name=None))(
        weights, rows, LABELS
    )
    assert_close(value, expected_value, precision.tolerance)
    assert_close(gradient, expected_gradient, precision.tolerance)


@pytest.mark.parametrize("reduction", ["mean_active", "sum", "none"])
@every_loss
def test_P5_shard_map_reductions(loss, reduction):
    rows = loss.batch().astype(np.float32)

    def local(embeddings, labels):
        return loss(embeddings, labels, reduction=reduction, axis_name="data")

    value = on_devices(local, P("data"), P("data") if reduction == "none" else P())(rows, LABELS)
    assert_close(value, loss.expected(loss.batch(), LABELS, reduction=reduction), 1e-5)


@every_loss
def test_P5_shard_map_with_references(loss, precision):
    rows, memory = rows_of(loss.batch(), precision), rows_of(random_rows(7, n=12), precision)
    memory_labels = np.tile(LABELS, 2)[:12]

    def value(embeddings, labels, references, reference_labels, axis_name):
        return loss(
            embeddings, labels, references=references, reference_labels=reference_labels, axis_name=axis_name
        )

    arguments = (rows, LABELS, memory, memory_labels)
    sharded = on_devices(functools.partial(value, axis_name="data"), P("data"), P())
    on_four = jax.jit(jax.value_and_grad(sharded, argnums=(0, 2)))(*arguments)
    on_one = jax.jit(jax.value_and_grad(functools.partial(value, axis_name=None), argnums=(0, 2)))(*arguments)
    jax.tree.map(functools.partial(assert_close, tolerance=precision.tolerance), on_four, on_one)


@every_loss
def test_P5_sharded_inputs_under_plain_jit(loss, precision):
    rows = rows_of(loss.batch(), precision)
    sharding = NamedSharding(mesh(), P("data"))
    shards = [jax.device_put(x, sharding) for x in (rows, LABELS, WHERE)]
    value, gradient = value_and_gradient(loss)(*shards)
    expected_value, expected_gradient = value_and_gradient(loss)(rows, LABELS, WHERE)
    assert_close(value, expected_value, precision.tolerance)
    assert_close(gradient, expected_gradient, precision.tolerance)


@every_miner
def test_P5_mining_on_four_devices(miner, precision):
    rows = rows_of(random_rows(6), precision)

    def local(embeddings, labels, where):
        return tuple(miner(embeddings, labels, where=where, axis_name="data"))[1:]  # anchors count per device

    expected = mine(miner)(rows, LABELS, WHERE)
    if miner.name != "semi_hard":  # whose slots are as many as the references
        assert len(tuple(expected)) == 4
    mined = on_devices(local, P("data"), P("data"))(rows, LABELS, WHERE)
    assert_same_triplets(mined, tuple(expected)[1:])
    sharding = NamedSharding(mesh(), P("data"))
    assert_same_triplets(mine(miner)(*(jax.device_put(x, sharding) for x in (rows, LABELS, WHERE))), expected)


# P6: tiles.


def tied_batch(n):
    """Integer rows with duplicates, and many distances that tie exactly."""
    generator = np.random.default_rng(n)
    rows = generator.integers(0, 3, size=(n, DIM)).astype(float)
    rows[1], rows[n // 2] = rows[0], rows[n - 1]
    return rows, generator.permutation(np.arange(n) % 3)


@pytest.mark.parametrize("tile", [1, 3, N, N + 1])
@every_loss
def test_P6_tiles_equal_dense(loss, tile, precision):
    rows = rows_of(loss.batch(), precision)
    value, gradient = value_and_gradient(loss)(rows, LABELS, None)
    tiled_value, tiled_gradient = value_and_gradient(loss, tile=tile)(rows, LABELS, None)
    assert_close(value, loss.expected(loss.batch(), LABELS), precision.tolerance)
    assert_close(tiled_value, value, precision.tolerance)
    assert_close(tiled_gradient, gradient, precision.tolerance)


@pytest.mark.parametrize("tile", [1, 3])
@every_loss
def test_P6_ties_across_tile_edges(loss, tile, precision):
    rows, labels = tied_batch(N)
    value, gradient = value_and_gradient(loss)(rows_of(rows, precision), labels, None)
    tiled_value, tiled_gradient = value_and_gradient(loss, tile=tile)(rows_of(rows, precision), labels, None)
    assert_close(value, loss.expected(rows, labels), precision.tolerance)
    assert_close(tiled_value, value, precision.tolerance)
    assert_close(tiled_gradient, gradient, precision.tolerance)


@pytest.mark.parametrize("distance", [mj.euclidean, mj.squared_euclidean, mj.manhattan], ids=lambda d: d.name)
@pytest.mark.parametrize("tile", [1, 3, 10, 11])
@every_miner
def test_P6_mined_ties_take_the_lowest_index_in_every_tile(miner, tile, distance, precision):
    rows, labels = tied_batch(10)
    mined = mine(miner, tile=tile, distance=distance)(rows_of(rows, precision), labels, None)
    assert_same_triplets(mined, miner.expected(rows, labels, distance=distance))


# P7: half precision inputs.


@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
@every_loss
def test_P7_half_precision_is_computed_in_float32(loss, half):
    rows = jnp.asarray(loss.batch(), half)
    value, gradient = value_and_gradient(loss)(rows, LABELS, None)
    upcast_value, upcast_gradient = value_and_gradient(loss)(rows.astype(jnp.float32), LABELS, None)
    assert value.dtype == jnp.float32
    assert gradient.dtype == half
    assert_close(value, upcast_value, 1e-6)
    assert_close(value, loss.expected(np.asarray(rows, np.float64), LABELS), 1e-5)
    np.testing.assert_array_equal(gradient, upcast_gradient.astype(half))


@every_miner
def test_P7_mining_half_precision(miner):
    rows = jnp.asarray(random_rows(8), jnp.bfloat16)
    expected = mine(miner)(rows.astype(jnp.float32), LABELS, None)
    assert_same_triplets(mine(miner)(rows, LABELS, None), expected)


# P8: other platforms.

PLATFORMS = ("cpu", "cuda", "tpu")
SHAPES = (
    jax.ShapeDtypeStruct((N, DIM), np.float32),
    jax.ShapeDtypeStruct((N,), np.int32),
    jax.ShapeDtypeStruct((N,), bool),
)


@pytest.mark.parametrize("tile", ["auto", 3])
@every_loss
def test_P8_value_and_gradient_lower_for_every_platform(loss, tile):
    exported = jax.export.export(value_and_gradient(loss, tile=tile), platforms=PLATFORMS)(*SHAPES)
    assert exported.platforms == PLATFORMS


@every_miner
def test_P8_miners_lower_for_every_platform(miner):
    def as_tuple(embeddings, labels, where):
        return tuple(miner(embeddings, labels, where=where))

    assert jax.export.export(jax.jit(as_tuple), platforms=PLATFORMS)(*SHAPES).platforms == PLATFORMS
