"""What a config names is what it gets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metric_jax as mj
from configs import base
from metric_jax.training import RunError, choices

ROWS = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)
LABELS = jnp.array([0, 0, 1, 1, 2, 2])


DISTANCE_LOSSES, SIMILARITY_LOSSES = (
    [name for name in choices.batch_losses() if kind in choices.hyperparameters(name)]
    for kind in ("distance", "similarity")
)


def test_every_batch_loss_has_its_public_name():
    found = choices.batch_losses()
    assert {"batch_contrastive_loss", "batch_hard_triplet_loss", "batch_semi_hard_triplet_loss"} <= set(found)
    assert {"supcon_loss", "nca_loss"} <= set(found)
    assert not {"vicreg_loss", "koleo_loss", "triplet_loss"} & set(found)
    assert all(found[name] is getattr(mj, name) for name in found)


def test_every_distance_has_its_name():
    assert all(getattr(mj, name) is value for name, value in choices.DISTANCES.items())
    assert all(getattr(mj, name) is value for name, value in choices.SIMILARITIES.items())
    assert {"euclidean", "squared_euclidean", "manhattan", "cosine"} <= set(choices.DISTANCES)
    assert {"cosine_similarity", "dot_product"} <= set(choices.SIMILARITIES)


@pytest.mark.parametrize("name", choices.batch_losses())
def test_a_loss_that_is_given_nothing_keeps_its_defaults(name):
    nothing = dict.fromkeys(base.get_config().loss)
    bound = choices.loss(**{**nothing, "name": name, "reduction": "sum"})
    assert bound(ROWS, LABELS) == getattr(mj, name)(ROWS, LABELS, reduction="sum")


@pytest.mark.parametrize("name", DISTANCE_LOSSES)
def test_a_loss_gets_its_distance(name):
    bound = choices.loss(name, distance="manhattan")
    assert bound(ROWS, LABELS) == getattr(mj, name)(ROWS, LABELS, distance=mj.manhattan)
    with pytest.raises(RunError, match=f"{name} has no similarity to choose.*it has .*distance"):
        choices.loss(name, similarity="cosine_similarity")


@pytest.mark.parametrize("name", SIMILARITY_LOSSES)
def test_a_loss_gets_its_similarity(name):
    bound = choices.loss(name, similarity="dot_product", distance="manhattan")
    assert bound(ROWS, LABELS) == getattr(mj, name)(ROWS, LABELS, similarity=mj.dot_product)


@pytest.mark.parametrize("name", choices.batch_losses())
def test_every_hyperparameter_is_a_key_of_the_config(name):
    keys = base.get_config().loss
    for key, default in choices.hyperparameters(name).items():
        if callable(default) and key not in choices.NAMED:
            continue  # a function, which a config cannot hold
        assert key in keys, f"configs/base.py: loss.{key} of {name}"
        if key not in choices.NAMED:
            keys[key] = default  # which raises if the key is of another type


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("batch_contrastive_loss", {"margin": 0.7}),
        ("supcon_loss", {"temperature": 0.5}),
        ("multi_similarity_loss", {"alpha": 1.0, "beta": 20.0}),
    ],
)
def test_a_loss_gets_its_hyperparameters(name, own):
    bound = choices.loss(name, **own)
    assert bound(ROWS, LABELS) == getattr(mj, name)(ROWS, LABELS, **own)
    assert bound(ROWS, LABELS) != getattr(mj, name)(ROWS, LABELS)


def test_a_penalty_is_chosen_by_name():
    bound = choices.loss("batch_hard_triplet_loss", margin=0.0, penalty="softplus")
    expected = mj.batch_hard_triplet_loss(ROWS, LABELS, margin=0.0, penalty=jax.nn.softplus)
    assert bound(ROWS, LABELS) == expected


@pytest.mark.parametrize(
    ("name", "own", "message"),
    [
        (
            "batch_contrastive_loss",
            {"penalty": "softplus"},
            "has no penalty to choose.*it has margin, .*distance",
        ),
        (
            "batch_hard_triplet_loss",
            {"temperature": 0.1},
            "has no temperature to choose.*it has margin, .*distance",
        ),
        ("supcon_loss", {"temperature": 0.0}, "refuses its options.*temperature must be positive"),
        (
            "supcon_loss",
            {"similarity": "cosine"},
            "loss.similarity 'cosine', did you mean 'cosine_similarity'",
        ),
        ("supcom_loss", {}, "loss.name 'supcom_loss', did you mean 'supcon_loss'"),
        ("batch_hard_triplet_loss", {"reduction": "none"}, "'none' leaves no scalar"),
    ],
)
def test_what_a_loss_does_not_have_is_named(name, own, message):
    with pytest.raises(RunError, match=message):
        choices.loss(name, **own)


@pytest.mark.parametrize(
    ("given", "loss", "expected"),
    [
        (None, "batch_hard_triplet_loss", mj.euclidean),
        ("manhattan", "batch_hard_triplet_loss", mj.manhattan),
        (None, "nca_loss", mj.squared_euclidean),
        (None, "supcon_loss", mj.cosine),
        ("euclidean", "supcon_loss", mj.euclidean),
        (None, "npairs_loss", mj.euclidean),  # of dot products, which no distance orders alike
    ],
)
def test_distance_of_the_evaluation(given, loss, expected):
    assert choices.distance(given, loss=loss) is expected


@pytest.mark.parametrize(
    ("given", "loss", "expected"),
    [
        (None, "batch_contrastive_loss", 1.0),
        (0.5, "batch_contrastive_loss", 0.5),
        (None, "circle_loss", 0.2),  # whose margin is one of similarities
        (None, "supcon_loss", 0.2),
    ],
)
def test_margin_of_the_diagnostics(given, loss, expected):
    assert choices.margin(given, loss=loss) == expected


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
