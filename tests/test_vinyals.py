"""Omniglot in Vinyals' split: every class is the character, and turned as, the split's file says."""

import re

import numpy as np
import pytest

from metric_jax.data import DataError, Images, datasets, decoding, load, sources, vinyals

CHARACTERS = [("Angelic", 0), ("Angelic", 1), ("Greek", 0)]
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 3, 1), dtype=np.uint8)


@pytest.fixture
def drawings(monkeypatch):
    """Two drawings of each of three characters, of which TFDS has one alphabet in each of its splits."""
    read = []

    def tfds(name, split, *, label_key, super_key, **options):
        assert (name, label_key, super_key) == ("omniglot", "alphabet_char_id", "alphabet")
        read.append(options)
        rows = slice(0, 4) if split == "train" else slice(4, 6)
        labels = np.repeat([number for _, number in CHARACTERS], 2).astype(np.int32)
        alphabets = np.repeat([alphabet for alphabet, _ in CHARACTERS], 2)
        ids = np.array([f"{split}/{number}" for number in (0, 1, 2, 3, 0, 1)])
        whole = Images(PIXELS, labels, ids, columns={"super": alphabets})
        return whole[rows]

    monkeypatch.setattr(sources, "tfds", tfds)
    return read


def split_file(folder, name, *lines):
    (folder / f"{name}.txt").write_text("".join(line + "\n" for line in lines))


def test_a_class_is_a_character_turned_against_the_clock(drawings, tmp_path):
    split_file(tmp_path, "trainval", "Greek/character01/rot090", "Angelic/character02/rot000")
    split_file(tmp_path, "test", "Angelic/character01/rot270")
    options = {"data_dir": "d", "size": 3, "channels": 1, "cache": "c"}
    train, test = vinyals.vinyals(str(tmp_path), "trainval", "test", **options)
    assert drawings == [options] * 2
    assert train.labels.tolist() == [1, 1, 0, 0]
    assert train.class_names == ("Greek/character01/rot090", "Angelic/character02/rot000")
    assert train.columns["super"].tolist() == ["Angelic", "Angelic", "Greek", "Greek"]
    assert train.columns["origin"].tolist() == ["Angelic/character02"] * 2 + ["Greek/character01"] * 2
    assert train.ids.tolist() == ["train/2", "train/3", *(f"test/{n}, turned by 90 degrees" for n in (0, 1))]
    np.testing.assert_array_equal(train.images[:2], PIXELS[2:4])
    for turned, image in zip(train.images[2:, ..., 0], PIXELS[4:, ..., 0], strict=True):
        expected = [[image[column, 2 - row] for column in range(3)] for row in range(3)]
        np.testing.assert_array_equal(turned, expected)
    np.testing.assert_array_equal(test.images, [np.rot90(image, 3) for image in PIXELS[:2]])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["Greek/character02/rot000"], "does not have: 'Greek/character02/rot000'"),
        (["Greek/character01/rot045"], "does not have: 'Greek/character01/rot045'"),
        (["Greek/character01/rot000"] * 2, "names no class, or one twice: take it from https"),
        ([], "names no class, or one twice"),
    ],
)
def test_files_of_another_kind(drawings, tmp_path, lines, message):
    split_file(tmp_path, "test", *lines)
    with pytest.raises(DataError, match=message):
        vinyals.vinyals(str(tmp_path), "test")


def test_classes_that_are_trained_on_and_tested_on(drawings, tmp_path):
    split_file(tmp_path, "trainval", "Greek/character01/rot000", "Angelic/character01/rot000")
    split_file(tmp_path, "val", "Greek/character01/rot000", "Angelic/character02/rot000")
    told = "1 classes, such as 'Greek/character01/rot000', are of data.train_split='trainval' and of data.test_split="
    with pytest.raises(DataError, match=told):
        load("vinyals", root=str(tmp_path), split="own", train_split="trainval", test_split="val")


def test_files_that_are_missing(tmp_path):
    with pytest.raises(
        DataError, match=r"data\.root is empty: say which folder holds test\.txt and its like, from"
    ):
        vinyals.vinyals("", "test")
    with pytest.raises(
        DataError, match=r"cannot read .*trainval\.txt, where data\.root is to hold the files of"
    ):
        load("vinyals", root=str(tmp_path), split="own", train_split="trainval")


@pytest.mark.parametrize(
    ("root", "told"),
    [
        ("{}", "cannot read {}/test.txt,"),
        ("~nobody_of_that_name", "cannot read ~nobody_of_that_name/val.txt,"),
    ],
)
def test_a_split_that_is_missing_is_told_before_any_image_is_read(monkeypatch, tmp_path, root, told):
    monkeypatch.setattr(sources, "prepared", lambda name, data_dir: None)
    split_file(tmp_path, "val", "Greek/character01/rot000")
    parts = {"train_split": "val", "test_split": "test"}
    with pytest.raises(DataError, match=re.escape(told.format(tmp_path))):
        datasets.check_prepared("vinyals", name="", data_dir="", root=root.format(tmp_path), **parts)


def test_the_split_of_the_papers(shared, monkeypatch):
    monkeypatch.setattr(
        decoding, "decode", lambda *_, **__: np.zeros((1, 1, 1), np.uint8)
    )  # of classes alone
    options = {"root": str(shared / "omniglot"), "data_dir": str(shared / "tfds")}
    train, test = load("vinyals", split="own", train_split="trainval", **options)
    assert (len(train), len(test)) == (4800 * 20, 1692 * 20)  # 1,200 and 423 characters, in four rotations
    for part, name in ((train, "trainval"), (test, "test")):
        assert (
            "".join(f"{line}\n" for line in part.class_names) == (shared / f"omniglot/{name}.txt").read_text()
        )
        assert set(np.bincount(part.labels)) == {20}
        for label in range(0, len(part.class_names), 97):
            assert set(part[part.labels == label].columns["super"]) == {part.class_names[label].split("/")[0]}
    assert not set(train.class_names) & set(test.class_names)
