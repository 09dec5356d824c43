"""Runs from beginning to end: what they leave, that they resume exactly, and how they refuse."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_run import config, everything, lines

import metric_jax as mj
from metric_jax.training import NonFiniteError, RunError, devices, loop, reporter
from metric_jax.training.step import Output

METRICS = {"map_at_r", "precision@1", "r_precision", "mrr", "recall@1", "recall@2", "recall@4", "recall@8"}
TIMES = {"seconds", "images_per_s"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir, results) of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("finished") / "new" / "run"
    return workdir, mj.training.train_and_evaluate(config(), str(workdir))


def test_a_run_leaves_what_it_promises(finished):
    workdir, results = finished
    assert {path.name.partition(".")[0] for path in workdir.iterdir()} == {
        *("config", "metrics", "speed", "results", "checkpoints", "events")
    }
    assert json.loads((workdir / "results.json").read_text()) == results
    assert (workdir / "config.json").read_text() == json.dumps(config().to_dict(), indent=2) + "\n"
    assert sorted(int(path.name) for path in (workdir / "checkpoints").iterdir()) == [8, 12]
    assert set(results) == (
        METRICS | {f"baseline_{key}" for key in METRICS} | TIMES | {"steps", "queries", "left_out"}
    )
    assert results["steps"] == 12
    assert results["images_per_s"] > 0


def test_the_log_has_a_line_for_every_logged_step(finished):
    found = lines(finished[0])
    assert [line["step"] for line in found] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in found if "map_at_r" in line] == [6, 12]
    for line in found:
        assert {"loss", "gradient_norm", "learning_rate", "active_fraction", "spread", "collapsed"} <= set(
            line
        )
    assert found[-1]["map_at_r"] == finished[1]["map_at_r"]
    assert found[0]["learning_rate"] == pytest.approx(1e-3 * (1 + np.cos(np.pi / 12)) / 2, rel=1e-5)


def outputs(rows):
    return Output(loss=jnp.float32(0), gradient_norm=jnp.float32(0), embeddings=rows, learned={})


def test_a_large_batch_is_diagnosed_in_little_memory():
    """All its distances would take 28 GB."""
    diagnose = loop._plan(config(batch__classes=8192, batch__samples=4)).diagnose
    shapes = jax.eval_shape(outputs, jnp.zeros((32_768, 16))), jax.ShapeDtypeStruct((32_768,), np.int32)
    assert jax.jit(diagnose).lower(*shapes).compile().memory_analysis().temp_size_in_bytes < 150e6


@pytest.mark.parametrize(("classes", "samples", "each"), [(4, 4, 4), (10, 2048, 204), (1500, 4, 2)])
def test_what_is_diagnosed_of_a_batch_has_positives_and_negatives(classes, samples, each):
    labels = np.repeat(np.arange(classes), samples)
    rows = np.random.default_rng(0).normal(labels[:, None] % 7, size=(len(labels), 3)).astype(np.float32)
    picked = np.concatenate([np.arange(each) + samples * c for c in range(classes)])[:2048]
    found = loop._plan(config(batch__classes=classes, batch__samples=samples)).diagnose(outputs(rows), labels)
    expected = mj.diagnostics.summary(rows[picked], labels[picked])
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)
    assert found["hard_positives"] > 0


def test_the_baseline_is_that_of_raw_pixels_on_the_same_images(finished):
    _, test = mj.data.load("digits", split="image", test_fraction=0.2)
    pixels = test.images.reshape(len(test), -1).astype(np.float64)
    distances = np.linalg.norm(pixels[:, None] - pixels[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    nearest = test.labels[distances.argmin(axis=1)]
    assert finished[1]["baseline_precision@1"] == pytest.approx(np.mean(nearest == test.labels), abs=0.005)
    assert finished[1]["queries"] == len(test)


def test_it_learns(tmp_path):
    results = mj.training.train_and_evaluate(
        config(
            steps=100,
            log_every=50,
            eval_every=100,
            batch__classes=10,
            model__width=16,
            loss__name="batch_semi_hard_triplet_loss",
            optimizer__learning_rate=3e-3,
        ),
        str(tmp_path),
    )
    assert results["map_at_r"] > 0.7 > results["baseline_map_at_r"]


def test_a_finished_run_only_tells_its_results(finished, monkeypatch, capsys):
    monkeypatch.setattr(loop.datasets, "load", None)  # would fail if it were called
    before = everything(finished[0])
    assert mj.training.train_and_evaluate(config(), str(finished[0])) == finished[1]
    assert everything(finished[0]) == before
    assert "this run is finished" in capsys.readouterr().err


def test_metrics_are_read_once_the_next_step_is_on_its_way(tmp_path, monkeypatch):
    events = []
    make, report = loop.make_train_step, reporter.Reporter.__call__

    def spied(*arguments, **options):
        step = make(*arguments, **options)

        def dispatch(state, *batch):
            events.append("dispatch")
            return step(state, *batch)

        dispatch.trace = step.trace
        return dispatch

    def read(self, pending, evaluate=None):
        events.append(f"read {pending.step}")
        report(self, pending, evaluate)

    monkeypatch.setattr(loop, "make_train_step", spied)
    monkeypatch.setattr(reporter.Reporter, "__call__", read)
    mj.training.train_and_evaluate(config(steps=4, checkpoint_every=3, eval_every=9), str(tmp_path))
    assert events == "dispatch,dispatch,read 1,dispatch,read 2,read 3,dispatch,read 4".split(",")


def test_eight_devices_are_one(finished, tmp_path, monkeypatch):
    one = devices.mesh(1)
    assert devices.mesh(16).size == 8
    monkeypatch.setattr(devices, "mesh", lambda batch_size: one)
    mj.training.train_and_evaluate(config(), str(tmp_path))
    alone, together = lines(tmp_path), lines(finished[0])
    for a, b in zip(alone, together, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["spread"] == pytest.approx(b["spread"], rel=1e-3)


def test_N13_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path):
    diverging = config(optimizer__name="sgd", optimizer__learning_rate=1e30, model__normalise=False)
    with pytest.raises(
        NonFiniteError, match=r"stopped at step \d+: the loss is (nan|inf).*learning_rate"
    ) as stop:
        mj.training.train_and_evaluate(diverging, str(tmp_path))
    bad = int(re.search(r"step (\d+)", str(stop.value))[1])
    assert all(line["step"] < bad for line in lines(tmp_path))
    assert all(int(path.name) < bad for path in (tmp_path / "checkpoints").iterdir())
    assert not (tmp_path / "results.json").exists()


def test_a_folder_with_another_run_is_left_alone(finished):
    before = everything(finished[0])
    with pytest.raises(RunError, match=r"loss\.margin \(None there, 0\.5 here\).*--workdir"):
        mj.training.train_and_evaluate(config(loss__margin=0.5), str(finished[0]))
    assert everything(finished[0]) == before


WRONG = {
    "steps": (0, "steps must be at least 1, got 0"),
    "seed": (-1, "seed must be at least 0, got -1"),
    "eval_every": (0, "eval_every must be at least 1"),
    "eval_views": (0, "eval_views must be at least 1"),
    "data__source": ("digit", "data.source 'digit', did you mean 'digits'"),
    "data__split": ("classes", "data.split 'classes', did you mean 'class'"),
    "data__test_fraction": (1.5, "data.test_fraction must lie between 0 and 1, got 1.5"),
    "batch__classes": (11, "batch.classes=11, but the training set has 10 classes"),
    "batch__samples": (500, "batch.samples=500, but class"),
    "augment__rotate": (-5.0, "augment.rotate must be at least 0 and finite, got -5.0"),
    "model__name": ("convnets", "model.name 'convnets', did you mean 'convnet'"),
    "model__norm": ("layer", "model.norm must be"),
    "loss__name": ("batch_hard", "loss.name 'batch_hard', did you mean 'batch_hard_triplet_loss'"),
    "loss__distance": ("euclid", "loss.distance 'euclid', did you mean 'euclidean'"),
    "loss__penalty": ("softmax", "loss.penalty 'softmax', did you mean 'softplus'"),
    "loss__reduction": ("avg", "reduction must be one of mean"),
    "optimizer__name": ("adamm", "optimizer.name 'adamm', did you mean 'adam'"),
    "optimizer__schedule": ("cos", "optimizer.schedule 'cos', did you mean 'cosine'"),
    "optimizer__learning_rate": (0.0, "learning_rate must be positive"),
    "loss__margin": (float("nan"), "loss.margin must be finite, got nan"),
    "optimizer__warmup": (12, "optimizer.warmup=12 must be at least 0 and less than steps=12"),
    "optimizer__weight_decay": (0.1, "adam has no weight decay"),
    "optimizer__momentum": (0.5, "adam has no momentum to choose"),
    "optimizer__clip": (-1.0, "optimizer.clip must not be negative"),
    "optimizer__final": (2.0, "optimizer.final must be a fraction"),
    "optimizer__drop": (0.0, "optimizer.drop must lie between 0 and 1"),
    "optimizer__drops": ((0.5, float("nan")), "optimizer.drops must be finite, got (0.5, nan)"),
    "optimizer__loss_learning_rate": (
        0.1,
        "batch_hard_triplet_loss learns nothing: leave optimizer.loss_learning_rate",
    ),
    "optimizer__freeze": (("stem",), "unknown optimizer.freeze 'stem'. There is: blocks, "),
    "loss__trainable": (("temperature",), "has no number 'temperature' to learn: mend loss.trainable"),
    "loss__centers": (2, "has no centers to choose"),
    "loss__before": ("batch_all_triplet_loss", "loss.before_steps=0: set both or neither"),
    "loss__before_steps": (-1, "loss.before_steps must be at least 0, got -1"),
    "profile": (-1, "profile must be at least 0, got -1"),
    "memory__size": (-1, "memory.size must be at least 0, got -1"),
    "memory__start": (-1, "memory.start must be at least 0, got -1"),
    "batch__chunk": (2, "BatchNorm looks at all of a batch"),
    "ema": (1.0, "ema must be at least 0 and less than 1, got 1.0"),
}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_value_is_one_line_and_leaves_nothing(key, tmp_path):
    value, message = WRONG[key]
    with pytest.raises(mj.training.USER_ERRORS) as error:
        mj.training.train_and_evaluate(config(**{key: value}), str(tmp_path / "run"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_seed_beyond_32_bits_is_refused(tmp_path):
    with pytest.raises(RunError, match="seed must be less than 2³², got 4294967296"):
        mj.training.train_and_evaluate(config(seed=2**32), str(tmp_path / "run"))


def test_a_flip_that_makes_of_a_class_its_mirrored_one_is_refused(tmp_path):
    with pytest.raises(
        RunError, match=r"augment\.flip=0\.5 makes of a class what data\.mirrors calls another"
    ):
        mj.training.train_and_evaluate(config(data__mirrors=True, augment__flip=0.5), str(tmp_path / "run"))


def test_views_that_nothing_makes_are_refused(tmp_path):
    plain = dict.fromkeys(("rotate", "scale", "shear", "translate"), 0.0)
    changes = {"eval_views": 3, **{f"augment__{key}": amount for key, amount in plain.items()}}
    with pytest.raises(
        RunError, match=r"eval_views=3 are made of an image as config\.augment says, and it says no"
    ):
        mj.training.train_and_evaluate(config(**changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_workdir_without_a_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="the workdir is empty"):
        mj.training.train_and_evaluate(config(), "")
    assert not list(tmp_path.iterdir())


def test_a_data_set_that_is_not_prepared_says_what_to_run(tmp_path):
    missing = config(data__source="tfds", data__name="omniglot", data__data_dir=str(tmp_path))
    with pytest.raises(
        mj.data.DataError, match=r"'omniglot' is not prepared in .*metric_jax\.data\.prepare omniglot"
    ):
        mj.training.train_and_evaluate(missing, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("keep me")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunError, match=re.escape(str(workdir))):
            mj.training.train_and_evaluate(config(), str(workdir))
    assert (tmp_path / "file").read_text() == "keep me"


def test_a_tilde_in_a_workdir_is_the_home_folder(finished, monkeypatch):
    workdir, results = finished
    monkeypatch.setenv("HOME", str(workdir.parent))
    assert mj.training.train_and_evaluate(config(), f"~/{workdir.name}") == results
    assert mj.training.open_run(f"~/{workdir.name}").folder == workdir


def test_a_config_that_is_a_dict_is_refused_in_one_line(tmp_path):
    with pytest.raises(RunError, match="the config must be a ConfigDict with every key, got dict: change"):
        mj.training.train_and_evaluate({"steps": 2}, str(tmp_path))
