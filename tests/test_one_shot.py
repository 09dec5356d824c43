import jax
import numpy as np
import pytest
import scripts
import trained_run
from PIL import Image

from experiments import one_shot
from metric_jax import euclidean, evaluation
from metric_jax.data import Images, datasets
from metric_jax.evaluation import few_shot, intervals
from metric_jax.training import RunError

LABELS = np.repeat(np.arange(27, dtype=np.int32), 4)
SUPERS = np.where(LABELS < 25, "Futurama", "Sylheti")


class Opened:
    """A run that embeds an image as its pixels."""

    distance = euclidean

    def __init__(self, test):
        self.test = test

    def embed(self, images):
        return images.reshape(len(images), -1).astype(np.float32)

    def load_data(self):
        return None, self.test


def images(columns):
    pixels = (LABELS[:, None] == np.arange(27)).astype(np.uint8)
    pixels[LABELS >= 25] = 1  # of the second alphabet all characters are alike
    return Images(pixels[:, :, None, None], LABELS, columns=columns)


def test_every_alphabet_has_an_error_of_its_own(monkeypatch, capsys):
    asked = []
    run = Opened(images({"super": SUPERS}))
    monkeypatch.setattr(one_shot, "open_run", lambda *given, **options: asked.append((given, options)) or run)
    one_shot.main("run", {"super_key": "alphabet"}, episodes=3, checkpoint="best")
    assert asked == [(("run",), {"checkpoint": "best", "data": {"super_key": "alphabet"}})]
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    # a tie is an error; of two values the interval is ± 12.706 · √½ / √2
    assert lines[0] == "shown and asked of by any two images"
    assert lines[1:] == ["Futurama 0.0000", "Sylheti 1.0000", "mean of 2 0.5000 ± 6.3531"]


def test_only_characters_of_one_alphabet_are_taken_for_each_other():
    """Each character has a double in the other alphabet."""
    labels, supers = np.repeat(np.arange(6), 3), np.repeat(["a", "b"], 9)
    rows = np.eye(3, dtype=np.float32)[labels % 3]
    assert one_shot.within(rows, labels, supers, euclidean, episodes=2) == {"a": 0, "b": 0}


def test_embeddings_may_be_centred_on_what_is_shown():
    rows = np.random.default_rng(0).normal(size=(len(LABELS), 3)).astype(np.float32) + LABELS[:, None] % 5
    here = SUPERS == "Futurama"
    options = {"ways": 20, "shots": 1, "queries": 1, "episodes": 5, "key": jax.random.key(0)}
    for centred in (False, True):
        expected = 1 - few_shot(rows[here], LABELS[here], centred=centred, **options)["accuracy"]
        found = one_shot.within(rows, LABELS, SUPERS, euclidean, episodes=5, centred=centred)
        assert found["Futurama"] == pytest.approx(expected)
    assert found != one_shot.within(rows, LABELS, SUPERS, euclidean, episodes=5)


def test_one_person_shows_and_another_is_asked_of_where_it_is_known_who_drew_what(monkeypatch, capsys):
    """Each of four people has a hand: one that all his characters have in common, and that hides what they are."""
    people = np.arange(len(LABELS)) % 4
    run = Opened(images({"super": SUPERS}))
    monkeypatch.setattr(one_shot, "open_run", lambda *_, **__: run)
    monkeypatch.setattr(one_shot, "drawers", lambda images: people if images is run.test else None)
    hands = 9 * np.eye(4)[people] * (SUPERS == "Futurama")[:, None]
    rows = np.concatenate([np.eye(27)[LABELS], hands], axis=1).astype(np.float32)
    monkeypatch.setattr(run, "embed", lambda _: rows)
    one_shot.main("run", {}, episodes=20)
    assert capsys.readouterr().out.startswith("shown by one person, asked of another\nFutu")
    errors = one_shot.within(rows, LABELS, SUPERS, euclidean, episodes=20, people=people)
    assert errors == {"Futurama": 0.0, "Sylheti": 0.0}
    assert one_shot.within(rows, LABELS, SUPERS, euclidean, episodes=20)["Futurama"] > 0.5


@pytest.mark.parametrize("lacking", ["an image", "an alphabet"])
def test_where_not_everybody_drew_everything_any_two_images_are_taken(lacking, monkeypatch, capsys):
    """As in a part of the set, or where classes of classes are no alphabets."""
    people = np.arange(len(LABELS)) % 4
    people[5 if lacking == "an image" else LABELS == 3] += 4
    run = Opened(images({"super": SUPERS}))
    monkeypatch.setattr(one_shot, "open_run", lambda *_, **__: run)
    monkeypatch.setattr(one_shot, "drawers", lambda _: people)
    one_shot.main("run", {}, episodes=2)
    assert capsys.readouterr().out.startswith("shown and asked of by any two images\nFutu")


def test_what_has_no_classes_of_classes_is_told(monkeypatch):
    monkeypatch.setattr(one_shot, "open_run", lambda *_, **__: Opened(images({})))
    with pytest.raises(RunError, match=r"name the feature that holds them by --data\.super_key"):
        one_shot.main("run", {}, episodes=2)
    with pytest.raises(RunError, match="Latin has a single class"):
        one_shot.within(
            np.zeros((3, 1), np.float32), np.zeros(3, int), np.array(["Latin"] * 3), euclidean, episodes=2
        )
    with pytest.raises(RunError, match=r"Latin cannot be measured: .* 2 images a class, and class 1 has 1"):
        one_shot.within(
            np.eye(3, dtype=np.float32), np.array([0, 0, 1]), np.array(["Latin"] * 3), euclidean, episodes=2
        )


@pytest.fixture
def lakes(tmp_path):
    """Two runs of two digits each, and a query that looks like the wrong one."""
    train, _ = datasets.load("digits")
    of = {digit: train.images[train.labels == digit][0, ..., 0] for digit in range(4)}
    for name, (one, other), asked in (("run01", (0, 1), (0, 1)), ("run02", (2, 3), (2, 2))):
        files = {"training/class01": one, "training/class02": other}
        files |= {f"test/item{i}": digit for i, digit in enumerate(asked, start=1)}
        for file, digit in files.items():
            path = tmp_path / name / f"{file}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(of[digit]).save(path)
        lines = [f"{name}/test/item{i}.png {name}/training/class0{i}.png" for i in (1, 2)]
        (tmp_path / name / "class_labels.txt").write_text("\n".join(lines))
    return tmp_path


def test_lakes_own_runs(lakes, monkeypatch):
    """A query is a copy of a support image: right, but for the one of which another is the answer."""
    options = [f"--workdir={trained_run.trained()}", f"--runs={lakes}"]
    low, high = intervals.proportion(1, 4, level=0.95)
    for given in (options, [*options, "--centred"]):
        told = scripts.run("one_shot", *given)
        assert (told.code, told.err) == (0, "")
        assert told.out == f"error 0.2500, 95 % interval {low:.4f} to {high:.4f}, of 4 queries in 2 runs\n"
    monkeypatch.setattr(evaluation, "centred_on", lambda support, rows: np.zeros_like(rows))
    assert scripts.run("one_shot", *options).out == told.out
    assert "error 1.0000" in scripts.run("one_shot", *options, "--centred").out


def test_a_folder_without_runs_is_told_before_a_run_is_opened(tmp_path):
    told = scripts.run("one_shot", "--workdir=nowhere", f"--runs={tmp_path}")
    assert (told.code, told.out) == (2, "")
    assert f"one_shot: --runs: {tmp_path} holds no runs" in told.err
