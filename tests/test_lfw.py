"""LFW's file of pairs: what is in it, and what is wrong with it."""

import numpy as np
import pytest

from metric_jax.evaluation import lfw_path, read_pairs, verification

GOOD = [
    "2\t2",
    "Ann_Ho\t1\t4",
    "Bo_Li\t2\t1",
    "Ann_Ho\t1\tBo_Li\t3",
    "Cy\t12\tAnn_Ho\t4",
    "Cy\t1\t12",
    "Di\t1\t2",
    "Di\t1\tCy\t1",
    "Bo_Li\t1\tDi\t2",
]


@pytest.fixture
def write(tmp_path):
    def write(lines):
        path = tmp_path / "pairs.txt"
        path.write_bytes(lines if isinstance(lines, bytes) else "\n".join(lines).encode())
        return path

    return write


@pytest.mark.parametrize("change", ["", "\n", "\r\n\n", " "])
@pytest.mark.parametrize("separator", ["\t", "  "])
def test_a_good_file(write, change, separator):
    lines = [line.replace("\t", separator) + ("\r" if "\r" in change else "") for line in GOOD]
    pairs = read_pairs(str(write([*lines, change])))
    assert pairs.first == [
        *(("Ann_Ho", 1), ("Bo_Li", 2), ("Ann_Ho", 1), ("Cy", 12)),
        *(("Cy", 1), ("Di", 1), ("Di", 1), ("Bo_Li", 1)),
    ]
    assert pairs.second == [
        *(("Ann_Ho", 4), ("Bo_Li", 1), ("Bo_Li", 3), ("Ann_Ho", 4)),
        *(("Cy", 12), ("Di", 2), ("Cy", 1), ("Di", 2)),
    ]
    assert pairs.is_same.tolist() == [True, True, False, False] * 2
    assert pairs.folds.tolist() == [0] * 4 + [1] * 4


def test_the_whole_protocol(write):
    """Ten folds of 300 and 300, as LFW's own file has them, and what is said of distances that are right in 9 of 10."""
    lines = ["10\t300"]
    for fold in range(10):
        lines += [f"Person_{fold}\t{i}\t{i + 1}" for i in range(1, 301)]
        lines += [f"Person_{fold}\t{i}\tOther_{fold}\t{i}" for i in range(1, 301)]
    pairs = read_pairs(write(lines))
    assert len(pairs.first) == len(pairs.second) == len(pairs.is_same) == 6000
    assert np.bincount(pairs.folds).tolist() == [600] * 10
    assert np.bincount(pairs.folds, weights=pairs.is_same).tolist() == [300.0] * 10
    wrong = np.arange(6000) % 10 == 0
    found = verification(np.where(pairs.is_same == wrong, 2.0, 1.0), pairs.is_same, folds=pairs.folds)
    assert (found["accuracy"], found["accuracy_std"]) == (pytest.approx(0.9), pytest.approx(0.0))


def test_a_file_of_one_fold(write):
    pairs = read_pairs(write(["1", "Ann 1 2", "Ann 1 Bo 1"]))
    assert (pairs.is_same.tolist(), pairs.folds.tolist()) == ([True, False], [0, 0])


@pytest.mark.parametrize(
    ("number", "line", "message"),
    [
        (
            1,
            "",
            "line 1: the number of folds and of pairs of a kind in each, such as '10 300', was expected, got ''",
        ),
        (1, "2 2 2", "line 1: the number of folds"),
        (1, "2 x", "line 1: the number of folds"),
        (1, "2 0", "line 1: the number of folds"),
        (1, "-2 2", "line 1: the number of folds"),
        (1, "2 3", "has 8 lines after the first, which promises 2 x 2 x 3 = 12: is the file complete?"),
        (1, "1 2", "has 8 lines after the first, which promises 2 x 1 x 2 = 4"),
        (3, "Bo 1 Cy 2", "line 3: 'name i j', two photos of one person, was expected, got 'Bo 1 Cy 2'"),
        (3, "", "line 3: 'name i j'"),
        (4, "Bo 1 2", "line 4: 'name i other j', two persons, was expected, got 'Bo 1 2'"),
        (6, "Bo 1 Cy 2", "line 6: 'name i j'"),
        (9, "Bo 1 Cy 2 3", "line 9: 'name i other j'"),
        (3, "Bo 0 2", "line 3: the number of a photo, from 1, was expected, got '0'"),
        (3, "Bo 1 two", "line 3: the number of a photo, from 1, was expected, got 'two'"),
        (3, "Bo 1 ²", "line 3: the number of a photo, from 1, was expected, got '²'"),
        (3, f"Bo 1 {'9' * 5000}", "line 3: the number of a photo, from 1, was expected"),
        (3, "Bo 2 2", "line 3: a photo is compared with itself"),
        (4, "Bo 1 Bo 2", "line 4: two different persons were expected"),
        (4, "../Bo 1 Cy 2", "line 4: '../Bo' is not the name of a person's folder"),
        (4, "Bo 1 .. 2", "line 4: '..' is not the name of a person's folder"),
    ],
)
def test_what_is_wrong_is_named(write, number, line, message):
    path = write([*GOOD[: number - 1], line, *GOOD[number:]])
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the message is looked at as a whole
        read_pairs(path)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)
    assert len(str(raised.value)) < 300 + len(str(path))


def test_what_is_no_file_of_pairs(write, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        read_pairs(tmp_path / "missing.txt")
    with pytest.raises(ValueError, match="is no text file"):
        read_pairs(write(b"\xff\xd8\xff\xe0 a photo"))


def test_path_of_a_photo():
    assert lfw_path("Ann_Ho", 12) == "Ann_Ho/Ann_Ho_0012.jpg"
    assert lfw_path("Ann_Ho", 12345) == "Ann_Ho/Ann_Ho_12345.jpg"
    for name in ("", ".", "..", "a/b", "..\\b", "C:"):
        with pytest.raises(ValueError, match="is not the name of a person's folder"):
            lfw_path(name, 1)
    with pytest.raises(ValueError, match="photos are numbered from 1, got 0 of Ann_Ho"):
        lfw_path("Ann_Ho", 0)
