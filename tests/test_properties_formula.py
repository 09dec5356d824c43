"""Every loss and miner is its formula: P1 its gradient, P4 what its distance does not see, P7 in float32 at least.

In float64, to 1e-10, which shows a wrong formula, and in float32, to 1e-5, which shows a wrong implementation.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from catalogue import LOSSES
from subjects import DIM, LABELS, N
from suite import (
    assert_close,
    assert_rounds_to,
    assert_same_triplets,
    every,
    every_loss,
    every_loss_and_measure,
    every_loss_with,
    every_miner,
    every_miner_in_its_precisions,
    mine,
    random_rows,
    value_and_gradient,
)

import metric_jax as mj

# P1: gradients.


@every_loss_and_measure
def test_P1_gradient(loss, distance, precision):
    batch = loss.batch(distance)
    value, gradient = value_and_gradient(loss, distance)(batch.astype(precision.dtype), LABELS)
    assert value.dtype == gradient.dtype == precision.dtype
    assert_close(value, loss.expected(batch, LABELS, distance=distance), precision.tolerance)
    assert_close(gradient, loss.expected_gradient(distance), max(precision.tolerance, 1e-8))


@every("loss", [loss for loss in LOSSES if loss.numbers])
def test_P1_gradient_to_every_number(loss, x64):
    """Margins, temperatures and the like are plain arguments: whoever wants to may learn them."""

    def value(numbers):
        return dataclasses.replace(loss, own={**loss.own, **numbers})(jnp.asarray(loss.batch()), LABELS)

    slopes, held = jax.jit(jax.grad(value))(loss.numbers), loss.held()
    for name, number in loss.numbers.items():

        def expected(number, name=name):
            own = {**loss.own, name: float(number)}
            return dataclasses.replace(held, own=own).expected(loss.batch(), LABELS)

        slope = references.central_differences(expected, np.array(number))
        np.testing.assert_allclose(slopes[name], slope, rtol=1e-7, atol=1e-9, err_msg=name)


# P4: what a distance does not see, its losses do not see.

SHIFT = np.array([16.0, -8.0, 32.0])
ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0]
LENGTHS = 2.0 ** np.arange(-3, N - 3)[:, None]
OF_POSITIONS = (mj.euclidean, mj.squared_euclidean, mj.manhattan)
OF_LENGTHS = (mj.cosine, mj.cosine_similarity)


def measures_in(*measures, losses=LOSSES):
    """Every core loss with each of these that is a distance, and every other with its own if it is among them."""
    distances = [measure for measure in measures if not measure.is_similarity]

    def own(loss):
        return [loss.measure] if loss.measure in measures else []

    return every_loss_with("distance", distances, own, losses, ["float64"])


@measures_in(*OF_POSITIONS)
def test_P4_translation(loss, distance, precision):
    batch = loss.batch(distance)
    value, gradient = value_and_gradient(loss, distance)(batch.astype(precision.dtype), LABELS)
    moved = value_and_gradient(loss.moved(lambda rows: rows + SHIFT), distance)
    moved_value, moved_gradient = moved((batch + SHIFT).astype(precision.dtype), LABELS)
    assert_close(moved_value, value, precision.tolerance)
    assert_close(moved_gradient, gradient, precision.tolerance)


@measures_in(mj.euclidean, mj.squared_euclidean, mj.cosine, mj.cosine_similarity, mj.dot_product)
def test_P4_rotation(loss, distance, precision):
    batch = loss.batch(distance)
    value, gradient = value_and_gradient(loss, distance)(batch.astype(precision.dtype), LABELS)
    turned = value_and_gradient(loss.moved(lambda rows: rows @ ROTATION), distance)
    turned_value, turned_gradient = turned((batch @ ROTATION).astype(precision.dtype), LABELS)
    assert_close(turned_value, value, precision.tolerance)
    assert_close(turned_gradient, gradient @ ROTATION, precision.tolerance)


@measures_in(*OF_POSITIONS, losses=[loss for loss in LOSSES if loss.proxies is None])
def test_P4_gradient_rows_sum_to_zero(loss, distance, precision):
    batch = loss.batch(distance).astype(precision.dtype)
    gradient = np.asarray(value_and_gradient(loss, distance)(batch, LABELS)[1])
    np.testing.assert_allclose(gradient.sum(axis=0), 0, atol=precision.tolerance * np.abs(gradient).max())


@measures_in(*OF_LENGTHS, losses=[loss for loss in LOSSES if not loss.sees_lengths])
def test_P4_cosine_does_not_see_lengths(loss, distance, precision):
    step, batch = value_and_gradient(loss, distance), loss.batch(distance)
    value, gradient = step(batch.astype(precision.dtype), LABELS)
    scaled_value, scaled_gradient = step((batch * LENGTHS).astype(precision.dtype), LABELS)
    assert_close(scaled_value, value, precision.tolerance)
    assert_close(scaled_gradient * LENGTHS, gradient, precision.tolerance)
    along = np.sum(gradient * batch, axis=1)  # a row moves along itself: only its direction should move
    np.testing.assert_allclose(along, 0, atol=precision.tolerance * np.abs(gradient).max())


ROWS = np.round(random_rows(5) * 1024) / 1024  # exact in float32 also after the shift


@pytest.mark.parametrize(
    "move", [lambda rows: rows + SHIFT, lambda rows: rows @ ROTATION], ids=["move", "turn"]
)
@every_miner_in_its_precisions
def test_P4_mining_moved_and_turned_rows(miner, move, precision):
    mined = mine(miner)(move(ROWS).astype(precision.dtype), LABELS, None)
    assert_same_triplets(mined, miner.expected(ROWS, LABELS))


@every_miner_in_its_precisions
def test_P4_mining_by_cosine_does_not_see_lengths(miner, precision):
    mined = mine(miner, mj.cosine)((ROWS * LENGTHS).astype(precision.dtype), LABELS, None)
    assert_same_triplets(mined, miner.expected(ROWS, LABELS, distance=mj.cosine))


# P7: half precision inputs.


@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16])
@every_loss
def test_P7_half_precision_is_computed_in_float32(loss, half):
    rows = jnp.asarray(loss.batch(), half)
    value, gradient = value_and_gradient(loss)(rows, LABELS)
    upcast_value, upcast_gradient = value_and_gradient(loss)(rows.astype(jnp.float32), LABELS)
    assert value.dtype == jnp.float32
    assert gradient.dtype == half
    assert_close(value, upcast_value, 1e-6)
    assert_close(value, loss.expected(rows, LABELS), 1e-5)
    assert_rounds_to(gradient, upcast_gradient, loss)


@every_miner
def test_P7_mining_half_precision(miner):
    rows = jnp.asarray(random_rows(8), jnp.bfloat16)
    assert_same_triplets(mine(miner)(rows, LABELS, None), miner.expected(rows, LABELS))
