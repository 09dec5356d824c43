"""Diagnostics against the reference loops, by hand, and where there is nothing to count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from subjects import DIM, LABELS
from suite import assert_close

import metric_jax as mj

N = len(LABELS)
KEYS = {
    *("active_fraction", "hard_positives", "hard_negatives", "spread", "collapsed"),
    *(f"{sign}_{name}" for sign in ("positive", "negative") for name in ("mean", "q10", "q50", "q90")),
}


def rows(seed=0):
    return np.random.default_rng(seed).normal(size=(N, DIM))


def check(found, expected, tolerance):
    assert set(found) == set(expected) == KEYS
    for key, value in expected.items():
        assert found[key].shape == (), key
        assert_close(found[key], float(value), tolerance)


@pytest.mark.parametrize("margin", [0.0, 0.7])
@pytest.mark.parametrize("distance", [mj.euclidean, mj.squared_euclidean, mj.manhattan], ids=lambda d: d.name)
def test_against_the_reference(distance, margin, precision):
    batch = rows().astype(precision.dtype)
    found = jax.jit(lambda e, y: mj.diagnostics.summary(e, y, margin=margin, distance=distance))(
        batch, LABELS
    )
    reference = references.DISTANCES[distance.name]
    check(
        found,
        references.summary(batch.astype(float), LABELS, margin=margin, distance=reference),
        precision.tolerance,
    )


def test_masked_rows_do_not_count(precision):
    where = np.arange(N) % 3 != 1
    batch = np.where(where[:, None], rows(), np.nan).astype(precision.dtype)
    found = mj.diagnostics.summary(batch, LABELS, where=where)
    check(found, references.summary(batch.astype(float), LABELS, where=where), precision.tolerance)


def test_by_hand():
    found = mj.diagnostics.summary(
        jnp.array([[0.0], [4.0], [1.0], [10.0]]), jnp.array([0, 0, 1, 1]), margin=3.5
    )
    # positives: 0-1 at 4, 2-3 at 9; negatives: 0-2 at 1, 1-2 at 3, 1-3 at 6, 0-3 at 10
    expected = {
        "positive_mean": 6.5,
        "positive_q50": 6.5,
        "positive_q10": 4.0,
        "negative_mean": 5.0,
        "negative_q50": 4.5,
    }
    for key, value in expected.items():
        assert found[key] == pytest.approx(value), key
    assert found["hard_positives"] == 4  # 4 > 1 (of 0), 4 > 3 (of 1), 9 > 1 (of 2), 9 > 6 (of 3)
    assert found["hard_negatives"] == 2 + 1 + 2  # of 0: 2; of 1: 2; of 2: 0 and 1; of 3: 1
    assert found["active_fraction"] == 1.0


def test_active_fraction_is_of_the_anchors_that_have_triplets():
    batch, labels = jnp.array([[0.0], [1.0], [3.0], [50.0]]), jnp.array([0, 0, 1, 2])
    # anchor 0: 1 - 3 + 1.5 < 0; anchor 1: 1 - 2 + 1.5 > 0; the others are alone in their classes
    assert mj.diagnostics.summary(batch, labels, margin=1.5)["active_fraction"] == 0.5


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 0]], ids=str)
def test_nothing_to_count(labels):
    with jax.debug_nans(True):
        found = mj.diagnostics.summary(rows()[:4].astype(np.float32), np.array(labels))
    missing = "positive" if len(set(labels)) > 1 else "negative"
    for key in ("active_fraction", "hard_positives", "hard_negatives", f"{missing}_mean", f"{missing}_q50"):
        assert found[key] == 0
    assert all(jnp.isfinite(value) for value in found.values())


def test_spread_and_collapse():
    assert mj.diagnostics.summary(jnp.array([[0.0, 3.0], [4.0, 0.0]]), jnp.array([0, 1]))["spread"] == 2.5
    for size, collapsed in ((0.02, False), (0.005, True)):
        batch = 1.0 + size * jnp.array([[-1.0], [1.0], [-1.0], [1.0]])
        found = mj.diagnostics.summary(batch, jnp.array([0, 0, 1, 1]))
        np.testing.assert_allclose(found["spread"], size, rtol=1e-4)
        assert bool(found["collapsed"]) is collapsed


@pytest.mark.parametrize("rows_that_count", [0, 1, 2])
def test_fewer_than_two_rows_are_no_collapse(rows_that_count):
    batch, labels, where = jnp.ones((3, 2)), jnp.zeros(3, int), jnp.arange(3) < rows_that_count
    assert bool(mj.diagnostics.summary(batch, labels, where=where)["collapsed"]) is (rows_that_count == 2)


def test_a_second_call_compiles_nothing(compilations):
    mj.diagnostics.summary(rows().astype(np.float32), LABELS)
    before = compilations()
    mj.diagnostics.summary(rows(1).astype(np.float32), LABELS)
    assert compilations() == before


def test_lists_are_arrays():
    rows, labels = [[0.0], [1.0], [5.0]], [0, 0, 1]
    found = mj.diagnostics.summary(rows, labels, where=[True, True, False])
    assert (float(found["positive_mean"]), float(found["negative_mean"])) == (1.0, 0.0)


def test_nan_does_not_pass_for_a_batch_that_is_learned():
    batch = rows().astype(np.float32)
    batch[3, 0] = np.nan
    found = mj.diagnostics.summary(batch, LABELS)
    of_pairs = [
        f"{sign}_{what}" for sign in ("positive", "negative") for what in ("mean", "q10", "q50", "q90")
    ]
    for key in ("active_fraction", *of_pairs, "spread"):
        assert np.isnan(found[key]), key
    assert not found["collapsed"]
    assert set(found) - {"active_fraction", *of_pairs, "spread", "collapsed"} == {
        "hard_positives",
        "hard_negatives",
    }


def test_bad_input():
    batch = rows().astype(np.float32)
    with pytest.raises(TypeError, match="labels must be integers"):
        mj.diagnostics.summary(batch, LABELS.astype(np.float32))
    with pytest.raises(ValueError, match="embeddings are empty"):
        mj.diagnostics.summary(batch[:0], LABELS[:0])
    with pytest.raises(TypeError, match="distance must be"):
        mj.diagnostics.summary(batch, LABELS, distance="euclidean")
    with pytest.raises(TypeError, match="where must be boolean"):
        mj.diagnostics.summary(batch, LABELS, where=LABELS)
    with pytest.raises(TypeError, match="summary: margin must be a number, got 'x'"):
        mj.diagnostics.summary(np.zeros((2, 1), np.float32), np.array([0, 1]), margin="x")
    with pytest.raises(ValueError, match="summary: margin must be at least 0, got nan"):
        mj.diagnostics.summary(np.zeros((2, 1), np.float32), np.array([0, 1]), margin=np.nan)
