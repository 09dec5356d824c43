"""A collapse is told once, with what helps, and what it says helps does; a run that is well hears nothing."""

import math
import re

import numpy as np
import pytest
from small_run import config, lines

import metric_jax as mj
from metric_jax.training import RunError, choices, collapse, loop
from metric_jax.training.collapse import Watch

LABELS = np.repeat(np.arange(5), 4)
WELL = {
    "loss": 0.21,
    "spread": 1.0,
    "collapsed": False,
    "positive_mean": 0.9,
    "positive_q10": 0.5,
    "negative_mean": 1.4,
    "negative_q90": 1.8,
}
POINT = {**WELL, "loss": 0.2, "spread": 0.004, "collapsed": True}
SHORT = {**WELL, "spread": 0.09}
EQUAL = {**WELL, "positive_q10": 1.38, "negative_q90": 1.44}
FAR = {**SHORT, "loss": 0.23}


def told(seen, **options):
    """What a watch says of [(step, metrics), ...], as (step, whether collapsed)."""
    watch = Watch(**{"one_point": (0.2, 0.2), "margin": 0.2, "remedies": "this", **options})
    said = [(step, watch.see(step, metrics)) for step, metrics in seen]
    return [(step, "has collapsed (" in text) for step, text in said if text]


def every(steps, *metrics):
    return [(steps * (count + 1), each) for count, each in enumerate(metrics)]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("batch_hard_triplet_loss", {}, 0.2),
        ("batch_hard_triplet_loss", {"margin": 0.7}, 0.7),
        ("batch_hard_triplet_loss", {"margin": 0.7, "penalty": "softplus"}, math.log1p(math.exp(0.7))),
        ("batch_hard_triplet_loss", {"margin": 0.0, "penalty": "softplus"}, math.log(2)),
        ("batch_semi_hard_triplet_loss", {"margin": 0.7}, 0.7),
        ("batch_all_triplet_loss", {"margin": 0.7, "reduction": "sum"}, 0.7 * 20 * 3 * 16),
        ("supcon_loss", {}, math.log(19)),
        ("supcon_loss", {"trainable": ("temperature",), "temperature": 0.5}, math.log(19)),
        ("batch_contrastive_loss", {"trainable": ("margin",), "margin": 2.0}, 4 * 16 / 19),
        ("proxy_anchor_loss", {}, math.nan),
    ],
)
def test_what_a_loss_is_of_one_point(name, options, expected):
    found = choices.loss(name, **options).of_one_point(LABELS, dim=7)
    assert found == pytest.approx((expected, expected), rel=1e-5, nan_ok=True)


def test_the_first_steps_have_a_value_of_their_own():
    warm = choices.loss("arcface_loss", before="supcon_loss", before_steps=9)
    assert warm.of_one_point(LABELS, dim=7) == pytest.approx((math.log(19), math.nan), nan_ok=True)
    assert told(every(50, *[SHORT] * 3), one_point=(0.2, 9.0), before_steps=150) == [(150, True)]
    assert told(every(50, *[SHORT] * 3), one_point=(0.2, 9.0), before_steps=149) == []
    assert told(every(50, *[SHORT] * 3), one_point=(9.0, 0.2), before_steps=49) == [(150, True)]


@pytest.mark.parametrize("bad", [POINT, SHORT, EQUAL], ids=["point", "short", "equal"])
def test_a_collapse_is_told_once_and_again_after_a_recovery(bad):
    seen = every(50, WELL, bad, WELL, bad, bad, bad, bad, bad, WELL, bad, WELL, WELL, WELL, bad, bad, bad)
    assert told(seen) == [(300, True), (650, False), (800, True)]


@pytest.mark.parametrize("fine", [WELL, FAR, {**EQUAL, "loss": 0.15}], ids=["spread", "short", "equal"])
def test_a_loss_near_the_margin_or_short_or_equal_distances_alone_are_no_collapse(fine):
    assert told(every(50, *[fine] * 9)) == []


def test_nothing_is_told_at_the_very_start():
    assert told(every(1, *[POINT] * 40)) == [(31, True)]
    assert told(every(10, *[POINT] * 9)) == [(40, True)]
    assert told(every(50, *[POINT] * 9)) == [(150, True)]
    assert told(every(50, *[POINT] * 9), quiet_steps=200) == [(350, True)]


def test_a_loss_of_unknown_value_is_judged_by_the_spread():
    unknown = {"one_point": (math.nan, math.nan)}
    assert told(every(50, *[SHORT] * 9), **unknown) == []
    assert told(every(50, *[POINT] * 9), **unknown) == [(150, True)]
    watch = Watch(**unknown, margin=0.2, remedies="this")
    assert "nan" not in [watch.see(*each) for each in every(50, *[POINT] * 3)][-1]


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_watch_goes_on_where_another_stopped(cut):
    seen = every(50, POINT, POINT, POINT, POINT, WELL, WELL, WELL, POINT)
    watches = [Watch((0.2, 0.2), margin=0.2, remedies="this") for _ in range(2)]
    said = [watches[0].see(*each) for each in seen[:cut]]
    watches[1].resume(watches[0].notes())
    said += [watches[1].see(*each) for each in seen[cut:]]
    assert [step for (step, _), text in zip(seen, said, strict=True) if text] == [150, 350]


