"""Omniglot's two protocols, read from their files; the real split where it lies beside the project."""

import pathlib

import numpy as np
import pytest

import metric_jax as mj
from metric_jax.evaluation import one_shot_runs, vinyals_classes, within_alphabet
from metric_jax.evaluation.omniglot import RotatedCharacter, Run


def test_the_real_split(shared):
    folder = shared / "omniglot"
    split = {name: vinyals_classes(folder / f"{name}.txt") for name in ("train", "val", "trainval", "test")}
    assert {name: len(classes) for name, classes in split.items()} == {
        "train": 4112,
        "val": 688,
        "trainval": 4800,
        "test": 1692,
    }
    assert {*split["train"], *split["val"]} == set(split["trainval"])
    assert not set(split["trainval"]) & set(split["test"])
    everything = [*split["trainval"], *split["test"]]
    assert len({found[:2] for found in everything}) == 1623
    assert len({found.alphabet for found in everything}) == 50
    assert split["train"][1] == RotatedCharacter("Angelic", 1, 90)
    assert split["test"][-1] == RotatedCharacter("ULOG", 26, 270)


@pytest.mark.parametrize(
    "line",
    [
        *("Greek", "Greek/character01", "Greek/character01/rot090/x", "Greek/character/rot090"),
        *("Greek/01/rot090", "Greek/character00/rot090", "Greek/character01/rot091", "/character01/rot000"),
    ],
)
def test_a_line_that_is_no_class(tmp_path, line):
    path = tmp_path / "train.txt"
    path.write_text(f"Greek/character01/rot000\n\n{line}\n")
    with pytest.raises(
        ValueError, match=rf"train\.txt, line 3: a class such as .* was expected, got '{line}'"
    ):
        vinyals_classes(path)


def test_a_file_that_is_no_split(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("Greek/character01/rot000\r\nGreek/character02/rot000\nGreek/character01/rot000\n")
    with pytest.raises(ValueError, match="line 3: Greek/character01/rot000 was already in line 1"):
        vinyals_classes(path)
    path.write_text(" \n\n")
    with pytest.raises(ValueError, match=r"train\.txt is empty"):
        vinyals_classes(str(path))
    path.write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match=r"train\.txt is no text file"):
        vinyals_classes(path)
    with pytest.raises(FileNotFoundError, match=r"test\.txt"):
        vinyals_classes(tmp_path / "test.txt")


@pytest.fixture
def runs_folder(tmp_path):
    """Two runs, 3-way and 2-way; image files hold a number, which stands for the image."""
    for run, answers in {"run01": [2, 0, 1], "run02": [1, 0]}.items():
        lines = []
        for part in ("training", "test"):
            (tmp_path / run / part).mkdir(parents=True)
        for i, answer in enumerate(answers):
            (tmp_path / run / f"training/class{i + 1:02}.png").write_text(f"{i}")
            (tmp_path / run / f"test/item{i + 1:02}.png").write_text(f"{answer + 0.25}")
            lines.append(f"{run}/test/item{i + 1:02}.png {run}/training/class{answer + 1:02}.png\n")
        (tmp_path / run / "class_labels.txt").write_text("".join(lines))
    return tmp_path


def embed(paths):
    return np.array([[float(path.read_text())] for path in paths], np.float32)


def distances(query, support):
    return mj.euclidean.pairwise(embed(query), embed(support))


def test_runs_are_read(runs_folder):
    one, two = within_alphabet(str(runs_folder))
    assert (one.name, two.name) == ("run01", "run02")
    assert one.support == [runs_folder / f"run01/training/class0{i}.png" for i in (1, 2, 3)]
    assert one.query == [runs_folder / f"run01/test/item0{i}.png" for i in (1, 2, 3)]
    assert (one.answers.tolist(), two.answers.tolist()) == ([2, 0, 1], [1, 0])


def test_an_image_that_answers_no_query_may_still_be_taken_for_an_answer(runs_folder):
    (runs_folder / "run02/training/class00.png").write_text("1.25")
    one, two = within_alphabet(runs_folder)
    assert [path.name for path in two.support] == ["class00.png", "class01.png", "class02.png"]
    assert two.answers.tolist() == [2, 1]
    assert one_shot_runs([one, two], distances)["accuracy"] == 4 / 5


def test_what_macos_leaves_beside_an_image_is_no_image(runs_folder):
    before = within_alphabet(runs_folder)[0].support
    (runs_folder / "run01/training/._class01.png").touch()
    assert within_alphabet(runs_folder)[0].support == before


