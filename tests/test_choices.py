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
PROXIES = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)), jnp.float32)


def value(objective):
    return objective(ROWS, LABELS, {"proxies": PROXIES}, step=jnp.int32(0))


DISTANCE_LOSSES, SIMILARITY_LOSSES = (
    [name for name in choices.batch_losses() if kind in choices.hyperparameters(name)]
    for kind in ("distance", "similarity")
)


def test_every_batch_loss_has_its_public_name():
    found = choices.batch_losses()
    assert {"batch_contrastive_loss", "batch_hard_triplet_loss", "batch_semi_hard_triplet_loss"} <= set(found)
    assert {"supcon_loss", "nca_loss"} <= set(found)
    assert not {"vicreg_loss", "koleo_loss", "triplet_loss", "arcface_loss"} & set(found)
    assert all(found[name] is getattr(mj, name) for name in found)


def test_every_proxy_loss_has_its_public_name():
    found = choices.proxy_losses()
    assert {"proxy_anchor_loss", "arcface_loss", "soft_triple_loss", "center_loss"} <= set(found)
    assert not set(choices.batch_losses()) & set(found)
    assert all(found[name] is getattr(mj, name) for name in found)


def test_every_distance_has_its_name():
    assert all(getattr(mj, name) is value for name, value in choices.DISTANCES.items())
    assert all(getattr(mj, name) is value for name, value in choices.SIMILARITIES.items())
    assert {"euclidean", "squared_euclidean", "manhattan", "cosine"} <= set(choices.DISTANCES)
    assert {"cosine_similarity", "dot_product"} <= set(choices.SIMILARITIES)


@pytest.mark.parametrize("name", choices.batch_losses())
def test_a_loss_that_is_given_nothing_keeps_its_defaults(name):
    bound = choices.loss(**{**base.get_config().loss, "name": name, "reduction": "sum"})
    assert value(bound) == getattr(mj, name)(ROWS, LABELS, reduction="sum")


@pytest.mark.parametrize("name", choices.proxy_losses())
def test_a_proxy_loss_that_is_given_nothing_keeps_its_defaults(name):
    bound = choices.loss(name, centers=2 if getattr(mj, name).centers else None)
    params = bound.init(jax.random.key(0), classes=3, dim=3)
    assert bound(ROWS, LABELS, params, step=jnp.int32(0)) == getattr(mj, name)(
        ROWS, LABELS, params["proxies"]
    )


def test_a_proxy_loss_gets_its_options():
    bound = choices.loss("proxy_anchor_loss", margin=0.3, reduction="sum")
    assert value(bound) == mj.proxy_anchor_loss(ROWS, LABELS, PROXIES, margin=0.3, reduction="sum")
    assert choices.loss("sphereface_loss", margin=3.0).loss.keywords["margin"] == 3


@pytest.mark.parametrize("name", DISTANCE_LOSSES)
def test_a_loss_gets_its_distance(name):
    bound = choices.loss(name, distance="manhattan")
    assert value(bound) == getattr(mj, name)(ROWS, LABELS, distance=mj.manhattan)
    with pytest.raises(RunError, match=f"{name} has no similarity to choose.*it has .*distance"):
        choices.loss(name, similarity="cosine_similarity")


@pytest.mark.parametrize("name", SIMILARITY_LOSSES)
def test_a_loss_gets_its_similarity(name):
    bound = choices.loss(name, similarity="dot_product", distance="manhattan")
    assert value(bound) == getattr(mj, name)(ROWS, LABELS, similarity=mj.dot_product)


@pytest.mark.parametrize("name", [*choices.batch_losses(), *choices.proxy_losses()])
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
    assert value(bound) == getattr(mj, name)(ROWS, LABELS, **own)
    assert value(bound) != getattr(mj, name)(ROWS, LABELS)


def test_a_penalty_is_chosen_by_name():
    bound = choices.loss("batch_hard_triplet_loss", margin=0.0, penalty="softplus")
    expected = mj.batch_hard_triplet_loss(ROWS, LABELS, margin=0.0, penalty=jax.nn.softplus)
    assert value(bound) == expected


def test_numbers_are_learned_from_the_chosen_or_the_default_value_on():
    own = {"trainable": ("alpha", "base"), "alpha": 3.0}
    bound = choices.loss("multi_similarity_loss", **own)
    params = bound.init(jax.random.key(0), classes=3, dim=3)
    assert set(params) == {"alpha", "base"}
    assert bound.values(params) == pytest.approx({"alpha": 3.0, "base": 0.5})
    found = bound(ROWS, LABELS, params, step=jnp.int32(0))
    np.testing.assert_allclose(found, mj.multi_similarity_loss(ROWS, LABELS, alpha=3.0), rtol=1e-6)


def test_the_loss_before_takes_the_options_that_it_has():
    own = {"before": "batch_all_triplet_loss", "before_steps": 2, "distance": "manhattan", "swap": True}
    bound = choices.loss("batch_hard_triplet_loss", margin=0.5, **own)
    assert value(bound) == mj.batch_all_triplet_loss(ROWS, LABELS, margin=0.5, distance=mj.manhattan)


@pytest.mark.parametrize("name", choices.batch_losses())
def test_every_batch_loss_takes_a_memory(name):
    assert choices.loss(name, memory_size=5).proxies is None


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
        ("proxy_anchor_loss", {"memory_size": 9}, "proxies and not with a memory: set memory.size=0"),
        ("soft_triple_loss", {}, "several proxies for every class: say how many by loss.centers"),
        ("soft_triple_loss", {"centers": 0}, "loss.centers must be at least 1, got 0"),
        ("arcface_loss", {"centers": 3}, "no centers to choose: leave loss.centers alone"),
        ("supcon_loss", {"centers": 3}, "no centers to choose"),
        ("supcon_loss", {"trainable": ("margin",)}, "no number 'margin' to learn.*it has temperature"),
        ("histogram_loss", {"trainable": ("bins",)}, "no number 'bins' to learn.*it has none"),
        ("supcon_loss", {"trainable": ("temperature",), "temperature": -1.0}, "from -1.0 on.*positive"),
        ("batch_contrastive_loss", {"trainable": ("margin",), "margin": 0.0}, "from 0.0 on.*at least 0"),
        ("supcon_loss", {"before": "ntxent_loss"}, "loss.before_steps=0: set both or neither"),
        ("supcon_loss", {"before_steps": 3}, "loss.before='' and.*set both or neither"),
        ("supcon_loss", {"before": "arcface_loss", "before_steps": 3}, "loss.before 'arcface_loss'"),
        ("supcon_loss", {"before": "supcon_loss", "before_steps": 3}, "'supcon_loss' is loss.name itself"),
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
        (0.5, "arcface_loss", 0.2),  # an angle
        (None, "supcon_loss", 0.2),
    ],
)
def test_margin_of_the_diagnostics(given, loss, expected):
    assert choices.margin(given, loss=loss) == expected


def test_a_model_gets_its_options():
    model = choices.model("convnet", (8, 8, 1), key=jax.random.key(0), width=4, dim=5, blocks=1)
    assert model(jnp.zeros((2, 8, 8, 1))).shape == (2, 5)
    with pytest.raises(RunError, match=r"'convnet' refuses its options.*depth"):
        choices.model("convnet", (8, 8, 1), key=jax.random.key(0), depth=3)
