"""A loss and what it learns: where it starts, that it stays within limits, what its gradient is, what it is given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metric_jax as mj
from metric_jax.limits import NOT_NEGATIVE, POSITIVE, Limits
from metric_jax.training.objective import Learned, Objective

ROWS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
PAST = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
LABELS, PAST_LABELS = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 2, 2])
ANY, FRACTION = Limits(), Limits(0.0, 2.0)


@pytest.mark.parametrize(
    ("start", "limits"),
    [(0.07, POSITIVE), (3.0, NOT_NEGATIVE), (0.1, FRACTION), (1.9, FRACTION), (-4.0, ANY)],
)
def test_a_learned_number_starts_where_it_should_and_stays_within_its_limits(start, limits):
    learned = Learned(start, limits)
    assert float(learned.value(jnp.float32(learned.coordinate()))) == pytest.approx(start, rel=1e-6)
    for coordinate in (-20.0, -1.0, 0.0, 1.0, 15.0):
        assert limits.holds(learned.value(jnp.float32(coordinate)))


@pytest.mark.parametrize(
    ("start", "limits"), [(0.0, POSITIVE), (0.0, NOT_NEGATIVE), (2.0, FRACTION), (3.0, FRACTION)]
)
def test_a_number_cannot_be_learned_from_an_end_of_its_limits_on(start, limits):
    assert not np.isfinite(Learned(start, limits).coordinate())


def test_the_gradient_of_a_temperature_is_that_of_its_logarithm(x64):
    objective = Objective(loss=mj.supcon_loss, learned={"temperature": Learned(0.5, POSITIVE)})

    def at(coordinate):
        return objective(ROWS.astype(float), LABELS, {"temperature": coordinate}, step=0)

    def by_hand(coordinate):
        return float(mj.supcon_loss(ROWS.astype(float), LABELS, temperature=np.exp(coordinate)))

    start, h = np.log(0.5), 1e-6
    assert at(start) == by_hand(start)
    slope = (by_hand(start + h) - by_hand(start - h)) / (2 * h)
    assert jax.grad(at)(start) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize(("centers", "shape"), [((), (40, 64)), ((3,), (40, 3, 64))])
def test_proxies_start_with_a_length_of_about_1(centers, shape):
    params = Objective(loss=mj.arcface_loss, proxies=centers).init(jax.random.key(0), classes=40, dim=64)
    assert params["proxies"].shape == shape
    assert np.linalg.norm(params["proxies"], axis=-1).mean() == pytest.approx(1.0, abs=0.05)


def test_a_loss_that_learns_nothing_has_no_parameters():
    objective = Objective(loss=mj.supcon_loss)
    assert objective.init(jax.random.key(0), classes=3, dim=3) == {}
    assert not objective.learns
    assert Objective(loss=mj.arcface_loss, proxies=()).learns


def test_a_memory_is_compared_with_from_its_start_on():
    memory = mj.memory.push(mj.memory.create(9, 3), PAST, PAST_LABELS)
    objective = Objective(loss=mj.batch_all_triplet_loss, memory_start=4)
    alone = mj.batch_all_triplet_loss(ROWS, LABELS)
    past = {"references": PAST, "reference_labels": PAST_LABELS, "with_batch": True}
    together = mj.batch_all_triplet_loss(ROWS, LABELS, **past)
    for step, expected in ((3, alone), (4, together), (5, together)):
        np.testing.assert_allclose(
            objective(ROWS, LABELS, {}, step=jnp.int32(step), memory=memory), expected, rtol=1e-6
        )
    assert abs(alone - together) > 1e-3


def test_another_loss_comes_before():
    objective = Objective(loss=mj.supcon_loss, before=mj.nca_loss, before_steps=2)
    of_steps = [float(objective(ROWS, LABELS, {}, step=jnp.int32(step))) for step in range(4)]
    before, after = float(mj.nca_loss(ROWS, LABELS)), float(mj.supcon_loss(ROWS, LABELS))
    assert before != after
    assert of_steps == pytest.approx([before, before, after, after], rel=1e-6)
