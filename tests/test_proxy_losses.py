"""Heads and proxy losses by hand: angles worked out on paper, corners, extremes, options."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from subjects import LABELS
from suite import assert_close, random_rows

import metric_jax as mj

AXES = np.array([[1.0, 0.0], [0.0, 1.0]])


def at(*degrees):
    """Rows of length 2 at angles."""
    return 2 * np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


def cross_entropy(own, *others):
    return math.log(sum(math.exp(x) for x in (own, *others))) - own


# Values.


@pytest.mark.parametrize(
    ("loss", "options", "expected"),
    [
        (mj.normalized_softmax_loss, {"temperature": 0.5}, cross_entropy(math.sqrt(3), 1)),
        (mj.cosface_loss, {"margin": 0.25, "scale": 2.0}, cross_entropy(math.sqrt(3) - 0.5, 1)),
        (mj.arcface_loss, {"margin": math.pi / 6, "scale": 2.0}, cross_entropy(1, 1)),
        # beyond π: θ = 30°, m = 160°
        (
            mj.arcface_loss,
            {"margin": math.radians(160), "scale": 2.0},
            cross_entropy(math.sqrt(3) - 2 * math.radians(160) * math.sin(math.radians(160)), 1),
        ),
        (mj.sphereface_loss, {"margin": 1}, cross_entropy(math.sqrt(3), 1)),
        (mj.sphereface_loss, {"margin": 2}, cross_entropy(1, 1)),  # cos 60°
        (mj.sphereface_loss, {"margin": 3}, cross_entropy(0, 1)),  # cos 90°
        (mj.sphereface_loss, {"margin": 9}, cross_entropy(2 * (-(math.cos(math.radians(270))) - 2), 1)),
        (mj.large_margin_softmax_loss, {"margin": 2}, cross_entropy(1, 1)),
        (mj.instance_loss, {"scale": 0.5}, cross_entropy(math.sqrt(3) / 2, 0.5)),
        (mj.p2sgrad_loss, {}, ((math.sqrt(3) / 2 - 1) ** 2 + 0.25) / 2),
        (mj.proxy_nca_loss, {}, 1 - math.sqrt(3)),
        (mj.proxy_nca_pp_loss, {"temperature": 0.5}, cross_entropy(2 * math.sqrt(3), 2)),
        (mj.center_loss, {}, ((math.sqrt(3) - 1) ** 2 + 1) / 2),
        (
            mj.proxy_anchor_loss,
            {"margin": 0.25, "scale": 2.0},
            math.log1p(math.exp(-2 * (math.sqrt(3) / 2 - 0.25)))
            + (0 + math.log1p(math.exp(2 * (0.5 + 0.25)))) / 2,
        ),
    ],
)
def test_a_row_at_30_degrees(loss, options, expected, x64):
    """Against proxies along the two axes, of which the first is its own."""
    assert_close(loss(at(30), np.array([0]), AXES, **options), expected, 1e-12)


def test_the_nearest_center_counts(x64):
    proxies = np.stack([at(90, 60), at(0, 120)])  # two classes of two centers; the row is at 30°
    found = mj.subcenter_arcface_loss(at(30), np.array([0]), proxies, margin=math.pi / 6, scale=2.0)
    assert_close(found, cross_entropy(1, math.sqrt(3)), 1e-12)


def test_centers_are_weighed_by_their_similarity(x64):
    proxies = np.stack([at(90, 30), at(0, 120)])
    found = mj.soft_triple_loss(at(30), np.array([0]), proxies, scale=2.0, temperature=0.5, margin=0.25)
    similarities = []
    for row in ([0.5, 1.0], [math.sqrt(3) / 2, 0.0]):
        weights = np.exp(np.array(row) / 0.5)
        similarities.append(np.sum(weights * row) / np.sum(weights))
    assert_close(found, cross_entropy(2 * (similarities[0] - 0.25), 2 * similarities[1]), 1e-12)
    spread = (1 + math.sqrt(3)) / (2 * 2 * 1)  # chords of 60° and of 120°
    merged = mj.soft_triple_loss(
        at(30), np.array([0]), proxies, scale=2.0, temperature=0.5, margin=0.25, tau=0.2
    )
    assert_close(merged - found, 0.2 * spread, 1e-12)


def test_merged_centers_cost_nothing_and_feel_nothing():
    proxies = np.tile(at(0, 90)[:, None], (1, 3, 1)).astype(np.float32)

    def cost(proxies, tau):
        return mj.soft_triple_loss(at(30), np.array([0]), proxies, tau=tau)

    value, gradient = jax.value_and_grad(cost)(proxies, 5.0)
    expected, same = jax.value_and_grad(cost)(proxies, 0.0)
    assert_close(value, expected, 1e-6)
    assert_close(gradient, same, 1e-6)


def test_large_margin_softmax_weighs_long_proxies(x64):
    found = mj.large_margin_softmax_loss(at(30), np.array([0]), AXES * [[3.0], [1.0]], margin=2)
    assert_close(found, cross_entropy(3.0, 1.0), 1e-12)


def test_at_a_margin_of_one_or_none_all_heads_are_one_softmax(x64):
    rows, proxies = random_rows().astype(np.float64), np.random.default_rng(0).normal(size=(4, 3))
    plain = mj.normalized_softmax_loss(rows, LABELS, proxies, temperature=0.125)
    for loss in (mj.arcface_loss, mj.cosface_loss):
        assert_close(loss(rows, LABELS, proxies, margin=0.0, scale=8.0), plain, 1e-12)
    assert_close(
        mj.large_margin_softmax_loss(rows, LABELS, proxies, margin=1),
        mj.instance_loss(rows, LABELS, proxies),
        1e-12,
    )


# Corners and extremes.


@pytest.mark.parametrize("degrees", [0, 180])
@pytest.mark.parametrize("loss", [mj.arcface_loss, mj.sphereface_loss, mj.large_margin_softmax_loss])
def test_gradients_are_finite_where_a_row_lies_on_its_proxy(loss, degrees):
    for row in (at(degrees), AXES[:1] * (1 if degrees == 0 else -1), np.float32([[0.6, 0.8]])):
        proxies = np.stack([row[0] if degrees == 0 else -row[0], [0.1, -1.0]]).astype(np.float32)
        with jax.debug_nans(True):
            gradients = jax.grad(loss, argnums=(0, 2))(row.astype(np.float32), np.array([0]), proxies)
        assert all(np.isfinite(gradient).all() for gradient in gradients)
        assert all(np.abs(gradient).max() < 1e5 for gradient in gradients)


def test_a_row_along_its_proxy_has_no_angle_of_roundings_making():
    rows = np.random.default_rng(0).normal(size=(64, 7)).astype(np.float32)
    found = mj.arcface_loss(1.7 * rows, np.arange(64), rows, scale=16.0)
    with jax.enable_x64(True):
        expected = mj.arcface_loss(1.7 * rows.astype(float), np.arange(64), rows.astype(float), scale=16.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("margin", [2, 3, 4, 5])
def test_the_multiplied_angle_falls_without_a_jump(margin, x64):
    angles = np.linspace(0, 180, 721)

    def own_logit(angle):
        """From the loss beside a second proxy, at a right angle in a third dimension: its logit is 0."""
        row = jnp.stack([jnp.cos(angle), jnp.sin(angle), 0 * angle])[None]
        loss = mj.sphereface_loss(row, np.array([0]), np.eye(3)[::2], margin=margin)
        return -jnp.log(jnp.expm1(loss))

    values = jax.vmap(own_logit)(np.radians(angles))
    assert_close(values[0], 1.0, 1e-10)
    assert_close(values[-1], 1.0 - 2 * margin, 1e-10)
    steps = np.diff(values)
    assert (steps < 1e-12).all()
    assert np.abs(steps).max() < margin * math.pi / 720 + 1e-6


def test_the_loss_of_a_certain_row_keeps_its_digits():
    """log(1 + exp(-50)), which float32 would round to 0 as a difference of logarithms."""
    found = mj.instance_loss(np.float32([[60.0, 10.0]]), np.array([0]), np.eye(2, dtype=np.float32))
    np.testing.assert_allclose(found, math.exp(-50), rtol=1e-5)


@pytest.mark.parametrize("gap", [1000.0, -1000.0])
def test_gaps_of_a_thousand(gap):
    rows, proxies = np.float32([[gap, 0.0]]), np.eye(2, dtype=np.float32)
    with jax.debug_nans(True):
        value, gradient = jax.value_and_grad(mj.instance_loss)(rows, np.array([0]), proxies)
    np.testing.assert_allclose(value, max(-gap, 0.0))
    np.testing.assert_allclose(gradient, [[-1, 1]] if gap < 0 else [[0, 0]])
    found = mj.normalized_softmax_loss(rows, np.array([0]), proxies, temperature=1e-3)
    np.testing.assert_allclose(found, max(-gap, 0.0), rtol=1e-6)


def test_proxy_anchor_counts_a_proxy_without_rows_in_its_second_part_only(x64):
    rows, labels = at(0, 90), np.array([0, 0])
    proxies = np.concatenate([AXES, -AXES])
    pull = math.log1p(math.exp(-0.9) + math.exp(0.1))
    pushes = [math.log1p(math.exp(c + 0.1) + math.exp(0.1)) for c in (1, -1, -1)]
    found = mj.proxy_anchor_loss(rows, labels, proxies, scale=1.0)
    assert_close(found, pull + sum(pushes) / 4, 1e-12)
    values = mj.proxy_anchor_loss(rows, labels, proxies, scale=1.0, reduction="none")
    assert_close(values, [pull, *pushes], 1e-12)


def test_only_the_own_center_moves():
    gradient = jax.grad(mj.center_loss, argnums=2)(
        at(30).astype(np.float32), np.array([1]), jnp.asarray(AXES)
    )
    np.testing.assert_array_equal(gradient[0], 0)
    assert np.abs(gradient[1]).max() > 0


def test_nan_in_a_center_that_no_row_has_is_not_looked_at():
    centers = np.float32([[1, 0], [np.nan, 0]])
    assert np.isfinite(mj.center_loss(at(30), np.array([0]), centers))
    assert np.isnan(mj.center_loss(at(30), np.array([1]), centers))


# Options.


@pytest.mark.parametrize(
    ("loss", "name", "value", "message"),
    [
        (mj.normalized_softmax_loss, "temperature", 0.0, "positive"),
        (mj.arcface_loss, "margin", 28.6, r"in \[0, 3.14159\]"),
        (mj.arcface_loss, "margin", -0.1, r"in \[0, 3.14159\]"),
        (mj.cosface_loss, "margin", 2.5, r"in \[0, 2\]"),
        (mj.cosface_loss, "scale", -1.0, "positive"),
        (mj.subcenter_arcface_loss, "margin", 4.0, r"in \[0, 3.14159\]"),
        (mj.sphereface_loss, "margin", 0, "at least 1"),
        (mj.large_margin_softmax_loss, "margin", 0, "at least 1"),
        (mj.proxy_nca_loss, "scale", 0.0, "positive"),
        (mj.proxy_nca_pp_loss, "temperature", -1.0, "positive"),
        (mj.proxy_anchor_loss, "margin", 3.0, r"in \[0, 2\]"),
        (mj.soft_triple_loss, "tau", -0.1, "at least 0"),
    ],
)
def test_a_hyperparameter_out_of_its_range_is_named(loss, name, value, message):
    with pytest.raises(ValueError, match=f"{name} must be {message}"):
        loss(at(30), np.array([0]), AXES, **{name: value})


@pytest.mark.parametrize("loss", [mj.sphereface_loss, mj.large_margin_softmax_loss])
def test_a_multiple_of_an_angle_is_an_integer(loss):
    with pytest.raises(TypeError, match=r"margin multiplies an angle and must be an integer, got 2\.5"):
        loss(at(30), np.array([0]), AXES, margin=2.5)
    assert_close(
        loss(at(30), np.array([0]), AXES, margin=np.int64(2)),
        loss(at(30), np.array([0]), AXES, margin=2),
        1e-7,
    )


def test_hyperparameters_may_be_learned(x64):
    rows, proxies = random_rows().astype(np.float64), np.random.default_rng(0).normal(size=(4, 3))
    for loss in (mj.arcface_loss, mj.cosface_loss, mj.proxy_anchor_loss):

        def value(margin, scale, loss=loss):
            return loss(rows, LABELS, proxies, margin=margin, scale=scale)

        for i, slope in enumerate(jax.grad(value, argnums=(0, 1))(0.3, 4.0)):
            step = np.eye(2)[i] * 1e-5
            above, below = (value(*(np.array([0.3, 4.0]) + sign * step)) for sign in (1, -1))
            assert_close(slope, (above - below) / 2e-5, 1e-7)
