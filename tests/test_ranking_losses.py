"""Ranking losses: values by hand, true ranks at a low temperature, options and bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from subjects import LABELS
from suite import random_rows

import metric_jax as mj

# On a line, by negative distances: anchor 0 has the positives 1 and 3 at ranks 1 and 3 of 4.
ROWS = np.array([[0.0], [1.0], [2.0], [3.0], [4.0]], np.float32)
ROW_LABELS = np.array([0, 0, 1, 0, 2])
NEAR = mj.Distance(
    "near",
    between=lambda x, y: -jnp.sum(jnp.abs(x - y), axis=-1),
    against=lambda x, ys, precision: -jnp.sum(jnp.abs(x[None] - ys), axis=-1),
    prepare=lambda rows, middle: rows,
    is_similarity=True,
)


def of_first(loss, **own):
    return loss(ROWS, ROW_LABELS, similarity=NEAR, reduction="none", **own)[0]


def test_smooth_ap_at_a_low_temperature_is_average_precision():
    np.testing.assert_allclose(of_first(mj.smooth_ap_loss), 1 - (1 / 1 + 2 / 3) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("ks", "recall"), [((1,), 1.0), ((2,), 0.5), ((3,), 1.0), ((4,), 1.0), ((2, 3), 0.75)]
)
def test_recall_at_low_temperatures_is_recall(ks, recall):
    """Half a rank further on, since a positive at rank k stands on the step itself."""
    own = {"ks": ks, "rank_temperature": 0.01, "similarity_temperature": 0.01}
    lists = functools.partial(of_first, mj.recall_at_k_loss)
    on_step = lists(**own)
    half = sum(0.5 / min(k, 2) for k in ks if k in (1, 3)) / len(ks)
    np.testing.assert_allclose(on_step, 1 - recall + half, rtol=1e-5)


COSTS = {"O": 0.5, "Iu": np.log(2.0), "Ib": (2 - np.log(3)) / 8, "Ds": np.log(2) / 2, "Dq": 0.25}


@pytest.mark.parametrize("variant", COSTS)
def test_pnp_at_a_low_temperature_counts_negatives(variant):
    """One negative, 2, stands before the positive 3, and none before 1."""
    np.testing.assert_allclose(of_first(mj.pnp_loss, variant=variant), COSTS[variant], rtol=1e-5)


def test_pnp_does_not_see_the_order_of_positives():
    rows = jnp.array([[0.0], [1.0], [1.5], [2.0]])
    slope = jax.grad(
        lambda rows: mj.pnp_loss(rows, np.array([0, 0, 0, 1]), similarity=NEAR, reduction="none")[0]
    )(rows)
    np.testing.assert_allclose(slope, 0, atol=1e-6)


LOSSES = [mj.fastap_loss, mj.smooth_ap_loss, mj.recall_at_k_loss, mj.pnp_loss]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


@pytest.mark.parametrize(
    "loss", [mj.fastap_loss, mj.smooth_ap_loss, mj.pnp_loss], ids=lambda loss: loss.__name__
)
def test_a_perfect_ranking_costs_nothing(loss):
    rows = np.eye(4, dtype=np.float32)[np.array([0, 1, 1, 2, 0, 0])]
    np.testing.assert_allclose(loss(rows, np.array([0, 1, 1, 2, 0, 0])), 0, atol=1e-6)


@every_loss
def test_classes_of_any_sizes_may_be_permuted(loss):
    order = np.random.default_rng(0).permutation(len(LABELS))
    value = loss(random_rows(), LABELS)
    assert value > 0
    np.testing.assert_allclose(loss(random_rows()[order], LABELS[order]), value, rtol=1e-5)


@every_loss
def test_a_gradient_step_improves_the_ranking(loss):
    temperatures = {
        mj.smooth_ap_loss: {"temperature": 0.1},
        mj.pnp_loss: {"temperature": 0.1},
        mj.recall_at_k_loss: {"similarity_temperature": 0.1},
    }
    value = functools.partial(loss, **temperatures.get(loss, {}))
    before, gradient = jax.value_and_grad(value)(random_rows(), LABELS)
    assert value(random_rows() - 0.02 * gradient / jnp.linalg.norm(gradient), LABELS) < before


# FastAP's histogram.


def test_fastap_counts_what_lies_beyond_the_last_center_there():
    options = {"bins": 4, "distance": mj.manhattan}
    clipped = mj.fastap_loss(ROWS, ROW_LABELS, largest=3.0, **options)
    assert clipped != mj.fastap_loss(ROWS, ROW_LABELS, largest=4.0, **options)
    moved = np.where(
        ROWS == 4.0, 1000.0, ROWS
    )  # more than 3 away from 0; from 1 and on less, but no positive is
    far = mj.fastap_loss(moved, ROW_LABELS, largest=3.0, reduction="none", **options)
    near = mj.fastap_loss(ROWS, ROW_LABELS, largest=3.0, reduction="none", **options)
    np.testing.assert_allclose(far[0], near[0], rtol=1e-6)


def test_fastap_of_many_bins_is_average_precision():
    value = mj.fastap_loss(ROWS, ROW_LABELS, bins=400, largest=4.0, distance=mj.manhattan, reduction="none")[
        0
    ]
    np.testing.assert_allclose(value, 1 - (1 / 1 + 2 / 3) / 2, rtol=1e-5)


# Bad input.


def test_bad_options_raise():
    with pytest.raises(ValueError, match="bins must be a positive integer"):
        mj.fastap_loss(ROWS, ROW_LABELS, bins=0)
    with pytest.raises(ValueError, match="largest must be positive"):
        mj.fastap_loss(ROWS, ROW_LABELS, largest=0.0)
    with pytest.raises(ValueError, match="variant must be one of O, Iu, Ib, Ds, Dq, got 'X'"):
        mj.pnp_loss(ROWS, ROW_LABELS, variant="X")
    for ks in ((), (0, 1)):
        with pytest.raises(ValueError, match="ks must be a"):
            mj.recall_at_k_loss(ROWS, ROW_LABELS, ks=ks)
    for loss, name in (
        (mj.smooth_ap_loss, "temperature"),
        (mj.pnp_loss, "alpha"),
        (mj.recall_at_k_loss, "rank_temperature"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be positive"):
            loss(ROWS, ROW_LABELS, **{name: -1.0})
