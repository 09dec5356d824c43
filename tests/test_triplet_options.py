"""Triplets: the swap, semi-hard pairs that are dropped, and triplets that are given."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from subjects import LABELS, N
from suite import assert_close, random_rows

import metric_jax as mj

# The swap.


def test_swap_by_hand():
    a, p, n = jnp.zeros((3, 1)), jnp.array([[2.0], [2.0], [-2.0]]), jnp.array([[3.0], [-3.0], [1.0]])
    # d(a, n) = 3, 3, 1 and d(p, n) = 1, 5, 3
    np.testing.assert_allclose(mj.triplet_loss(a, p, n, margin=0.5, swap=True), [1.5, 0.0, 1.5], rtol=1e-6)
    np.testing.assert_allclose(mj.triplet_loss(a, p, n, margin=0.5), [0.0, 0.0, 1.5], rtol=1e-6)


def test_swap_of_batches_by_hand():
    batch, labels = np.array([[0.0], [2.0], [3.0], [9.0]], np.float32), np.array([0, 0, 1, 1])
    # anchor 0: positive at 2, nearest negative at 3, which is 1 from the positive
    own = {"margin": 0.5, "reduction": "none"}
    for loss in (mj.batch_hard_triplet_loss, mj.batch_semi_hard_triplet_loss):
        assert loss(batch, labels, **own)[0] == 0
        np.testing.assert_allclose(loss(batch, labels, **own, swap=True)[0], 1.5, rtol=1e-6)


def test_swap_keeps_a_nan():
    for bad in range(3):
        rows = [jnp.zeros((1, 2)), jnp.ones((1, 2)), jnp.full((1, 2), 2.0)]
        rows[bad] = rows[bad].at[0, 0].set(jnp.nan)
        assert np.isnan(mj.triplet_loss(*rows, swap=True)[0])


# Semi-hard, or nothing.


def test_semi_hard_drops_pairs_without_a_farther_negative():
    batch, labels = np.array([[0.0], [5.0], [1.0], [2.0]], np.float32), np.array([0, 0, 1, 2])
    own = {"margin": 0.5, "reduction": "none"}
    # anchor 0: the positive at 5, no negative farther; anchor 1: likewise, its negatives are at 4 and 3
    np.testing.assert_allclose(
        mj.batch_semi_hard_triplet_loss(batch, labels, **own), [3.5, 1.5, 0, 0], rtol=1e-6
    )
    for swap in (False, True):
        drop = mj.batch_semi_hard_triplet_loss(batch, labels, **own, swap=swap, otherwise="drop")
        np.testing.assert_array_equal(drop, 0)
    # strictly: a negative as far as the positive is none
    tied = np.array([[0.0], [2.0], [-2.0]], np.float32), np.array([0, 0, 1])
    assert mj.batch_semi_hard_triplet_loss(*tied, **own, otherwise="drop")[0] == 0
    with pytest.raises(ValueError, match=r'otherwise must be "farthest" or "drop", got .nearest.'):
        mj.batch_semi_hard_triplet_loss(batch, labels, otherwise="nearest")


@pytest.mark.parametrize("tile", ["auto", 3])
def test_mean_is_over_the_pairs_that_are_left(tile):
    batch, labels = np.array([[0.0], [1.0], [5.0], [1.5]], np.float32), np.array([0, 0, 0, 1])
    # pairs and the only negative, at 1.5, 0.5 and 3.5: 01 keeps it, and all others are as far or farther
    each = mj.batch_semi_hard_triplet_loss(
        batch, labels, margin=1.0, otherwise="drop", reduction="none", tile=tile
    )
    np.testing.assert_allclose(each, [0.5, 0, 0, 0], rtol=1e-6)
    value = mj.batch_semi_hard_triplet_loss(batch, labels, margin=1.0, otherwise="drop", tile=tile)
    np.testing.assert_allclose(value, 0.5, rtol=1e-6)


# Triplets that are given.

OWN = mj.Triplets(
    np.array([0, 3, 7]), np.array([1, 2, 0]), np.array([5, 6, 7]), np.array([True, True, False])
)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("penalty", [jax.nn.relu, jax.nn.softplus])
def test_given_triplets(swap, penalty):
    rows, memory = random_rows(), random_rows(1)
    own = {"margin": 0.75, "penalty": penalty, "swap": swap}
    for options in ({}, {"references": memory}):
        others = options.get("references", rows)
        each = mj.triplet_loss(rows[OWN.anchor], others[OWN.positive], others[OWN.negative], **own)[:2]
        run = functools.partial(mj.batch_triplet_loss, rows, OWN, **own, **options)
        np.testing.assert_allclose(run(reduction="none"), [*each, 0.0], rtol=1e-6)
        np.testing.assert_allclose(run(), each.mean(), rtol=1e-6)
        np.testing.assert_allclose(run(reduction="sum"), each.sum(), rtol=1e-6)
        np.testing.assert_allclose(
            run(reduction="mean_active"), each.sum() / np.count_nonzero(each), rtol=1e-6
        )


def test_mined_triplets_are_the_batch_loss(precision):
    rows = random_rows().astype(precision.dtype)

    def mined(rows):
        return mj.batch_triplet_loss(rows, mj.mining.batch_hard(rows, LABELS))

    found = jax.jit(jax.value_and_grad(mined))(rows)
    expected = jax.value_and_grad(mj.batch_hard_triplet_loss)(jnp.asarray(rows), LABELS)
    jax.tree.map(functools.partial(assert_close, tolerance=precision.tolerance), found, expected)
    slots = mj.batch_triplet_loss(rows, mj.mining.batch_semi_hard(rows, LABELS), reduction="none")
    assert slots.shape == (N, N)
    expected = mj.batch_semi_hard_triplet_loss(rows, LABELS, reduction="none")
    np.testing.assert_allclose(slots.sum(axis=1), expected, rtol=1e-5)


@pytest.mark.parametrize("distance", [mj.euclidean, mj.cosine, mj.signal_to_noise])
def test_given_triplets_keep_nan_where_it_belongs(distance):
    """Row 0 is what an invalid triplet points to, and row 4 is in none."""
    rows = random_rows()
    rows[[0, 4]] = np.nan
    triplets = mj.Triplets([1, 0], [2, 0], [3, 0], [True, False])
    step = jax.value_and_grad(functools.partial(mj.batch_triplet_loss, distance=distance, margin=5.0))
    value, gradient = step(rows, triplets)
    assert value > 0
    np.testing.assert_array_equal(np.asarray(gradient)[[0, 4]], 0)
    assert np.isfinite(gradient).all()
    rows[2] = np.nan
    assert np.isnan(step(rows, triplets)[0])


def test_no_triplet_is_valid():
    none = OWN._replace(valid=np.zeros(3, bool))
    for swap in (False, True):
        loss = functools.partial(mj.batch_triplet_loss, triplets=none, swap=swap)
        value, gradient = jax.value_and_grad(lambda rows, loss=loss: loss(rows))(random_rows())
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


def test_given_triplets_on_four_devices(x64):
    rows = random_rows().astype(float)
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4], axis_types=(AxisType.Auto,))

    def mapped(rows, labels):
        mined = mj.mining.batch_hard(rows, labels, axis_name="data")
        return mj.batch_triplet_loss(rows, mined, axis_name="data", swap=True, margin=0.75)

    on_four = jax.shard_map(mapped, mesh=mesh, in_specs=P("data"), out_specs=P())
    found = jax.jit(jax.value_and_grad(on_four))(rows, LABELS)
    loss = functools.partial(mj.batch_hard_triplet_loss, swap=True, margin=0.75)
    expected = jax.value_and_grad(loss)(jnp.asarray(rows), LABELS)
    jax.tree.map(functools.partial(assert_close, tolerance=1e-10), found, expected)


def test_given_triplets_in_half_precision_and_as_lists():
    triplets = mj.Triplets([0], [1], [2], [True])
    rows = jnp.asarray([[0.0], [300.0], [0.0]], jnp.float16)
    value, gradient = jax.value_and_grad(mj.batch_triplet_loss)(
        rows, triplets, margin=0.0, penalty=jax.nn.softplus, distance=mj.squared_euclidean
    )
    assert value.dtype == jnp.float32
    assert gradient.dtype == jnp.float16
    assert value == 90000.0
    learned = jax.grad(lambda m: mj.batch_triplet_loss(rows, triplets, margin=m))(jnp.float32(0.2))
    assert learned == 1.0
    assert math.isfinite(value)


def test_given_triplets_that_are_refused():
    rows, loss = random_rows(), mj.batch_triplet_loss
    with pytest.raises(ValueError, match=r"triplets.negative holds 8, and there are only 8 rows"):
        loss(rows, OWN._replace(negative=np.array([8, 0, 0])))
    with pytest.raises(ValueError, match=r"triplets.anchor holds -1"):
        loss(rows, OWN._replace(anchor=np.array([-1, 0, 0])))
    with pytest.raises(ValueError, match=r"triplets.negative holds 5, and there are only 4 rows"):
        loss(rows, OWN._replace(anchor=OWN.anchor), references=rows[:4])
    with pytest.raises(TypeError, match=r"triplets must be mj.Triplets, got tuple"):
        loss(rows, tuple(OWN))
    with pytest.raises(TypeError, match=r"triplets.valid must be boolean"):
        loss(rows, OWN._replace(valid=np.ones(3)))
    with pytest.raises(ValueError, match=r"triplets.positive has shape \(2,\)"):
        loss(rows, OWN._replace(positive=np.array([1, 2])))
    with pytest.raises(ValueError, match=r"embeddings must be \[rows, dim\]"):
        loss(rows[0], OWN)
    with pytest.raises(ValueError, match="reduction must be one of"):
        loss(rows, OWN, reduction="average")
    with pytest.raises(ValueError, match="distance must be a distance"):
        loss(rows, OWN, distance=mj.cosine_similarity)
    with pytest.raises(ValueError, match="embeddings has dimension 3 and references has 2"):
        loss(rows, OWN, references=rows[:, :2])
