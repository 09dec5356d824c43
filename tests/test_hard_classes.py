"""Runs whose batches are of classes that the model takes for each other: these are looked for at every evaluation."""

import jax
import numpy as np
import pytest
from small_run import arrays, config

import metric_jax as mj
from metric_jax.data import samplers
from metric_jax.training import loop, reporter

HARD = {"batch__sampler": "hard_classes", "batch__neighbours": 1, "eval_every": 4, "checkpoint_every": 2}


@pytest.fixture
def seen(monkeypatch):
    """The labels of every batch, by its step, and the centres that were found."""
    batches, centres = {}, []
    make, find = loop.make_train_step, samplers.class_centres

    def spied(*arguments, **options):
        step = make(*arguments, **options)

        def dispatch(state, images, labels):
            batches[int(state.step) + 1] = np.asarray(labels)
            return step(state, images, labels)

        dispatch.trace = step.trace
        return dispatch

    def found(embeddings, labels):
        centres.append(find(embeddings, labels))
        return centres[-1]

    monkeypatch.setattr(loop, "make_train_step", spied)
    monkeypatch.setattr(samplers, "class_centres", found)
    return batches, centres


def test_classes_come_with_their_nearest_from_the_first_evaluation_on(seen, tmp_path):
    batches, centres = seen
    mj.training.train_and_evaluate(config(**HARD), str(tmp_path))
    train, _ = mj.data.load("digits")
    plain = samplers.HardClassSampler(train.labels, neighbours=1, classes=4, samples=4, seed=0)
    for step, labels in batches.items():
        sampler = plain if step <= 4 else plain.with_centres(centres[(step - 1) // 4 - 1])
        np.testing.assert_array_equal(labels, train.labels[sampler(step - 1)])
    assert sorted(batches) == list(range(1, 13))
    run = mj.training.open_run(tmp_path)
    embeddings = run.embed(train.images)
    means = [embeddings[train.labels == label].astype(np.float64).mean(axis=0) for label in range(10)]
    np.testing.assert_allclose(centres[-1], means, atol=1e-5)


class PowerCutError(Exception):
    pass


@pytest.mark.parametrize(
    ("step", "besides"),
    [(3, {"ema": 0.9}), (7, {"devices__shard_params": True})],
    ids=["3", "7"],
)
def test_T2_a_run_that_is_cut_off_goes_on_with_the_classes_as_they_lay(step, besides, tmp_path, monkeypatch):
    """Cut off before the first evaluation, and at a checkpoint between two."""
    hard = config(**HARD, **besides)
    mj.training.train_and_evaluate(hard, str(tmp_path / "whole"))
    report = reporter.Reporter.__call__

    def cut_off(self, pending, evaluate=None):
        report(self, pending, evaluate)
        if pending.step == step:
            raise PowerCutError

    with monkeypatch.context() as patched:
        patched.setattr(reporter.Reporter, "__call__", cut_off)
        with pytest.raises(PowerCutError):
            mj.training.train_and_evaluate(hard, str(tmp_path / "cut"))
    mj.training.train_and_evaluate(hard, str(tmp_path / "cut"))
    jax.tree.map(np.testing.assert_array_equal, arrays(tmp_path / "cut", 12), arrays(tmp_path / "whole", 12))
