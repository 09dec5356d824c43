"""Losses of two views: their formulas, what masks and devices must not change, and batches without statistics."""

import functools

import jax
import numpy as np
import pytest
import references
import references_self_supervised as formulas
from suite import assert_close

import metric_jax as mj

LOSSES = {
    "vicreg": (mj.vicreg_loss, formulas.vicreg, {}),
    "vicreg_weighted": (
        mj.vicreg_loss,
        formulas.vicreg,
        {"invariance": 2.0, "variance": 3.0, "covariance": 5.0, "epsilon": 0.25},
    ),
    "barlow_twins": (mj.barlow_twins_loss, formulas.barlow_twins, {"offdiagonal": 0.25}),
    "alignment": (mj.alignment_loss, formulas.alignment, {}),
    "alignment_linear": (mj.alignment_loss, formulas.alignment, {"power": 1.0}),
}
every_loss = pytest.mark.parametrize("name", LOSSES)

GENERATOR = np.random.default_rng(0)
X = (
    np.round(GENERATOR.normal(size=(8, 4)) * [1.5, 0.5, 1.0, 0.25] * 256) / 256
)  # some dimensions vary too little
Y = np.round((X + 0.3 * GENERATOR.normal(size=X.shape)) * 256) / 256
WHERE = np.array([True, True, False, True, True, True, False, True])


def ours(name):
    loss, _, own = LOSSES[name]
    return functools.partial(loss, **own)


@functools.cache
def value_and_gradients(name):
    return jax.jit(jax.value_and_grad(ours(name), argnums=(0, 1)))


def expected(name, x, y):
    _, reference, own = LOSSES[name]
    gradients = (
        references.central_differences(lambda x: reference(x, y, **own), x),
        references.central_differences(lambda y: reference(x, y, **own), y),
    )
    return reference(x, y, **own), gradients


def assert_all_close(found, wanted, tolerance):
    jax.tree.map(functools.partial(assert_close, tolerance=tolerance), found, wanted)


@every_loss
def test_value_and_gradient(name, precision):
    value, gradients = value_and_gradients(name)(X.astype(precision.dtype), Y.astype(precision.dtype))
    wanted, slopes = expected(name, X, Y)
    assert value.dtype == gradients[0].dtype == precision.dtype
    assert_close(value, wanted, precision.tolerance)
    assert_all_close(gradients, slopes, max(precision.tolerance, 1e-8))


@every_loss
def test_far_from_the_origin(name):
    """Means of 4096 leave float32 fewer digits of what varies, but no error grows from them."""
    value = ours(name)((X + 4096).astype(np.float32), (Y + 4096).astype(np.float32))
    assert_close(value, LOSSES[name][1](X, Y, **LOSSES[name][2]), 1e-4)


POOR = {
    "duplicates": np.full((5, 3), 0.1),
    "zeros": np.zeros((5, 3)),
    "one row": np.ones((1, 3)),
    "a constant dimension": np.array([[0.1, 1.0], [0.1, 2.0], [0.1, 4.0]]),
}


@pytest.mark.parametrize("rows", POOR.values(), ids=POOR)
@every_loss
def test_poor_batches_have_finite_gradients(name, rows, precision):
    """Of duplicates too, whose mean is rounded: what varies by rounding alone does not vary."""
    _, reference, own = LOSSES[name]
    value, gradients = value_and_gradients(name)(rows.astype(precision.dtype), rows.astype(precision.dtype))
    wanted = reference(rows, rows, **own) if name != "barlow_twins" else barlow_twins_of_poor(rows)
    np.testing.assert_allclose(value, wanted, atol=1e-4 * max(1.0, wanted))
    assert all(np.isfinite(gradient).all() and np.abs(gradient).max() < 100 for gradient in gradients)


def barlow_twins_of_poor(rows):
    """Each constant dimension costs 1, and the others of these correlate with themselves alone."""
    return float(np.sum(np.ptp(rows, axis=0) == 0)) if len(rows) > 1 else 0.0


@every_loss
def test_nothing_counts(name):
    value, gradients = value_and_gradients(name)(X, Y, where=np.zeros(len(X), bool))
    assert value == 0
    assert not any(gradient.any() for gradient in gradients)


def test_hyperparameters_are_differentiable():
    slope = jax.grad(lambda weight: mj.barlow_twins_loss(X, Y, offdiagonal=weight))(0.5)
    difference = mj.barlow_twins_loss(X, Y, offdiagonal=1.0) - mj.barlow_twins_loss(X, Y, offdiagonal=0.0)
    np.testing.assert_allclose(slope, difference, rtol=1e-4)


def test_views_that_agree_are_aligned():
    assert mj.alignment_loss(X, X) == 0
    np.testing.assert_allclose(mj.alignment_loss(X, X + 2.0, power=3.0), 4.0**3, rtol=1e-6)


WRONG = [
    ({"y": Y[:4]}, ValueError, "two views"),
    ({"x": X[0], "y": Y[0]}, ValueError, r"\[batch, dim\]"),
    ({"x": X[:0], "y": Y[:0]}, ValueError, "empty"),
    ({"y": Y.astype(int)}, TypeError, "y must be floating"),
    ({"where": WHERE.astype(int)}, TypeError, "where must be boolean"),
    ({"where": WHERE[:3]}, ValueError, "one entry a row"),
    ({"labels": None}, TypeError, "takes x, y"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG, ids=[message for *_, message in WRONG])
@pytest.mark.parametrize("loss", [mj.vicreg_loss, mj.barlow_twins_loss, mj.alignment_loss])
def test_wrong_input_is_named(loss, wrong, error, message):
    with pytest.raises(error, match=message):
        loss(**{"x": X, "y": Y, **wrong})


@pytest.mark.parametrize(
    ("loss", "own"),
    [
        (mj.vicreg_loss, {"epsilon": 0.0}),
        (mj.vicreg_loss, {"variance": -1.0}),
        (mj.barlow_twins_loss, {"offdiagonal": -1.0}),
        (mj.alignment_loss, {"power": 0.0}),
    ],
)
def test_hyperparameter_out_of_range(loss, own):
    with pytest.raises(ValueError, match=next(iter(own))):
        loss(X, Y, **own)
