"""Whitening: the map against its formula in float64 by SciPy, and a run that is whitened, saved and opened again."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from small_run import config

import metric_jax as mj
from metric_jax.data import datasets
from metric_jax.training import RunError, open_run

ROWS = np.random.default_rng(0).normal(size=(50, 4)) @ np.diag([9.0, 3.0, 1.0, 0.1]) + [5.0, 0.0, -7.0, 1.0]


def whitened(fitted, rows, shrinkage):
    """The formula, written out."""
    covariance = np.cov(fitted.T, bias=True)
    size = len(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / size * np.eye(size)
    return (rows - fitted.mean(axis=0)) @ np.linalg.inv(scipy.linalg.sqrtm(shrunk))


@pytest.mark.parametrize("shrinkage", [0.01, 0.5, 1.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-4)])
def test_is_its_formula(shrinkage, dtype, tolerance):
    with jax.enable_x64(dtype is np.float64):
        whitening = mj.whitening.fit(ROWS.astype(dtype), shrinkage=shrinkage)
        found = mj.whitening.apply(whitening, ROWS[:7].astype(dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, whitened(ROWS, ROWS[:7], shrinkage), atol=tolerance)


@pytest.mark.parametrize("scale", [2.0**-70, 2.0**80])
def test_rows_whose_squares_leave_the_range_are_whitened_as_others(scale):
    rows = (ROWS * scale).astype(np.float32)
    found = mj.whitening.apply(mj.whitening.fit(rows), rows[:7])
    np.testing.assert_allclose(found, whitened(ROWS, ROWS[:7], 0.5), atol=1e-4)


def test_half_precision_is_computed_in_float32():
    rows = jnp.asarray(ROWS, jnp.bfloat16)
    whitening = mj.whitening.fit(rows)
    assert (
        whitening.mean.dtype
        == whitening.projection.dtype
        == mj.whitening.apply(whitening, rows).dtype
        == jnp.float32
    )
    jax.tree.map(np.testing.assert_array_equal, whitening, mj.whitening.fit(rows.astype(jnp.float32)))


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("value", [0.5, 0.1, 1e-20, 3e7])
def test_a_single_point_stays_where_it_is(count, value):
    whitening = mj.whitening.fit(np.full((count, 3), value, np.float32))
    jax.tree.map(np.testing.assert_array_equal, whitening, mj.whitening.none(3))


def test_a_network_that_has_collapsed_does_not_look_well_once_it_is_whitened():
    scales = np.random.default_rng(0).uniform(0.5, 2, (200, 1)).astype(np.float32)
    rows = mj.normalize(scales * np.array([[0.3, -0.7, 0.2]], np.float32))
    assert len(np.unique(np.asarray(rows), axis=0)) > 1  # in their last digit
    white = mj.normalize(mj.whitening.apply(mj.whitening.fit(rows), rows))
    assert mj.diagnostics.summary(white, np.arange(200) % 9)["collapsed"]


def test_more_directions_than_rows_and_little_shrinkage():
    rows = np.random.default_rng(0).normal(size=(10, 256)).astype(np.float32)
    for shrinkage in (1e-6, 1e-3):
        projection = mj.whitening.fit(rows, shrinkage=shrinkage).projection
        assert np.isfinite(projection).all()
        expected = whitened(rows.astype(float), rows.astype(float), shrinkage)
        found = mj.whitening.apply(mj.whitening.fit(rows, shrinkage=shrinkage), rows)
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("shrinkage", [0.3, 1.0])
@pytest.mark.parametrize("rows", [ROWS, [[1.0, 0], [-1, 0], [0, 1], [0, -1]]], ids=["any", "alike all round"])
def test_gradients_are_those_of_finite_differences(rows, shrinkage, x64):
    rows = jnp.asarray(rows)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(rows.shape[1], rows.shape[1])))

    def value(rows, shrinkage):
        return jnp.sum(weights * mj.whitening.fit(rows, shrinkage=shrinkage).projection)

    found, slope = jax.grad(value, argnums=(0, 1))(rows, shrinkage)
    step, back = 1e-6, shrinkage - 1e-6
    assert slope == pytest.approx((value(rows, shrinkage) - value(rows, back)) / 1e-6, rel=1e-4, abs=1e-7)
    for place in [(0, 0), (1, 1), (3, 0)]:
        bump = jnp.zeros_like(rows).at[place].set(step)
        expected = (value(rows + bump, shrinkage) - value(rows - bump, shrinkage)) / (2 * step)
        assert found[place] == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_a_shrinkage_out_of_its_range_is_named():
    for wrong in (0.0, -1.0, 1.5, np.nan):
        with pytest.raises(ValueError, match=r"whitening\.fit: shrinkage must be in \(0, 1\], got"):
            mj.whitening.fit(ROWS, shrinkage=wrong)
    with pytest.raises(TypeError, match="shrinkage must be a number, got 'much'"):
        mj.whitening.fit(ROWS, shrinkage="much")


@pytest.mark.parametrize(
    ("rows", "error", "told"),
    [
        (np.zeros((2, 3), int), TypeError, "embeddings must be floating, got int32"),
        (np.zeros((0, 3), np.float32), ValueError, r"embeddings must be \[batch, dim\] with a row at least"),
        (np.zeros(3, np.float32), ValueError, r"embeddings must be \[batch, dim\] with a row at least"),
    ],
)
def test_what_cannot_be_fitted_is_named(rows, error, told):
    with pytest.raises(error, match=told):
        mj.whitening.fit(rows)


def test_what_cannot_be_whitened_is_named():
    with pytest.raises(ValueError, match="embeddings has dimension 3 and the whitening has 2"):
        mj.whitening.apply(mj.whitening.none(2), np.zeros((1, 3), np.float32))


def test_a_run_measures_and_keeps_what_is_whitened_by_its_training_set(tmp_path):
    """By the averaged parameters, which are what it measures and keeps."""
    plain, white = (
        config(eval_whitening=shrinkage, eval_mirrored=True, ema=0.9) for shrinkage in (None, 0.3)
    )
    results = {}
    for name, wanted in {"plain": plain, "white": white}.items():
        mj.training.train_and_evaluate(wanted, str(tmp_path / name))
        results[name] = json.loads((tmp_path / name / "results.json").read_text())
    assert results["plain"]["map_at_r"] != results["white"]["map_at_r"]
    train, test = datasets.load(**plain.data)
    of_plain, of_white = (open_run(tmp_path / name) for name in ("plain", "white"))
    expected = whitened(*(of_plain.embed(x.images).astype(float) for x in (train, test)), 0.3)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = of_white.embed(test.images)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    again = mj.evaluation.retrieval(found, test.labels, ks=(1,))
    assert again["map_at_r"] == pytest.approx(results["white"]["map_at_r"], abs=1e-5)


def test_a_checkpoint_between_evaluations_is_whitened_by_its_own_network(tmp_path):
    wanted = config(eval_whitening=0.3, checkpoints_kept=3, steps=8, model__normalise=False)
    mj.training.train_and_evaluate(wanted, str(tmp_path))
    for step in (4, 8):  # evaluated are 6 and 8
        run = open_run(tmp_path, step)
        np.testing.assert_allclose(run.embed(run.load_data()[0].images).mean(axis=0), 0, atol=1e-3)


@pytest.mark.parametrize("shrinkage", [0.0, 1.5, float("nan")])
def test_a_shrinkage_that_cannot_be_is_told_before_anything_is_done(tmp_path, shrinkage):
    with pytest.raises(RunError, match="eval_whitening"):
        mj.training.train_and_evaluate(config(eval_whitening=shrinkage), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
