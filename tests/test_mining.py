"""Miners against the reference loops: indices, slots, options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import DIM, LABELS, MINERS, assert_same_triplets, every_distance, every_miner

import metric_jax as mj

N = len(LABELS)


def rows(seed=0, n=N):
    return np.random.default_rng(seed).normal(size=(n, DIM))


@pytest.mark.parametrize("seed", range(3))
@every_distance
@every_miner
def test_against_the_reference(miner, distance, seed):
    labels = np.random.default_rng(seed).integers(0, 4, N)
    mined = miner(rows(seed).astype(np.float32), labels, distance=distance)
    assert_same_triplets(mined, miner.expected(rows(seed), labels, distance=distance))


@every_miner
def test_triplets(miner):
    mined = miner(rows().astype(np.float32), LABELS)
    assert isinstance(mined, mj.mining.Triplets)
    assert mined._fields == ("anchor", "positive", "negative", "valid")
    assert len(jax.tree.leaves(mined)) == 4
    assert len({column.shape for column in mined}) == 1
    anchor, positive, negative, valid = (np.asarray(column) for column in mined)
    own_index = np.arange(N).reshape(-1, *[1] * (anchor.ndim - 1))
    np.testing.assert_array_equal(anchor, np.where(valid, own_index, 0))
    assert (LABELS[anchor] == LABELS[positive])[valid].all()
    assert (LABELS[anchor] != LABELS[negative])[valid].all()
    assert (anchor != positive)[valid].all()
    for column in (positive, negative):
        np.testing.assert_array_equal(column[~valid], 0)


@every_miner
def test_indices_are_int32_whatever_the_precision(miner, precision):
    mined = miner(rows().astype(precision.dtype), LABELS)
    assert [column.dtype for column in mined] == [np.int32] * 3 + [bool]


@every_miner
def test_references_masks_and_matches(miner):
    memory = rows(1, n=5)
    options = {
        "references": memory.astype(np.float32),
        "reference_labels": np.array([0, 1, 2, 1, 0]),
        "reference_where": np.array([True, True, True, True, False]),
        "where": np.arange(N) != 3,
        "match": lambda a, b: a % 2 == b % 2,
    }
    mined = miner(rows().astype(np.float32), LABELS, **options)
    assert_same_triplets(mined, miner.expected(rows(), LABELS, **{**options, "references": memory}))


@every_miner
def test_no_gradient_flows(miner):
    def gathered(embeddings):
        mined = miner(embeddings, LABELS)
        return jnp.sum(embeddings[mined.positive] * mined.valid[..., None])

    gradient = jax.grad(gathered)(jnp.asarray(rows(), jnp.float32))
    mined = miner(rows().astype(np.float32), LABELS)
    hits = np.bincount(np.asarray(mined.positive)[np.asarray(mined.valid)], minlength=N)
    np.testing.assert_allclose(gradient, np.tile(hits[:, None], DIM))


def test_semi_hard_by_hand():
    batch, labels = jnp.array([[0.0], [2.0], [1.0], [3.0], [4.0], [-2.0]]), jnp.array([0, 0, 0, 1, 1, 2])
    mined = mj.mining.batch_semi_hard(batch, labels, max_positives=2)
    # anchor 0: positives 1 (at 2) and 2 (at 1); negatives 3, 4, 5 at 3, 4, 2: 5 is as far as the first, not farther
    np.testing.assert_array_equal(mined.positive[0], [1, 2])
    np.testing.assert_array_equal(mined.negative[0], [3, 5])
    # anchor 5 has no positive; anchor 4's positive is at 1, and its nearest negative farther than that is 1, at 2
    assert not mined.valid[5].any()
    np.testing.assert_array_equal(mined.negative[4], [1, 0])
    np.testing.assert_array_equal(mined.valid[4], [True, False])


def test_semi_hard_slots():
    batch = rows().astype(np.float32)
    full = mj.mining.batch_semi_hard(batch, LABELS)
    assert full.positive.shape == (N, N)
    for slots in (1, 2, N):
        some = mj.mining.batch_semi_hard(batch, LABELS, max_positives=slots)
        for column, wide in zip(some, full, strict=True):
            np.testing.assert_array_equal(column, wide[:, :slots])


def test_semi_hard_slots_must_be_positive():
    for slots in (0, -1):
        with pytest.raises(ValueError, match=f"max_positives must be at least 1 or None, got {slots}"):
            mj.mining.batch_semi_hard(rows().astype(np.float32), LABELS, max_positives=slots)


def test_nan_is_mined_so_that_it_reaches_the_loss():
    batch = rows().astype(np.float32)
    batch[5] = np.nan
    assert mj.mining.batch_hard(batch, LABELS).positive[0] == 5
    assert mj.mining.batch_hard(batch, LABELS).negative[1] == 5


def test_miners_are_listed():
    assert {miner.function for miner in MINERS} == {mj.mining.batch_hard, mj.mining.batch_semi_hard}
