"""What counts and what does not: N5 anchors without a triplet, N6 no active term, N7 masked rows, N11 very many terms.

Each is a fault seen in another library.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import LOSSES, MINERS
from subjects import DIM, LABELS, N
from suite import (
    AS_SHIPPED,
    assert_close,
    every,
    every_core_loss,
    every_loss,
    every_loss_and_measure,
    every_loss_of_references,
    every_reduction,
    every_triplet_loss,
    random_rows,
    value_and_gradient,
    with_references,
)

import metric_jax as mj
from metric_jax.sums import log_sum_exp

# N5: anchors without a positive or without a negative.

nothing_valid = pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 0], [0]], ids=str)


@nothing_valid
@every_triplet_loss
def test_N5_nothing_valid(loss, labels):
    value, gradient = value_and_gradient(loss)(random_rows(n=len(labels)), np.array(labels))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@every_reduction
@every_triplet_loss
def test_N5_nothing_valid_under_any_reduction(loss, reduction):
    value = loss(random_rows(n=4), np.arange(4), reduction=reduction)
    np.testing.assert_array_equal(value, np.zeros(4) if reduction == "none" else 0)


ONE_CLASS, FIRST = np.zeros(N, int), np.arange(N) == 0


@pytest.mark.parametrize("lacking", ["positive", "negative", "both"])
@every("loss", [loss for loss in LOSSES if loss.proxies is None])  # a proxy is there for every row
def test_N5_no_positive_no_negative_a_single_row(loss, lacking):
    """Batches of one compilation: all rows of their own class, all of one, and a single row."""
    rows, where = random_rows(), FIRST if lacking == "both" else np.ones(N, bool)
    labels = ONE_CLASS if lacking == "negative" else np.arange(N)
    value, gradient = value_and_gradient(loss)(rows, labels, where)
    assert_close(value, loss.expected(rows[where], labels[where]), 1e-5)
    assert np.isfinite(gradient).all()
    if loss.needs and (loss.needs == "both" or lacking in (loss.needs, "both")):
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


def test_N5_a_sum_of_nothing_passes_who_looks_for_nan():
    """A NaN on the way back that no gradient shows would stop a user who debugs with `jax.debug_nans`."""
    with jax.debug_nans(True):
        gradient = jax.grad(lambda x: jax.nn.softplus(log_sum_exp(x, np.zeros(3, bool))))(jnp.ones(3))
    np.testing.assert_array_equal(gradient, 0)


def test_N5_a_single_row_has_no_pair():
    value, gradient = jax.value_and_grad(mj.batch_contrastive_loss)(random_rows(n=1), np.array([0]))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@nothing_valid
@every("miner", [miner for miner in MINERS if miner.needs == "both"])
def test_N5_nothing_to_mine(miner, labels):
    for column in miner(random_rows(n=len(labels)), np.array(labels)):
        np.testing.assert_array_equal(column, 0)


@every_reduction
@every_core_loss
def test_N5_an_anchor_alone_in_its_class_does_not_count(loss, reduction):
    batch, labels = np.array([[0.0], [0.5], [0.75]], np.float32), np.array([0, 0, 1])
    value = loss(batch, labels, reduction=reduction)
    assert_close(value, loss.expected(batch, labels, reduction=reduction), 1e-6)


def test_N5_mean_over_the_two_valid_anchors():
    batch = jnp.array([[0.0], [0.5], [0.75]])
    # anchors: 0.5 - 0.75 + 0.5 = 0.25, and 0.5 - 0.25 + 0.5 = 0.75
    np.testing.assert_allclose(mj.batch_hard_triplet_loss(batch, jnp.array([0, 0, 1]), margin=0.5), 0.5)


# N6: a mean over active terms when none is.


@every_reduction
@every_triplet_loss
def test_N6_separated_classes_cost_nothing(loss, reduction):
    batch = (random_rows() / 100 + 10 * LABELS[:, None]).astype(np.float32)
    value, gradient = jax.value_and_grad(lambda e: jnp.sum(loss(e, LABELS, reduction=reduction)))(batch)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@every_reduction
def test_N6_separated_points_cost_nothing(reduction):
    batch = jnp.asarray(10.0 * np.tile(LABELS[:, None], DIM))
    value = mj.batch_contrastive_loss(batch, LABELS, reduction=reduction)
    np.testing.assert_array_equal(value, np.zeros(N) if reduction == "none" else 0)


# N7: inf * 0 in masks.


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
@every_loss_and_measure
def test_N7_masked_rows_change_nothing(loss, distance, junk):
    where = np.arange(N) != 5
    batch = random_rows()
    expected = loss.expected(batch[where], LABELS[where], distance=distance)
    _, gradient = value_and_gradient(loss, distance)(batch, LABELS, where)
    batch[5] = junk
    masked_value, masked_gradient = value_and_gradient(loss, distance)(batch, LABELS, where)
    assert_close(masked_value, expected, 1e-5)
    np.testing.assert_array_equal(masked_gradient, gradient)
    np.testing.assert_array_equal(masked_gradient[5], 0)


@every_loss_of_references
def test_N7_masked_references_change_nothing(loss):
    memory, memory_labels = random_rows(1), np.roll(LABELS, 3)
    keep = np.arange(N) % 3 != 1
    options = {"references": memory[keep], "reference_labels": memory_labels[keep], "reduction": "sum"}
    expected = loss.expected(random_rows(), LABELS, **options)
    step = with_references(loss)
    _, gradients = step(random_rows(), LABELS, memory, memory_labels, keep)
    memory[~keep] = np.nan
    value, masked_gradients = step(random_rows(), LABELS, memory, memory_labels, keep)
    assert_close(value, expected, 1e-5)
    jax.tree.map(np.testing.assert_array_equal, masked_gradients, gradients)
    np.testing.assert_array_equal(masked_gradients[1][~keep], 0)


@every_loss
def test_N7_nothing_left(loss):
    batch = np.full((N, DIM), np.nan, np.float32)
    value, gradient = value_and_gradient(loss)(batch, LABELS, np.zeros(N, bool))
    assert_close(value, loss.expected(batch[:0], LABELS[:0]), 1e-6)
    np.testing.assert_array_equal(gradient, 0)


# N11: counts of the order of batch³.


def test_N11_two_billion_triplets_are_counted():
    n = 2050  # 2 * 1025 anchors, each with 1024 positives and 1025 negatives: more than 2³¹ triplets, of loss 1
    batch, labels = np.zeros((n, 1), np.float32), np.arange(n) % 2

    def found(batch, labels):
        loss = functools.partial(mj.batch_all_triplet_loss, batch, labels, margin=1.0)
        return [loss(reduction=reduction) for reduction in ("sum", "mean", "mean_active")]

    values = jax.jit(found, compiler_options=AS_SHIPPED)(batch, labels)
    assert [float(value) for value in values] == [2_151_680_000, 1, 1]
