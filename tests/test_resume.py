"""Runs that are killed, stopped, damaged or diverge: nothing is lost, and what goes on ends where it would have."""

import fcntl
import json
import os
import pathlib
import re
import signal
import sys
import types

import jax
import numpy as np
import pytest
import trained_run
from small_run import arrays, config, lines

import metric_jax as mj
from metric_jax.data import datasets
from metric_jax.training import (
    NonFiniteError,
    RunError,
    StoppedError,
    evaluate,
    folders,
    loop,
    manifest,
    open_run,
    reporter,
    stored,
)

TIMES = {"seconds", "images_per_s"}


def check_it_ends_as_undisturbed(workdir):
    """Goes on with a run, and compares all that it leaves with a run that nothing disturbed."""
    whole = trained_run.trained()
    results = mj.training.train_and_evaluate(config(), str(workdir))
    expected = json.loads((whole / "results.json").read_text())
    assert {k: v for k, v in results.items() if k not in TIMES} == {
        k: v for k, v in expected.items() if k not in TIMES
    }
    assert results["images_per_s"] > 0
    assert (workdir / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert stored.steps(workdir / "checkpoints")[-1] == 12
    jax.tree.map(np.testing.assert_array_equal, arrays(workdir, 12), arrays(whole, 12))


class PowerCutError(Exception):
    pass


@pytest.mark.parametrize("step", [1, 8])
def test_T2_a_run_that_is_cut_off_resumes_to_the_same_end(step, tmp_path, monkeypatch):
    report = reporter.Reporter.__call__

    def cut_off(self, pending, evaluate=None):
        report(self, pending, evaluate)
        if pending.step == step:
            raise PowerCutError

    with monkeypatch.context() as patched:
        patched.setattr(reporter.Reporter, "__call__", cut_off)
        with pytest.raises(PowerCutError):
            mj.training.train_and_evaluate(config(), str(tmp_path))
    assert not (tmp_path / "results.json").exists()
    check_it_ends_as_undisturbed(tmp_path)


def test_T2_killed_between_the_last_checkpoint_and_the_results(tmp_path):
    folder = trained_run.copy(tmp_path / "run")
    (folder / "results.json").unlink()
    check_it_ends_as_undisturbed(folder)


def at_step(monkeypatch, wanted, do):
    """Does something to the output of one step, counted over all that are dispatched."""
    make = loop.make_train_step

    def spied(*arguments, **options):
        step = make(*arguments, **options)

        def dispatch(state, *batch):
            number = int(state.step) + 1
            new, output = step(state, *batch)
            return new, do(output) if number == wanted else output

        dispatch.trace = step.trace
        return dispatch

    monkeypatch.setattr(loop, "make_train_step", spied)


def terminate(output=None):
    os.kill(os.getpid(), signal.SIGTERM)
    return output


@pytest.mark.parametrize("moment", ["in a step", "in a save", "twice"])
def test_T3_sigterm_saves_after_the_step_and_the_run_goes_on_to_the_same_end(moment, tmp_path, monkeypatch):
    heeded = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        if moment == "in a save":
            write = manifest.write
            patched.setattr(manifest, "write", lambda folder: terminate(write(folder)))
        else:
            at_step(
                patched,
                5,
                terminate if moment == "in a step" else lambda output: terminate(terminate(output)),
            )
        with pytest.raises(StoppedError, match=r"stopped by SIGTERM after step \d+, with a check") as stopped:
            mj.training.train_and_evaluate(config(), str(tmp_path))
    step = int(re.search(r"step (\d+)", str(stopped.value))[1])
    assert step == 5 or moment == "in a save"
    assert stored.steps(tmp_path / "checkpoints")[-1] == step
    assert signal.getsignal(signal.SIGTERM) is heeded
    assert not (tmp_path / "results.json").exists()
    check_it_ends_as_undisturbed(tmp_path)


def test_T4_where_the_newest_checkpoint_is_damaged_training_goes_on_from_the_one_before(tmp_path, capsys):
    folder = trained_run.copy(tmp_path / "run")
    (folder / "results.json").unlink()
    (folder / "checkpoints" / "12" / "notes.json").write_text("{}")
    with pytest.raises(
        RunError, match=r"checkpoint 12 of .* cannot be read \(notes.json is not what was saved"
    ):
        open_run(folder, 12)
    check_it_ends_as_undisturbed(folder)
    told = capsys.readouterr().err
    assert "checkpoint 12 is damaged (notes.json is not what was saved there)" in told
    assert "going on from step 8" in told


@pytest.mark.parametrize("step", [7, 8], ids=["no save", "a save"])
def test_T6_a_loss_that_is_nan_is_not_saved(step, tmp_path, monkeypatch):
    at_step(monkeypatch, step, lambda output: output._replace(loss=np.float32("nan")))
    home = tmp_path / "checkpoints"
    with pytest.raises(NonFiniteError, match=rf"at step {step}: the loss is nan.* of step 4, in {home}/4\. "):
        mj.training.train_and_evaluate(config(), str(tmp_path))
    assert stored.steps(home) == [4]
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6]
    assert not (tmp_path / "results.json").exists()


