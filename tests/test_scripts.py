"""evaluate.py, verify.py and search.py as their users run them."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import trained_run
from absl import flags
from PIL import Image
from small_run import everything

from experiments import command, embed, evaluate, search, verify
from metric_jax import reports
from metric_jax.data import DataError, shards
from metric_jax.training import RunError, calibration, open_run

ROOT = pathlib.Path(__file__).parent.parent


QUICK = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    "OMP_NUM_THREADS": "1",
}


def script(name, *arguments):
    return subprocess.run(
        [sys.executable, f"experiments/{name}.py", *map(str, arguments)],
        check=False,
        cwd=ROOT,
        env={**os.environ, **QUICK},  # what it compiles runs once
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def images():
    return open_run(trained_run.trained()).load_data()[1]


@pytest.fixture
def calibrated(tmp_path, images):
    """A run with a threshold that lies between two distances of its test images, and files of three of these."""
    folder = trained_run.copy(tmp_path / "run")
    (folder / "evaluation").mkdir()
    rows = open_run(folder).embed(images.images[:3])
    near, far = sorted([np.linalg.norm(rows[0] - rows[1]), np.linalg.norm(rows[0] - rows[2])])
    threshold = calibration.Threshold(
        0.01, float(near + far) / 2, 0.009, 0.9, "euclidean", 1000, 12, (8, 8, 1)
    )
    calibration.save(folder, threshold)
    for number in range(3):
        Image.fromarray(images.images[number, ..., 0]).save(tmp_path / f"{number}.png")
    return folder


# --- evaluate.py ------------------------------------------------------------------------------------------------------


def test_evaluate_measures_calibrates_and_writes_a_report(tmp_path):
    folder = trained_run.copy(tmp_path / "run")
    done = script(
        "evaluate", f"--workdir={folder}", "--data.test_fraction=0.03", "--checkpoint=8", "--far=1e-9"
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"evaluate: a FAR of 1e-09 cannot be measured with \d+ pairs .* threshold is for .*\n", done.stderr
    )
    results = json.loads((folder / "evaluation" / "evaluation.json").read_text())
    for key in ("map_at_r", "recall@1", "auc", "eer", "5way_1shot", "ami"):
        assert f"{results[key]:.4f}" in done.stdout
        assert f"baseline_{key}" in results
    assert results["map_at_r_low"] <= results["map_at_r"] <= results["map_at_r_high"]
    assert results["step"] == 8
    threshold = json.loads((folder / "evaluation" / "threshold.json").read_text())
    assert threshold["far"] == pytest.approx(1 / results["impostors"])
    assert threshold["step"] == 8
    assert threshold["measured_far"] <= threshold["far"]
    assert f"{results['map_at_r']:.3f}"[:4] in (folder / "evaluation" / "report.html").read_text()


@pytest.fixture
def written(monkeypatch, tmp_path):
    """What was given to `reports.write`, which does nothing."""
    calls = []
    monkeypatch.setattr(
        reports, "write", lambda *args, **options: calls.append((args, options)) or [tmp_path / "report.html"]
    )
    return calls


def test_evaluate_of_two_runs_of_one_name_reports_both_and_changes_one(tmp_path, written):
    folder, other = (trained_run.copy(tmp_path / parent / "run") for parent in "ab")
    evaluate.main(str(folder), checkpoint=8, compare=str(other), projector=True, data={"test_fraction": 0.03})
    ((_, runs), options) = written[0]
    assert [run.name for run in runs] == [str(folder), str(other)]
    assert [run.history[-1]["step"] for run in runs] == [8, 12]
    np.testing.assert_array_equal(runs[0].images, runs[1].images)
    assert np.abs(runs[0].embeddings - runs[1].embeddings).max() > 1e-3
    assert options["projector"]
    assert everything(other) == everything(trained_run.trained())


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
    assert "report: " in capsys.readouterr().out


def test_evaluate_of_a_run_with_itself_is_refused():
    folder = trained_run.trained()
    with pytest.raises(RunError, match="is the run itself"):
        evaluate.main(str(folder), compare=f"{folder}/../{folder.name}")
    assert not (folder / "evaluation").exists()


# --- verify.py --------------------------------------------------------------------------------------------------------


def test_verify_says_same_or_different_by_words_and_by_its_exit_code(calibrated, tmp_path, images, capsys):
    rows = open_run(calibrated).embed(images.images[:3])
    distances = np.linalg.norm(rows[0] - rows, axis=-1)
    near, far = (1, 2) if distances[1] < distances[2] else (2, 1)
    arguments = [tmp_path / "0.png", tmp_path / f"{far}.png", f"--workdir={calibrated}"]
    done = script("verify", *arguments)
    assert done.returncode == 1, done.stderr
    assert verify.main(str(arguments[0]), str(tmp_path / f"{near}.png"), workdir=str(calibrated)) == 0
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


# --- search.py --------------------------------------------------------------------------------------------------------


@pytest.fixture
def gallery(calibrated, tmp_path, images):
    """The test images embedded in three shards, one of them empty; class 0 has a hostile name."""
    run, folder = open_run(calibrated), tmp_path / "gallery"
    made_with = {"model": embed.digest_of_checkpoint(run), "step": run.step}
    names = ["zero\x1b[31m", *map(str, range(1, 10))]
    shards.claim(folder, made_with, shards=3, class_names=names)
    for number, part in enumerate((images[:100], images[:0], images[100:])):
        rows = [shards.Row(*row) for row in zip(part.ids.tolist(), part.labels.tolist(), strict=True)]
        embeddings = run.embed(part.images) if rows else np.zeros((0, 8), np.float32)
        shards.write(folder, number, embeddings, rows)
    return folder


def searched(calibrated, gallery, tmp_path, capsys, query=0, **options):
    """The lines that a search for a test image prints."""
    options = {"k": 6, "out": str(tmp_path / "found.png"), **options}
    search.main(str(tmp_path / f"{query}.png"), workdir=str(calibrated), gallery=str(gallery), **options)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("approximate", [False, True])
def test_search_finds_the_nearest_and_says_who_it_is(
    calibrated, gallery, tmp_path, images, capsys, approximate
):
    if approximate:
        pytest.importorskip("faiss")
    rows = open_run(calibrated).embed(images.images)
    distances = np.linalg.norm(rows - rows[0], axis=-1)
    nearest = np.argsort(distances, kind="stable")[:6]
    for _ in range(1 + approximate):  # the second time, with the index that the first has built
        lines = searched(calibrated, gallery, tmp_path, capsys, approximate=approximate)
        assert lines[0] == str(images.labels[0])  # it finds the query itself
        for line, index in zip(lines[3:9], nearest, strict=True):
            assert float(line.split()[1].rstrip("?")) == pytest.approx(distances[index], abs=2e-4)
        assert lines[3].endswith(f"{images.labels[0]}, {images.ids[0]}")
    assert len(list(gallery.glob("*.faiss"))) == approximate
    with Image.open(tmp_path / "found.png") as picture:
        assert picture.width > 500


def test_search_says_unknown_beyond_the_threshold(calibrated, gallery, tmp_path, capsys):
    threshold = calibration.read(calibrated)
    calibration.save(calibrated, threshold._replace(threshold=-1.0))
    lines = searched(calibrated, gallery, tmp_path, capsys)
    assert lines[0] == "unknown"
    assert "the nearest is beyond the threshold of -1.0000" in lines[1]
    assert lines[-2] == "? is beyond the threshold"


def test_search_prints_no_control_characters(calibrated, gallery, tmp_path, images, capsys):
    zero = int(np.flatnonzero(images.labels == 0)[0])
    Image.fromarray(images.images[zero, ..., 0]).save(tmp_path / "zero.png")
    lines = searched(calibrated, gallery, tmp_path, capsys, query="zero")
    assert lines[0] == r"zero\x1b[31m"
    assert "\x1b" not in "".join(lines)


def test_search_draws_images_from_a_folder_and_never_from_outside(calibrated, tmp_path):
    run, home = open_run(calibrated), tmp_path / "home"
    home.mkdir()
    shutil.copy(tmp_path / "1.png", home / "one.png")
    picture = search.picture_of(run, str(home))
    np.testing.assert_array_equal(picture("one.png"), run.read_image(home / "one.png"))
    assert picture("../2.png") is None
    assert picture(str(tmp_path / "2.png")) is None
    assert picture("gone.png") is None
    with pytest.raises(RunError, match="there is no folder --images="):
        search.picture_of(run, str(tmp_path / "nowhere"))


def pickled(gallery):
    np.save(gallery / "embeddings-00000.npy", np.array([{"a": 1}], object), allow_pickle=True)


@pytest.mark.parametrize(
    ("harm", "options", "told"),
    [
        (None, {"k": 360}, "--k=360 must lie between 1 and the 359 images in"),
        (None, {"k": 0}, "--k=0 must lie between 1 and the 359 images in"),
        (None, {"query": "gone"}, r"cannot read the image .*gone\.png: No such file"),
        (None, {"checkpoint": 4}, "has no checkpoint of step 4: it keeps 8, 12"),
        (None, {"out": "nowhere/found.png"}, "--out=nowhere/found.png is in no folder that there is"),
        (None, {"out": "found.docx"}, "cannot write --out=found.docx: .*supported"),
        (pickled, {}, r"embeddings-00000\.npy is no array"),
        (shutil.rmtree, {}, "holds no embeddings: it has no manifest.json"),
        (
            lambda g: (g / "manifest.json").write_text('{"made_with": {}, "shards": 3, "class_names": []}'),
            {},
            "was not embedded by step 12 of",
        ),
    ],
)
def test_search_tells_in_one_line_what_is_wrong(calibrated, gallery, tmp_path, capsys, harm, options, told):
    if harm:
        harm(gallery)
    with pytest.raises((RunError, DataError), match=told) as caught:
        searched(calibrated, gallery, tmp_path, capsys, **options)
    assert "\n" not in str(caught.value)


def test_search_without_faiss_or_with_a_broken_index_says_so(
    calibrated, gallery, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("faiss")
    searched(calibrated, gallery, tmp_path, capsys, approximate=True)
    (index,) = gallery.glob("*.faiss")
    index.write_bytes(b"\x80\x04N.")
    with pytest.raises(RunError, match=r"the index .*faiss can be neither read nor written: remove it"):
        searched(calibrated, gallery, tmp_path, capsys, approximate=True)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(RunError, match="--approximate needs faiss: pip install faiss-cpu"):
        searched(calibrated, gallery, tmp_path, capsys, approximate=True)


# --- the command line -------------------------------------------------------------------------------------------------


def test_a_wrong_key_of_the_data_is_one_line_and_exit_code_2():
    done = script("evaluate", "--workdir=runs", "--data.roott=x")
    assert done.returncode == 2
    assert done.stdout == ""
    told = "evaluate: unknown key of --data 'roott', did you mean 'root'?"
    assert re.fullmatch(rf"{re.escape(told)}.*\n", done.stderr), done.stderr


@pytest.fixture
def started(monkeypatch, capsys):
    """Starts a script that takes a flag and two images: (exit code, its stdout, its stderr)."""

    def start(*arguments, main=lambda one, other: None):
        known = flags.FlagValues()
        flags.DEFINE_string("workdir", None, "A folder.", flag_values=known)
        flags.DEFINE_integer("verbosity", -1, "As absl's.", flag_values=known)
        monkeypatch.setattr(flags, "FLAGS", known)
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        with pytest.raises(SystemExit) as end:
            command.start("compare", main, images=("ONE", "OTHER"), usage="Compares two.")
        return end.value.code, *capsys.readouterr()

    return start


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a", "b"], "--workdir must be given: --help tells more"),
        (["a", "b", "--workdir="], "--workdir must be given"),
        (
            ["a", "--workdir=x"],
            "got 1 arguments that are no flags, where it takes 2: python experiments/compare.py",
        ),
        (["a", "b", "--workdr=x"], "Unknown command line flag 'workdr'. Did you mean: workdir"),
        (["a", "b", "--workdir=x", "--verbosity=loud"], "flag --verbosity=loud: "),
    ],
)
def test_what_is_wrong_with_a_command_is_told_before_anything_is_done(started, arguments, told):
    code, out, error = started(*arguments, main=lambda *_: pytest.fail("it ran"))
    assert (code, out) == (command.BAD_INPUT, "")
    assert re.fullmatch(rf"compare: {re.escape(told)}.*\n", error)


@pytest.mark.parametrize("raised", [RunError("no such run"), DataError("no such run")])
def test_an_error_of_the_users_is_one_line(started, raised):
    def main(one, other):
        raise raised

    assert started("a", "b", "--workdir=x", main=main) == (2, "", "compare: no such run\n")


def test_an_interrupt_is_one_line_and_a_bug_is_not_hidden(started):
    def interrupted(one, other):
        raise KeyboardInterrupt

    def buggy(one, other):
        raise KeyError(one)

    assert started("a", "b", "--workdir=x", main=interrupted) == (130, "", "compare: interrupted\n")
    code, _, err = started("a", "b", "--workdir=x", main=buggy)
    assert code == 2  # never 1, which says "different"
    assert "Traceback" in err
    assert "KeyError: 'a'" in err


def test_the_exit_code_is_what_the_script_returns_and_help_is_no_error(started):
    assert started("a", "b", "--workdir=x", main=lambda one, other: 1)[0] == 1
    code, out, _ = started("--help")
    assert code == 0
    assert "Compares two." in out
