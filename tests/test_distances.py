"""Distances: values by hand and against the references, both forms, types, and what they refuse."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from suite import assert_close

import metric_jax as mj

ALL = (mj.euclidean, mj.squared_euclidean, mj.manhattan, mj.cosine, mj.cosine_similarity)
every_distance = pytest.mark.parametrize("distance", ALL, ids=lambda d: d.name)

X = np.random.default_rng(0).normal(size=(5, 3))
Y = np.random.default_rng(1).normal(size=(7, 3))


@pytest.mark.parametrize(
    ("distance", "x", "y", "expected"),
    [
        (mj.euclidean, [1.0, 2.0], [4.0, 6.0], 5.0),
        (mj.squared_euclidean, [1.0, 2.0], [4.0, 6.0], 25.0),
        (mj.manhattan, [1.0, 2.0], [4.0, -2.0], 7.0),
        (mj.cosine, [3.0, 4.0], [5.0, 0.0], 0.4),
        (mj.cosine_similarity, [3.0, 4.0], [5.0, 0.0], 0.6),
        (mj.cosine, [2.0, 0.0], [-3.0, 0.0], 2.0),
        (mj.cosine_similarity, [2.0, 0.0], [0.0, 7.0], 0.0),
    ],
)
def test_values_by_hand(distance, x, y, expected):
    np.testing.assert_allclose(distance(jnp.array(x), jnp.array(y)), expected, rtol=1e-6)
    np.testing.assert_allclose(distance.pairwise(jnp.array([x]), jnp.array([y])), [[expected]], rtol=1e-6)


@every_distance
def test_rows_against_the_reference(distance, precision):
    x, y = (np.asarray(rows, precision.dtype) for rows in (X, Y))
    reference = references.DISTANCES[distance.name]
    rounded = [rows.astype(np.float64) for rows in (x, y)]
    found = distance(x, y[:5])
    assert found.dtype == precision.dtype
    assert_close(found, reference(rounded[0], rounded[1][:5]), precision.tolerance)
    found = distance.pairwise(x, y)
    assert found.dtype == precision.dtype
    assert_close(found, reference(rounded[0][:, None], rounded[1]), precision.tolerance)


@every_distance
def test_gradients_against_central_differences(distance, precision):
    x, y = (np.asarray(rows, precision.dtype) for rows in (X, Y))
    reference = references.DISTANCES[distance.name]
    weights = np.random.default_rng(2).normal(size=(5, 7))
    fixed = y.astype(np.float64)

    def by_difference(rows):
        return np.sum(weights[:, 0] * reference(rows, fixed[:5]))

    def by_product(rows):
        return np.sum(weights * reference(rows[:, None], fixed))

    elementwise = jax.grad(lambda x: jnp.sum(weights[:, 0].astype(x.dtype) * distance(x, y[:5])))(
        jnp.asarray(x)
    )
    pairwise = jax.grad(lambda x: jnp.sum(weights.astype(x.dtype) * distance.pairwise(x, y)))(jnp.asarray(x))
    tolerance = max(precision.tolerance, 1e-9)
    assert_close(elementwise, references.central_differences(by_difference, x.astype(np.float64)), tolerance)
    assert_close(pairwise, references.central_differences(by_product, x.astype(np.float64)), tolerance)


@every_distance
@pytest.mark.parametrize("scale", [1.0, 16.0, 1e-3])
def test_P1_gradients_of_entries_that_are_zero(distance, scale, x64):
    """As those of a network that ends with ReLU are; rows are longer and shorter than 1."""
    x, y = (
        scale * np.array([[3.0, 0.0, -1.0], [0.0, 0.0, 2.0]]),
        np.array([[0.2, 1.0, 0.5], [0.7, -1.0, 0.0]]),
    )
    expected = references.central_differences(
        lambda rows: np.sum(references.DISTANCES[distance.name](rows, scale * y)), x, step=1e-4 * scale
    )
    found = jax.grad(lambda rows: jnp.sum(distance(rows, scale * y)))(jnp.asarray(x))
    assert_close(found, expected, 1e-7)


@every_distance
def test_elementwise_takes_any_leading_axes(distance):
    x, y = X[None, :2].repeat(4, axis=0), Y[None, 2:4].repeat(4, axis=0)
    assert distance(x, y).shape == (4, 2)
    assert distance(x[0, 0], y[0, 0]).shape == ()
    np.testing.assert_allclose(distance(x, y)[3, 1], distance(X[1], Y[3]), rtol=1e-6)


@every_distance
@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(distance, half):
    x, y = jnp.asarray(X, half), jnp.asarray(Y, half)
    wide = [rows.astype(jnp.float32) for rows in (x, y)]
    assert_close(distance(x, y[:5]), distance(wide[0], wide[1][:5]), 1e-7)
    assert_close(distance.pairwise(x, y), distance.pairwise(*wide), 1e-7)
    assert distance(x, y[:5]).dtype == distance.pairwise(x, y).dtype == jnp.float32


@every_distance
def test_nan_stays_in_its_own_row(distance):
    y = Y.astype(np.float32)
    y[2, 1] = np.nan
    found = distance.pairwise(X.astype(np.float32), y)
    assert jnp.isnan(found[:, 2]).all()
    assert jnp.isfinite(jnp.delete(found, 2, axis=1)).all()
    assert jnp.isnan(distance(y, y)[2])


@every_distance
def test_pairwise_of_exact_rows_is_exact(distance):
    """Integers, far from the origin too: what is equal must come out equal, or ties are lost."""
    x = np.random.default_rng(3).integers(0, 3, size=(9, 4)).astype(np.float32)
    if "cosine" not in distance.name:
        expected = references.DISTANCES[distance.name](x[:, None].astype(float), x.astype(float)).astype(
            np.float32
        )
        np.testing.assert_allclose(distance.pairwise(x, x), expected, rtol=2e-7)
        if distance is not mj.euclidean:
            np.testing.assert_array_equal(distance.pairwise(x + 512, x + 512), expected)
    found = np.asarray(distance.pairwise(x, x))
    np.testing.assert_array_equal(found, found.T)


def test_cosine_is_exact_for_equal_rows_and_keeps_the_order_of_near_ones():
    x = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    np.testing.assert_array_equal(mj.cosine(x, x), 0)
    np.testing.assert_array_equal(jax.grad(lambda x, y: mj.cosine(x, y).sum())(x, x.copy()), 0)
    aside = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    assert (mj.cosine(x, x + 1e-4 * aside) < mj.cosine(x, x + 3e-4 * aside)).all()
    np.testing.assert_allclose(mj.cosine(x, -x), 2, rtol=1e-6)
    np.testing.assert_array_equal(mj.cosine(x, np.zeros_like(x)), 1)
    np.testing.assert_array_equal(mj.cosine(np.zeros_like(x), np.zeros_like(x)), 1)


def test_a_distance_is_a_static_argument():
    assert hash(mj.euclidean) == hash(dataclasses.replace(mj.euclidean))
    assert dataclasses.replace(mj.euclidean, precision="default") != mj.euclidean
    with pytest.raises(dataclasses.FrozenInstanceError):
        mj.euclidean.precision = "default"
    assert [d.is_similarity for d in ALL] == [False, False, False, False, True]


@every_distance
def test_bad_input(distance):
    with pytest.raises(TypeError, match=r"x must be floating, got int32.*astype"):
        distance(jnp.ones((2, 3), jnp.int32), jnp.ones((2, 3)))
    with pytest.raises(TypeError, match="y must be floating"):
        distance.pairwise(jnp.ones((2, 3)), jnp.ones((2, 3), bool))
    with pytest.raises(ValueError, match=r"one shape.*pairwise"):
        distance(jnp.ones((2, 3)), jnp.ones((4, 3)))
    with pytest.raises(ValueError, match=r"x as \[rows, dim\]"):
        distance.pairwise(jnp.ones(3), jnp.ones((4, 3)))
    with pytest.raises(ValueError, match="x has dimension 2 and y has 3"):
        distance.pairwise(jnp.ones((4, 2)), jnp.ones((4, 3)))
    with pytest.raises(ValueError, match="dim of at least 1"):
        distance(jnp.ones(()), jnp.ones(()))


def test_a_distance_is_shown_by_its_name():
    assert repr(mj.euclidean) == "mj.euclidean"