def test_T6_embeddings_that_are_nan_are_neither_measured_nor_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "in_batches", lambda apply, images, **_: np.full((len(images), 2), np.nan))
    with pytest.raises(
        NonFiniteError, match="after step 6: 359 of 359 images are embedded to NaN or infinity"
    ):
        mj.training.train_and_evaluate(config(), str(tmp_path))
    assert stored.steps(tmp_path / "checkpoints") == [4]
    assert not (tmp_path / "results.json").exists()


def test_T6_a_loss_that_is_nan_is_told_before_anything_is_whitened(tmp_path, monkeypatch):
    at_step(monkeypatch, 6, lambda output: output._replace(loss=np.float32("nan")))
    monkeypatch.setattr(evaluate, "in_batches", lambda apply, images, **_: np.full((len(images), 8), np.nan))
    asked = config(eval_whitening=0.5, checkpoint_every=100)
    with pytest.raises(NonFiniteError, match=r"at step 6: the loss is nan.*; there is no checkpoint yet"):
        mj.training.train_and_evaluate(asked, str(tmp_path))


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    folders.claim(tmp_path, config().to_dict())
    with (tmp_path / "config.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunError, match=f"another process trains in {tmp_path}: wait for it, or choose"):
            mj.training.train_and_evaluate(config(), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


# --- the best, and what else a run may be asked for -------------------------------------------------------------------


def test_the_best_checkpoint_is_kept_and_training_ends_when_none_is_better(tmp_path, monkeypatch):
    scores = {3: 0.1, 6: 0.5, 9: 0.3, 12: 0.5, 15: 0.9}
    found = evaluate.Evaluator.__call__

    def scored(self, state):
        return {**found(self, state), "map_at_r": scores[int(state.step)]}

    monkeypatch.setattr(evaluate.Evaluator, "__call__", scored)
    asked = config(
        steps=15, eval_every=3, checkpoint_every=5, checkpoints_kept=1, best_metric="map_at_r", patience=2
    )
    with monkeypatch.context() as patched:
        at_step(patched, 10, terminate)  # what is known of the best goes on over sessions
        with pytest.raises(StoppedError):
            mj.training.train_and_evaluate(asked, str(tmp_path))
        assert stored.steps(tmp_path / "checkpoints") == [6, 10]
    results = mj.training.train_and_evaluate(asked, str(tmp_path))
    assert (results["steps"], results["best_step"], results["best_map_at_r"]) == (12, 6, 0.5)
    assert stored.steps(tmp_path / "checkpoints") == [6, 12]
    assert open_run(tmp_path, "best").step == 6
    (tmp_path / "results.json").unlink()
    assert mj.training.train_and_evaluate(asked, str(tmp_path))["steps"] == 12


def test_a_run_without_a_metric_has_no_best_checkpoint(monkeypatch):
    with pytest.raises(RunError, match="has no best checkpoint: its config names no best_metric"):
        open_run(trained_run.trained(), "best")
    monkeypatch.setattr("metric_jax.training.runs._read_config", lambda path: {"best_metric": "map_at_r"})
    with pytest.raises(RunError, match="has no best checkpoint: nothing was evaluated yet"):
        open_run(trained_run.trained(), "best")


class Tracker:
    """A stand-in for the package wandb."""

    def __init__(self):
        self.begun, self.logged, self.finished = [], {}, 0

    def init(self, **options):
        self.begun.append(options)
        return self

    def log(self, metrics, *, step):
        self.logged[step] = metrics

    def finish(self):
        self.finished += 1


def test_metrics_go_to_wandb_and_steps_are_traced_if_that_is_asked_for(tmp_path, monkeypatch, capsys):
    tracker, package = Tracker(), types.ModuleType("wandb")
    package.init, package.__spec__ = tracker.init, types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "wandb", package)
    for _ in range(2):  # to look on again is no other run
        mj.training.train_and_evaluate(config(wandb="digits", profile=2), str(tmp_path))
        (tmp_path / "results.json").unlink()
    first, second = tracker.begun
    assert (first["project"], first["dir"], first["resume"]) == ("digits", str(tmp_path), "allow")
    assert first["config"]["loss"]["name"] == "batch_hard_triplet_loss"
    assert len(first["id"]) == 32
    assert second["id"] == first["id"]
    assert tracker.finished == 2
    speeds = [json.loads(line) for line in (tmp_path / "speed.jsonl").read_text().splitlines()]
    for line, speed in zip(lines(tmp_path), speeds, strict=True):
        assert tracker.logged[line["step"]] == {k: v for k, v in {**line, **speed}.items() if k != "step"}
    assert "a trace of 2 steps is in" in capsys.readouterr().err
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1


def test_how_fast_it_went_has_lines_of_its_own():
    path = pathlib.Path(trained_run.trained()) / folders.SPEED
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in found] == [2, 4, 6, 8, 10, 12]
    assert set(found[-1]) == {"step", "images_per_s", "step_seconds", "wait_seconds"}
    assert found[-1]["images_per_s"] == pytest.approx(16 / found[-1]["step_seconds"])


def test_a_run_does_not_go_on_with_other_images(tmp_path, monkeypatch):
    home = trained_run.copy(tmp_path / "run")
    (home / "results.json").unlink()
    digest = datasets.digest
    monkeypatch.setattr(datasets, "digest", lambda *parts: digest(*(part[1:] for part in parts)))
    with pytest.raises(
        RunError, match="run holds a run on other images than these: give it those that it began"
    ):
        mj.training.train_and_evaluate(config(), str(home))
