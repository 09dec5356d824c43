"""experiments/lfw.py, on photos that are embedded as numbers."""

import re

import numpy as np
import pytest
import scripts

from metric_jax.data import shards
from metric_jax.evaluation import lfw_path, verification

PHOTOS = {("Ann", 1): 0.0, ("Ann", 2): 0.25, ("Bob", 1): 1.0, ("Bob", 2): 1.25, ("Cy", 1): 3.0}
PHOTOS |= {("Di", 1): 9.0, ("Di", 2): 20.0}
BROKEN = {("Ed", 1): float("nan")}
PAIRS = "1\nAnn 1 2\nAnn 1 Bob 1\n"


@pytest.fixture
def compared(tmp_path):
    """Runs the script on these pairs, of photos in two shards."""

    def compared(pairs, *, without=(), made_with=None):
        gallery, file = tmp_path / "gallery", tmp_path / "pairs.txt"
        file.write_text(pairs)
        shards.claim(gallery, {"distance": "manhattan"} if made_with is None else made_with, shards=2)
        photos = PHOTOS | (BROKEN if "Ed" in pairs else {})
        there = [photo for photo in photos if photo not in without]
        for number, part in enumerate((there[:2], there[2:])):
            rows = np.array([[photos[photo]] * 2 for photo in part], np.float32)
            shards.write(gallery, number, rows, [shards.Row(lfw_path(*photo), 0) for photo in part])
        return scripts.run("lfw", f"--gallery={gallery}", f"--pairs={file}")

    return compared


def test_each_fold_is_judged_by_the_threshold_of_the_others(compared):
    """By 0.5, of all folds but the second, whose photos of Di lie apart: half of that fold is wrong."""
    told = compared("3 1\nAnn 1 2\nAnn 1 Bob 1\nDi 1 2\nAnn 2 Bob 1\nBob 1 2\nBob 2 Cy 1\n")
    assert (told.code, told.err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in told.out.splitlines())
    assert lines["accuracy"].startswith("0.8333 ± 0.1667 standard error, 95 % interval 0.4")
    assert lines["auc"].startswith("0.6667 95 % interval")
    assert lines["of"] == "3 pairs of one person and 3 of two"


def test_a_file_of_one_fold_has_no_standard_error(compared):
    told = compared("2\nAnn 1 2\nBob 1 2\nAnn 1 Bob 1\nAnn 1 Cy 1\n")
    assert told.out.startswith("accuracy       1.0000 95 % interval ")


def test_intervals_are_over_people(compared):
    told = compared("3\nAnn 1 2\nDi 1 2\nBob 1 2\nAnn 1 Bob 1\nAnn 2 Bob 1\nBob 2 Cy 1\n")
    distances, is_same = [0.5, 22.0, 0.5, 2.0, 1.5, 3.5], np.arange(6) < 3
    people = [[0, 0], [3, 3], [1, 1], [0, 1], [0, 1], [1, 2]]
    expected = verification(distances, is_same, subjects=people)
    lines = dict(line.split(maxsplit=1) for line in told.out.splitlines())
    for key in ("auc", "eer", "accuracy"):
        ends = f"interval {expected[f'{key}_low']:.4f} to {expected[f'{key}_high']:.4f}"
        assert lines[key].endswith(ends)
    assert not lines["auc"].endswith(f"to {verification(distances, is_same)['auc_high']:.4f}")


def test_what_is_wrong_is_told_in_a_line(compared):
    told = compared(PAIRS, without=[("Bob", 1), ("Cy", 1)])
    assert (told.code, told.out) == (2, "")
    assert "lacks 1 photos of the pairs, such as Bob/Bob_0001.jpg: give embed.py the folder" in told.err


@pytest.mark.parametrize(
    ("pairs", "made_with", "message"),
    [
        ("1\nAnn 1 2\n", None, r"lfw: --pairs: .*pairs\.txt has 1 lines after the first"),
        (PAIRS, {}, "gallery names no distance: write it anew"),
        (PAIRS, {"distance": ["manhattan"]}, "gallery names no distance: write it anew"),
        ("1\nAnn 1 2\nEd 1 Bob 1\n", None, r"pairs of .*pairs\.txt cannot be compared: embeddings hold NaN"),
    ],
)
def test_pairs_and_galleries_that_cannot_be_compared(compared, pairs, made_with, message):
    told = compared(pairs, made_with=made_with)
    assert (told.code, told.out) == (2, "")
    assert re.search(message, told.err)


def test_what_must_be_given():
    assert scripts.run("lfw", "--gallery=there").err == "lfw: --pairs must be given: --help tells more\n"
    assert "python experiments/lfw.py --gallery=" in scripts.run("lfw", "--help").out
