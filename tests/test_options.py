"""What a config says of training reaches what does it, and all of it together makes a run like any other."""

import inspect

import jax
import numpy as np
import pytest
from small_run import config

import metric_jax as mj
from metric_jax.training import devices, loop, open_run, reporter

ADAMW, SGD, PROXIES = (
    {"optimizer__name": "adamw"},
    {"optimizer__name": "sgd"},
    {"loss__name": "proxy_anchor_loss"},
)
# A key, its value, what takes it and as which argument, what else is set.
REACHED = [
    ("ema", 0.9, "make_train_step", {"ema": 0.9}, {}),
    ("ema", 0.9, "states.create", {"averages": True}, {}),
    ("eval_mirrored", True, "Evaluator", {"mirrored": True}, {}),
    ("eval_views", 3, "Evaluator", {"views": 3}, {"augment__rotate": 5.0}),
    ("batch__chunk", 2, "make_encoder", {"chunk": 2}, {"model__norm": "group"}),
    ("optimizer__freeze_statistics", True, "make_encoder", {"batch_statistics": False}, {}),
    ("optimizer__freeze", ("head",), "states.create", {"frozen": ("head",)}, {}),
    ("optimizer__clip", 2.0, "optimizers.optimizer", {"clip": 2.0}, {}),
    ("optimizer__momentum", 0.5, "optimizers.optimizer", {"momentum": 0.5}, SGD),
    ("optimizer__weight_decay", 0.1, "optimizers.optimizer", {"weight_decay": 0.1}, ADAMW),
    ("optimizer__loss_learning_rate", 0.1, "optimizers.optimizer", {"loss_factor": 100.0}, PROXIES),
    ("optimizer__warmup", 3, "optimizers.schedule", {"warmup": 3}, {}),
    ("optimizer__final", 0.1, "optimizers.schedule", {"final": 0.1}, {}),
    ("optimizer__drop", 0.2, "optimizers.schedule", {"drop": 0.2}, {}),
    ("optimizer__drops", (0.3,), "optimizers.schedule", {"drops": (0.3,)}, {}),
    ("memory__size", 32, "choices.loss", {"memory_size": 32}, {}),
    ("memory__start", 5, "choices.loss", {"memory_start": 5}, {}),
    ("devices__shard_params", True, "devices.layout", {"sharded": True}, {}),
]


class StoppedError(Exception):
    pass


@pytest.fixture
def built(monkeypatch, tmp_path):
    """``built(name, changes)``: (arguments, result) of what the loop calls by that name before the first step."""

    def build(name, changes):
        calls, (*folders, last) = [], name.split(".")
        home = loop
        for folder in folders:
            home = getattr(home, folder)
        called = getattr(home, last)

        def spy(*arguments, **options):
            result = called(*arguments, **options)
            calls.append((inspect.signature(called).bind(*arguments, **options).arguments, result))
            return result

        def stop(*_):
            raise StoppedError

        with monkeypatch.context() as patched:
            patched.setattr(home, last, spy)
            patched.setattr(loop.folders, "claim", stop)
            with pytest.raises(StoppedError):
                mj.training.train_and_evaluate(config(**changes), str(tmp_path))
        return calls[0]

    return build


@pytest.mark.parametrize(("key", "value", "spied", "expected", "besides"), REACHED, ids=lambda x: str(x)[:30])
def test_a_key_reaches_what_does_it(key, value, spied, expected, besides, built):
    given, _ = built(spied, {key: value, **besides})
    assert {name: given[name] for name in expected} == expected


def test_further_views_are_made_as_training_changes_images(built):
    changes = {"eval_views": 3, "augment__rotate": 5.0}
    found = [built(name, changes)[0]["augment"] for name in ("Evaluator", "make_train_step")]
    assert found[0] is found[1] or found[0].keywords == found[1].keywords
    assert found[0].keywords["rotate"] == 5.0


def test_proxies_and_memory_are_made_for_the_classes_and_the_dimension(built):
    _, (_, state) = built("states.create", {"loss__name": "soft_triple_loss", "loss__centers": 3})
    assert state.params["loss"]["proxies"].shape == (10, 3, 8)
    assert state.memory is None
    assert state.average is None
    _, (_, state) = built("states.create", {"memory__size": 32})
    assert state.params["loss"] == {}
    assert state.memory.embeddings.shape == (32, 8)


def test_classes_are_numbered_without_a_gap_for_proxies(monkeypatch, tmp_path):
    """Of the ten digits, five are for testing: those left have other numbers than 0 to 4."""
    seen = []
    place = devices.place

    def placed(batch, mesh):
        seen.append(np.asarray(batch[1]) if isinstance(batch, tuple) else np.zeros(0))
        return place(batch, mesh)

    monkeypatch.setattr(devices, "place", placed)
    halves = {"data__split": "class", "data__test_fraction": 0.5, "steps": 6, **PROXIES}
    mj.training.train_and_evaluate(config(**halves), str(tmp_path))
    assert set(np.concatenate(seen)) == set(range(5))


class PowerCutError(Exception):
    pass


EVERYTHING = {
    "steps": 6,
    "checkpoint_every": 3,
    "eval_every": 6,
    "log_every": 1,
    "ema": 0.9,
    "eval_whitening": 0.5,
    "batch__chunk": 1,
    "model__norm": "group",
    "loss__name": "supcon_loss",
    "loss__trainable": ("temperature",),
    "loss__before": "ntxent_loss",
    "loss__before_steps": 4,  # the run goes on from step 3
    "memory__size": 40,
    "memory__start": 1,
    "optimizer__name": "muon",
    "optimizer__loss_learning_rate": 0.05,
    "optimizer__clip": 1.0,
    "optimizer__freeze": ("blocks.0.conv",),
    "devices__shard_params": True,
}


def test_T2_a_run_with_everything_resumes_to_the_same_end_and_is_opened_again(tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    results = mj.training.train_and_evaluate(config(**EVERYTHING), str(whole))
    report = reporter.Reporter.__call__

    def cut_off(self, pending, evaluate=None):
        report(self, pending, evaluate)
        if pending.step == 5:
            raise PowerCutError

    with monkeypatch.context() as patched:
        patched.setattr(reporter.Reporter, "__call__", cut_off)
        with pytest.raises(PowerCutError):
            mj.training.train_and_evaluate(config(**EVERYTHING), str(parts))
    assert mj.training.train_and_evaluate(config(**EVERYTHING), str(parts))["map_at_r"] == results["map_at_r"]
    log = (whole / "metrics.jsonl").read_bytes()
    assert (parts / "metrics.jsonl").read_bytes() == log
    assert log.count(b'"loss.temperature": ') == 6

    run = open_run(parts)
    _, test = run.load_data()
    found = mj.evaluation.retrieval(run.embed(test.images), test.labels, distance=run.distance)
    assert found["map_at_r"] == pytest.approx(results["map_at_r"], abs=1e-6)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(run.parameters))