def test_accuracy_of_runs(runs_folder):
    runs = within_alphabet(runs_folder)
    found = one_shot_runs(runs, distances)
    low, high = mj.evaluation.intervals.proportion(5, 5)
    assert found == {"accuracy": 1.0, "accuracy_low": low, "accuracy_high": high, "runs": 2, "queries": 5}
    (runs_folder / "run01/test/item01.png").write_text("0.9")  # of class03, and nearer to class02
    found = one_shot_runs(runs, distances, level=0.8)
    assert (found["accuracy"], found["accuracy_low"]) == (
        4 / 5,
        mj.evaluation.intervals.proportion(4, 5, level=0.8)[0],
    )


def test_a_tie_is_wrong(runs_folder):
    runs = within_alphabet(runs_folder)
    assert one_shot_runs(runs, lambda query, support: np.zeros((len(query), len(support))))["accuracy"] == 0.0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run01/test/item01.png", "was expected, got 'run01/test/item01.png'"),
        ("run01/test/item01.png run01/training/class01.png x", "was expected, got"),
        ("run02/test/item01.png run02/training/class01.png", "was expected, got"),
        ("run01/../run02/test/item01.png run01/training/class01.png", "was expected, got"),
        ("run01/../secret run01/training/class01.png", "was expected, got"),
        ("run01/test/item09.png run01/training/class01.png", "there is no file .*run01/test/item09.png"),
        ("run01/test/item02.png run01/training/class09.png", "there is no file .*run01/training/class09.png"),
        (
            "run01/test/item01.png run01/training/class01.png",
            "run01/test/item01.png occurs for the second time",
        ),
    ],
)
def test_a_line_that_does_not_name_two_files_of_its_run(runs_folder, line, message):
    (runs_folder / "secret").write_text("1")
    labels = runs_folder / "run01/class_labels.txt"
    labels.write_text(f"run01/test/item01.png run01/training/class03.png\n{line}\n")
    with pytest.raises(ValueError, match=rf"run01/class_labels\.txt, line 2: .*{message}"):
        within_alphabet(runs_folder)


def test_what_are_no_runs(runs_folder, tmp_path_factory):
    with pytest.raises(ValueError, match=r"holds no runs, .* unpack Omniglot's .*all_runs\.zip there"):
        within_alphabet(tmp_path_factory.mktemp("empty"))
    with pytest.raises(ValueError, match="holds no runs"):
        within_alphabet(runs_folder / "missing")
    with pytest.raises(ValueError, match="no runs to measure an accuracy on"):
        one_shot_runs([], distances)
    (runs_folder / "run02/training/class01.png").unlink()
    (runs_folder / "run02/class_labels.txt").write_text("run02/test/item01.png run02/training/class02.png\n")
    with pytest.raises(ValueError, match="one support image alone, and nothing to confuse it with"):
        within_alphabet(runs_folder)


def test_distances_that_are_none(runs_folder):
    run = within_alphabet(runs_folder)[0]
    with pytest.raises(
        ValueError, match=r"distances of run01 must be \[3 queries, 3 support images\], got shape \[3, 1\]"
    ):
        one_shot_runs([run], lambda query, support: np.ones((3, 1)))
    table = np.ones((3, 3))
    table[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"distances of run01 hold NaN or infinity for query .*item02\.png"):
        one_shot_runs([run], lambda query, support: table)
    with pytest.raises(TypeError, match="distances must be an array of real numbers, got str"):
        one_shot_runs([run], lambda query, support: "near")
    assert isinstance(run, Run)


@pytest.mark.parametrize(
    ("changed", "error", "told"),
    [
        (
            {"answers": np.array([2, 0, 3])},
            ValueError,
            "answers of run01 hold 3 for query 2, .* only 3 support",
        ),
        ({"answers": np.array([-1, 0, 1])}, ValueError, "answers of run01 hold -1 for query 0"),
        ({"answers": np.array([0, 1])}, ValueError, "answers of run01 must be one for each of the 3 queries"),
        ({"answers": np.array([0.0, 1.0, 2.0])}, TypeError, "answers of run01 .* pass them as integers"),
        ({"support": [pathlib.Path("class01.png")]}, ValueError, "run01 has one support image alone"),
    ],
)
def test_a_run_that_is_none(runs_folder, changed, error, told):
    run = within_alphabet(runs_folder)[0]._replace(**changed)
    with pytest.raises(error, match=told):
        one_shot_runs([run], lambda query, support: np.ones((len(query), len(support))))


def test_answers_may_be_a_list(runs_folder):
    run = within_alphabet(runs_folder)[0]._replace(answers=[2, 0, 1])
    assert one_shot_runs([run], distances)["accuracy"] == 1
