"""evaluate.py and verify.py as their users run them."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import scripts
import trained_run
from PIL import Image
from small_run import everything

import metric_jax as mj
from experiments import evaluate, verify
from metric_jax import reports
from metric_jax.data import Images
from metric_jax.evaluation import rates
from metric_jax.training import RunError, calibration, open_run
from metric_jax.training import evaluate as training_evaluate


@pytest.fixture(scope="module")
def images():
    return open_run(trained_run.trained()).load_data()[1]


# --- evaluate.py ------------------------------------------------------------------------------------------------------


def test_evaluate_measures_calibrates_and_writes_a_report(tmp_path):
    folder = trained_run.copy(tmp_path / "run")
    done = scripts.run(
        "evaluate", f"--workdir={folder}", "--data.test_fraction=0.03", "--checkpoint=8", "--far=1e-9"
    )
    assert done.code == 0, done.err
    seen, measurable = done.err.splitlines()
    assert seen.endswith(
        "was trained with another data.test_fraction, and may have seen images of this test set"
    )
    assert re.fullmatch(
        r"evaluate: a FAR of 1e-09 cannot be measured with \d+ .* threshold is for .*", measurable
    )
    assert done.out.endswith(f"but {measurable.removeprefix('evaluate: ')}\n")  # beside the threshold
    assert done.out.startswith("run, checkpoint 8:\n")
    results = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    for key in ("map_at_r", "recall@1", "auc", "eer", "5way_1shot", "ami"):
        assert f"{results[key]:.4f}" in done.out
        assert f"baseline_{key}" in results
    for key in ("map_at_r", "auc", "eer"):
        assert results[f"{key}_low"] <= results[key] <= results[f"{key}_high"]
    assert results["step"] == 8
    threshold = json.loads((folder / "evaluation" / "threshold.json").read_text())
    assert threshold["far"] == pytest.approx(1 / results["impostors"])
    assert threshold["step"] == 8
    assert threshold["measured_far"] <= threshold["far"]
    page = (folder / "evaluation" / "report.html").read_text()
    assert f"{results['map_at_r']:.4f}" in page
    assert f"threshold for FAR {threshold['far']:g}" in page
    assert f"is {threshold['threshold']:.4g}." in page


@pytest.fixture
def written(monkeypatch, tmp_path):
    """What was given to `reports.write`, which does nothing."""
    calls = []
    monkeypatch.setattr(
        reports, "write", lambda *args, **options: calls.append((args, options)) or [tmp_path / "report.html"]
    )
    return calls


def test_evaluate_tells_of_images_that_came_or_went_since_the_training(images, capsys):
    """The split is drawn anew then, and what was trained on is tested on."""
    run = open_run(trained_run.trained())
    own = run.config["data"]
    told = f"evaluate: {run.folder} kept other images for its test, as files or keys of its data were others then, and "
    for test, data, expected in (
        (images, own, ""),
        (images[::-1], own, ""),
        (images[1:], own, f"{told}may have seen images of this test set\n"),
        (images[1:], {**own, "root": "elsewhere"}, ""),  # strangers, for all it knows
        (images[1:], {**own, "source": "folder"}, ""),
    ):
        evaluate.tell_of_seen_images(run, data, test)
        assert capsys.readouterr().err == expected
    run.tested_on = None  # of a run that is older
    evaluate.tell_of_seen_images(run, own, images[1:])
    assert capsys.readouterr().err == ""


def test_evaluate_of_two_runs_of_one_name_reports_both_and_changes_one(tmp_path, written, capsys):
    folder, other = (trained_run.copy(tmp_path / parent / "run") for parent in "ab")
    evaluate.main(str(folder), checkpoint=8, compare=str(other), projector=True, data={"test_fraction": 0.03})
    ((_, runs), options) = written[0]
    assert [run.name for run in runs] == [str(folder), str(other)]
    assert [run.history[-1]["step"] for run in runs] == [8, 12]
    np.testing.assert_array_equal(runs[0].images, runs[1].images)
    assert np.abs(runs[0].embeddings - runs[1].embeddings).max() > 1e-3
    assert options["projector"]
    assert everything(other) == everything(trained_run.trained())
    told = capsys.readouterr().err.splitlines()  # neither was trained to be tested on these
    assert [line.partition(" was ")[0] for line in told] == [f"evaluate: {run}" for run in (folder, other)]


def test_evaluate_takes_the_test_set_of_the_run_and_its_distance(tmp_path, images, written, capsys):
    folder = trained_run.copy(tmp_path / "run")
    evaluate.main(str(folder))
    (_, (run,)), options = written[0]
    expected = json.loads((folder / "results.json").read_text())
    assert options == {"title": "Evaluation of run", "projector": False}
    np.testing.assert_array_equal(run.images, images.images)
    assert run.names == images.ids.tolist()
    assert run.class_names == {n: str(n) for n in range(10)}
    assert [line["step"] for line in run.history] == [2, 4, 6, 8, 10, 12]
    for key in ("map_at_r", "recall@1", "baseline_map_at_r", "queries"):
        assert run.metrics[key] == pytest.approx(expected[key], abs=1e-6)
    threshold = calibration.read(folder)
    rows = open_run(folder).embed(images.images)
    distances = np.linalg.norm(rows[:, None].astype(np.float64) - rows, axis=-1)
    strangers = images.labels[:, None] != images.labels
    measured = np.mean(distances[strangers] <= threshold.threshold + 1e-6)
    assert threshold.far == 0.01
    assert measured == pytest.approx(threshold.measured_far, abs=1e-4)
    assert 0.009 < measured <= 0.01 + 1e-4
    told = capsys.readouterr()
    assert "report: " in told.out
    assert told.err == ""


def test_evaluate_and_verify_relative_to_the_training_images(tmp_path, written, capsys):
    """Which are not the mirrored ones that the run was trained on besides."""
    folder = trained_run.copy(tmp_path / "run")
    parted = {"split": "class", "test_fraction": 0.3}
    evaluate.main(str(folder), relative=True, far=0.05, data={**parted, "mirrors": True})
    run = open_run(folder, data=parted)
    train, test = run.load_data()
    rows, cohort = run.embed(test.images), run.embed(train.images)
    from_strangers = np.sort(np.linalg.norm(rows[:, None] - cohort, axis=-1), axis=1)[:, :10].mean(axis=1)
    bare = np.linalg.norm(rows[:, None] - rows, axis=-1)
    relative = bare - (from_strangers[:, None] + from_strangers) / 2
    first, second = np.triu_indices(len(rows), 1)
    is_same = test.labels[first] == test.labels[second]
    metrics = written[0][0][1][0].metrics
    for prefix, distances in (("", bare), ("relative_", relative)):
        curve = mj.evaluation.roc(distances[first, second], is_same)
        assert metrics[f"{prefix}eer"] == pytest.approx(rates.equal_error_rate(curve), abs=2e-3)
        assert f"baseline_{prefix}eer" in metrics
    threshold = calibration.read(folder)
    of_strangers = relative[first, second][~is_same]
    assert np.mean(of_strangers <= threshold.threshold + 1e-6) == pytest.approx(
        threshold.measured_far, abs=1e-3
    )
    assert metrics["threshold@far=0.05"] == pytest.approx(
        mj.evaluation.threshold_at(bare[first, second], is_same, 0.05)[0], abs=1e-3
    )
    told = capsys.readouterr().out
    assert "same if the relative euclidean distance is at most" in told
    assert "cannot be measured" not in told

    for number in range(2):
        Image.fromarray(test.images[number, ..., 0]).save(tmp_path / f"{number}.png")
    told = verify.main(str(tmp_path / "0.png"), str(tmp_path / "1.png"), workdir=str(folder))
    assert told == (verify.SAME if relative[0, 1] <= threshold.threshold else verify.DIFFERENT)
    printed = re.search(r"relative euclidean distance (\S+),", capsys.readouterr().out)
    assert float(printed[1]) == pytest.approx(relative[0, 1], abs=1e-3)
    with pytest.raises(RunError, match=r"which verify\.py alone takes: .* --norelative --checkpoint=12"):
        calibration.of_run(folder, step=run.step, distance=run.distance)


def test_a_cohort_goes_with_its_threshold_alone(tmp_path):
    (tmp_path / "evaluation").mkdir()
    rows = np.ones((12, 4), np.float32)
    threshold = calibration.Threshold(0.01, 0.5, 0.009, 0.9, "euclidean", 1000, 12, (8, 8, 1), False)
    calibration.save(tmp_path, threshold, rows)
    found = calibration.read(tmp_path)
    np.testing.assert_array_equal(calibration.read_cohort(tmp_path, found), rows)
    calibration.save(tmp_path, threshold, 2 * rows)  # and then, as if it had been killed in between:
    with pytest.raises(RunError, match=r"cohort\.npy is not the cohort that .* --relative --checkpoint=12"):
        calibration.read_cohort(tmp_path, found)
    (tmp_path / "evaluation" / calibration.COHORT).unlink()
    with pytest.raises(RunError, match=r"cohort\.npy cannot be read \(No such file"):
        calibration.read_cohort(tmp_path, found)
    path = tmp_path / "evaluation" / calibration.THRESHOLD
    path.write_text(json.dumps({**json.loads(path.read_text()), "cohort": True}))
    with pytest.raises(RunError, match="has no checksum 'cohort'"):
        calibration.read(tmp_path)


def test_evaluate_refuses_a_cohort_that_is_none(tmp_path):
    folder = trained_run.copy(tmp_path / "run")
    with pytest.raises(
        RunError, match=r"--relative needs training images of other classes .* 0 is one of both"
    ):
        evaluate.main(str(folder), relative=True)
    few, others = (Images(np.zeros((9, 8, 8, 1), np.uint8), np.full(9, label, np.int32)) for label in (0, 1))
    with pytest.raises(RunError, match="--relative needs 10 training images, and there are 9"):
        evaluate.check_strangers(few, others)
    assert not (folder / "evaluation").exists()


def test_evaluate_draws_pairs_once_for_metrics_threshold_and_figures(tmp_path, written, monkeypatch):
    drawn = []

    def draw(labels, **options):
        drawn.append(all_pairs(labels, **options))
        return drawn[-1]

    all_pairs = training_evaluate.all_pairs
    monkeypatch.setattr(training_evaluate, "all_pairs", draw)
    monkeypatch.setattr(training_evaluate, "MOST_PAIRS", 50)
    folder, other = (trained_run.copy(tmp_path / name) for name in "ab")
    evaluate.main(str(folder), compare=str(other), far=0.05, data={"test_fraction": 0.03})
    assert len(drawn) == 1
    threshold = calibration.read(folder)
    for run in written[0][0][1]:
        for ours, theirs in zip(run.compared[:3], drawn[0], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert (run.metrics["genuine"], run.metrics["impostors"], threshold.impostors) == (50, 50, 50)
        assert run.metrics["threshold@far=0.05"] == threshold.threshold
        assert run.metrics["tar@far=0.05"] == threshold.tar


def test_evaluate_anew_takes_the_size_of_the_data_whatever_it_was_evaluated_with_before(tmp_path, written):
    """A threshold for images of 9x11, as evaluating with another --data.size leaves it behind."""
    folder = trained_run.copy(tmp_path / "run")
    (folder / "evaluation").mkdir()
    threshold = calibration.Threshold(0.01, 0.5, 0.0, 1.0, "euclidean", 100, 12, (9, 11, 1), True)
    calibration.save(folder, threshold)
    evaluate.main(str(folder))
    found = calibration.read(folder)
    assert (found.image_shape, found.crop) == ((8, 8, 1), False)


def test_evaluate_refuses_to_compare_a_run_with_itself_or_with_one_on_other_images(tmp_path, monkeypatch):
    folder = trained_run.trained()
    with pytest.raises(RunError, match="is the run itself"):
        evaluate.main(str(folder), compare=f"{folder}/../{folder.name}")
    with pytest.raises(RunError, match="holds no run"):
        evaluate.main(str(folder), compare=str(tmp_path))
    runs = {
        name: SimpleNamespace(folder=tmp_path / name, image_shape=(8, 8, size))
        for size, name in enumerate("ab")
    }
    runs["a"].load_data = lambda: (None, None)
    monkeypatch.setattr(evaluate, "open_run", lambda name, *_, **__: runs[name])
    with pytest.raises(
        RunError, match=r"b is a run on images \[8, 8, 1\], and .*a one on \[8, 8, 0\]: compare"
    ):
        evaluate.main("a", compare="b")
    assert not (folder / "evaluation").exists()


# --- verify.py --------------------------------------------------------------------------------------------------------

QUICK = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture
def calibrated(tmp_path, images):
    """A run with a threshold that lies between two distances of its test images, and files of three of these."""
    folder = trained_run.copy(tmp_path / "run")
    (folder / "evaluation").mkdir()
    rows = open_run(folder).embed(images.images[:3])
    near, far = sorted([np.linalg.norm(rows[0] - rows[1]), np.linalg.norm(rows[0] - rows[2])])
    threshold = calibration.Threshold(
        0.01, float(near + far) / 2, 0.009, 0.9, "euclidean", 1000, 12, (8, 8, 1), False
    )
    calibration.save(folder, threshold)
    for number in range(3):
        Image.fromarray(images.images[number, ..., 0]).save(tmp_path / f"{number}.png")
    return folder


def test_verify_says_same_or_different_by_words_and_by_its_exit_code(calibrated, tmp_path, images, capsys):
    """In a process of its own, as whoever asks for the exit code runs it."""
    rows = open_run(calibrated).embed(images.images[:3])
    distances = np.linalg.norm(rows[0] - rows, axis=-1)
    near, far = (1, 2) if distances[1] < distances[2] else (2, 1)
    arguments = [str(tmp_path / "0.png"), str(tmp_path / f"{far}.png"), f"--workdir={calibrated}"]
    done = subprocess.run(
        [sys.executable, "experiments/verify.py", *arguments],
        check=False,
        cwd=scripts.ROOT,
        env={**os.environ, **QUICK},  # what it compiles runs once
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    assert verify.main(arguments[0], str(tmp_path / f"{near}.png"), workdir=str(calibrated)) == 0
    for printed, word, other in ((done.stdout, "different", far), (capsys.readouterr().out, "same", near)):
        first, second, third = printed.splitlines()
        assert first == word
        assert float(re.search(r"distance (\S+),", second)[1]) == pytest.approx(distances[other], abs=1e-3)
        assert "false accept rate of 0.01 (measured 0.009 on 1,000 pairs" in third


def test_verify_takes_an_image_for_the_same_as_itself(calibrated, tmp_path):
    image = str(tmp_path / "0.png")
    assert verify.main(image, image, workdir=str(calibrated)) == verify.SAME


def test_verify_refuses_a_threshold_of_another_checkpoint(calibrated, tmp_path):
    image = str(tmp_path / "0.png")
    with pytest.raises(RunError, match=r"is that of step 12 .* and this is step 8"):
        verify.main(image, image, workdir=str(calibrated), checkpoint=8)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--losses=supcon"], "unknown --losses 'supcon', did you mean 'supcon_loss'?"),
        (["--losses=arcface_loss"], "unknown --losses 'arcface_loss'"),
        (["--batch=10"], "--batch must be a positive multiple of 8, and --dim positive, got 10 and 128"),
        (["--dim=0"], "--batch must be a positive multiple of 8, and --dim positive, got 4096 and 0"),
    ],
)
def test_what_cannot_be_scaled_is_told(options, told, monkeypatch):
    for variable in ("XLA_FLAGS", "JAX_PLATFORMS"):  # which the script sets
        monkeypatch.setenv(variable, os.environ.get(variable, ""))
    done = scripts.run("scale", *options)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"scale: {told}")


def test_embed_counts_a_single_shard_as_one(tmp_path):
    done = scripts.run("embed", f"--workdir={trained_run.trained()}", f"--out={tmp_path}/out")
    assert done.out == f"359 embeddings of 359 images in 1 shard in {tmp_path}/out\n"
