"""What a config names is what it gets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metric_jax as mj
from metric_jax.training import RunError, choices

ROWS = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)
LABELS = jnp.array([0, 0, 1, 1, 2, 2])


def test_every_batch_loss_has_its_public_name():
    found = choices.batch_losses()
    assert set(found) == {name for name in vars(mj) if name.startswith("batch_") and name.endswith("_loss")}
    assert all(found[name] is getattr(mj, name) for name in found)


def test_every_distance_has_its_name():
    names = ("euclidean", "squared_euclidean", "manhattan", "cosine")
    assert {name: getattr(mj, name) for name in names} == choices.DISTANCES


@pytest.mark.parametrize("name", choices.batch_losses())
def test_a_loss_gets_its_options(name):
    bound = choices.loss(name, distance=mj.manhattan, margin=0.7, reduction="sum")
    expected = getattr(mj, name)(ROWS, LABELS, distance=mj.manhattan, margin=0.7, reduction="sum")
    assert bound(ROWS, LABELS) == expected


def test_a_penalty_is_chosen_by_name():
    bound = choices.loss("batch_hard_triplet_loss", distance=mj.euclidean, margin=0.0, penalty="softplus")
    expected = mj.batch_hard_triplet_loss(ROWS, LABELS, margin=0.0, penalty=jax.nn.softplus)
    assert bound(ROWS, LABELS) == expected
    with pytest.raises(RunError, match="batch_contrastive_loss has no penalty"):
        choices.loss("batch_contrastive_loss", distance=mj.euclidean, margin=1.0, penalty="softplus")


def test_a_loss_must_leave_a_scalar():
    with pytest.raises(RunError, match="'none' leaves no scalar"):
        choices.loss("batch_hard_triplet_loss", distance=mj.euclidean, margin=0.2, reduction="none")


@pytest.mark.parametrize(
    ("name", "warmup", "expected"),
    [
        ("constant", 0, [2.0, 2.0, 2.0, 2.0, 2.0]),
        ("constant", 2, [0.0, 1.0, 2.0, 2.0, 2.0]),
        ("cosine", 0, [2.0, 1 + np.sqrt(0.5), 1.0, 1 - np.sqrt(0.5), 0.0]),
        ("cosine", 2, [0.0, 1.0, 2.0, 1.0, 0.0]),
    ],
)
def test_schedule(name, warmup, expected):
    schedule = choices.schedule(name, learning_rate=2.0, warmup=warmup, steps=4)
    np.testing.assert_allclose([schedule(step) for step in range(5)], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adam", [-0.1, -0.1]),  # the sign of the gradient
        ("adamw", [-0.1 - 0.1 * 0.5 * 2.0, -0.1]),  # and a tenth of half of the parameter
        ("sgd", [-0.3, -0.1]),
    ],
)
def test_first_update_of_an_optimizer(name, expected):
    decay = 0.5 if name == "adamw" else 0.0
    optimizer = choices.optimizer(name, lambda step: 0.1, weight_decay=decay)
    params, gradient = jnp.array([2.0, 0.0]), jnp.array([3.0, 1.0])
    update, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(update, expected, rtol=1e-5)


def test_sgd_has_momentum():
    optimizer = choices.optimizer("sgd", lambda step: 1.0)
    params = state = jnp.zeros(1)
    state = optimizer.init(params)
    for expected in (-1.0, -1.9, -2.71):
        update, state = optimizer.update(jnp.ones(1), state, params)
        np.testing.assert_allclose(update, expected, rtol=1e-6)


def test_a_model_gets_its_options():
    model = choices.model("convnet", (8, 8, 1), key=jax.random.key(0), width=4, dim=5, blocks=1)
    assert model(jnp.zeros((2, 8, 8, 1))).shape == (2, 5)
    with pytest.raises(RunError, match=r"'convnet' refuses its options.*depth"):
        choices.model("convnet", (8, 8, 1), key=jax.random.key(0), depth=3)