def test_the_message_says_what_was_seen_and_what_to_try():
    watch = Watch((0.2, 0.2), margin=0.2, remedies="this or that")
    assert [watch.see(*each) for each in every(50, *[POINT] * 3)][-1] == (
        "the run has collapsed (loss 0.2, and 0.2 if all embeddings were one point; spread 0.004; mean distance 0.9 "
        "within classes, 1.4 between them). Try this or that"
    )


def advised(**changes):
    """The keys with values that the advice for a config names."""
    wanted = config(**changes)
    watch = loop._watch(wanted, loop._plan(wanted))
    return dict(re.findall(r"(\w+\.\w+)=([\w.]*\w)", watch._remedies))


def test_only_what_is_not_done_already_is_advised():
    semi_hard = {"loss.before": collapse.SEMI_HARD, "loss.before_steps": "2"}
    slower, free = {"optimizer.learning_rate": "0.0001"}, {"model.normalise": "False"}
    assert advised() == semi_hard | free | slower
    assert advised(loss__name=collapse.SEMI_HARD) == free | slower
    assert advised(loss__before=collapse.SEMI_HARD, loss__before_steps=3) == free | slower
    assert advised(model__norm="group") == semi_hard | {"model.norm": "batch"} | free | slower
    assert advised(model__normalise=False, optimizer__learning_rate=0.1) == semi_hard | {
        "optimizer.learning_rate": "0.01"
    }
    assert advised(loss__name="supcon_loss") == semi_hard | slower
    no_neck = advised(model__name="resnet18", model__width=None, model__blocks=None, model__neck=False)
    assert no_neck["model.neck"] == "True"


def test_what_is_advised_can_be_done():
    values = {"True": True, "False": False}
    for key, value in advised(model__norm="group").items():
        given = values.get(value, float(value) if value[0].isdigit() else value)
        given = int(given) if key == "loss.before_steps" else given
        changes = {"model__norm": "group", key.replace(".", "__"): given}
        if key.startswith("loss.before"):
            changes |= {"loss__before": collapse.SEMI_HARD, "loss__before_steps": 2}
        loop._plan(config(**changes))


@pytest.mark.parametrize("steps", [12, 13])
def test_first_steps_that_are_all_steps_are_refused(steps):
    wanted = config(loss__before=collapse.SEMI_HARD, loss__before_steps=steps)
    expected = rf"loss\.before_steps={steps} leaves none of steps=12 to batch_hard_triplet_loss"
    with pytest.raises(RunError, match=expected):
        mj.training.loop.check(wanted)


# Without a BatchNorm, at a high learning rate and with the hardest negatives, embeddings become one point.
COLLAPSING = {
    "steps": 60,
    "log_every": 5,
    "eval_every": 60,
    "checkpoint_every": 60,
    "batch__classes": 8,
    "model__norm": "group",
    "loss__margin": 0.5,
    "augment__rotate": 0.0,
    "augment__scale": 0.0,
    "augment__shear": 0.0,
    "augment__translate": 0.0,
    "loss__name": "batch_hard_triplet_loss",
    "optimizer__learning_rate": 0.01,
}


@pytest.fixture
def runs(tmp_path, monkeypatch, capsys):
    """(what a run says of its collapse, its last logged line), on one device, for speed."""
    one = loop.devices.mesh(1)
    monkeypatch.setattr(loop.devices, "mesh", lambda batch_size: one)

    def run(**changes):
        mj.training.train_and_evaluate(config(**{**COLLAPSING, **changes}), str(tmp_path))
        said = [line for line in capsys.readouterr().err.splitlines() if "collapse" in line]
        return said, lines(tmp_path)[-1]

    return run


def test_a_run_that_collapses_says_so_once(runs):
    said, last = runs()
    assert len(said) == 1
    assert re.match(r"step \d\d: the run has collapsed \(loss 0\.5", said[0])
    assert "loss.before=batch_semi_hard_triplet_loss, loss.before_steps=12" in said[0]
    assert last["spread"] < 0.1
    assert last["active_fraction"] == 1


def test_semi_hard_negatives_at_first_cure_it(runs):
    said, last = runs(loss__before="batch_semi_hard_triplet_loss", loss__before_steps=30)
    assert said == []
    assert last["spread"] > 0.3


def test_a_run_that_is_well_says_nothing(runs):
    said, last = runs(model__norm="batch")
    assert said == []
    assert last["spread"] > 0.9
