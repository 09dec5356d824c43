"""From names to a training and a test set: what is read, how it is parted, and what is refused before a run starts."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest

from metric_jax.data import DataError, Images, datasets, decoding, folder, load, sources, splits


def same(one, other):
    parts = ("images", "labels", "ids")
    return all(np.array_equal(getattr(one, part), getattr(other, part)) for part in parts)


@pytest.fixture
def stored(monkeypatch):
    """TFDS sets that a test puts in by the name of their split, and the options that they were read with."""
    sets, read = {}, []

    def tfds(name, split, **options):
        read.append({"name": name, **options})
        return sets[split]

    monkeypatch.setattr(sources, "tfds", tfds)
    sets["read"] = read
    return sets


def images(labels, shape=(2, 2, 1), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), *shape), dtype=np.uint8)
    return Images(pixels, np.array(labels, np.int32))


def test_digits_by_image():
    train, test = load("digits", split="image", test_fraction=0.3, split_seed=2)
    expected = splits.by_image(sources.digits(), test_fraction=0.3, seed=2)
    assert same(train, expected[0])
    assert same(test, expected[1])


@pytest.mark.parametrize(("mirrors", "classes"), [(False, 24), (True, 48)])
def test_digits_by_class_with_rotations_and_mirrors_of_the_training_classes(mirrors, classes):
    train, test = load(
        "digits", split="class", test_fraction=0.4, split_seed=1, rotations=True, mirrors=mirrors
    )
    expected = splits.by_class(sources.digits(), test_fraction=0.4, seed=1)
    turned = sources.with_rotations(expected[0])
    assert same(train, sources.with_mirrors(turned) if mirrors else turned)
    assert len(set(train.labels)) == classes
    assert same(test, expected[1])


def test_the_digits_are_parted_by_image_by_default():
    train, test = load("digits")
    assert set(train.labels) == set(test.labels) == set(range(10))
    assert (len(train), len(test)) == (1438, 359)


def test_a_set_of_its_own_split(stored):
    stored["fit"], stored["probe"] = images([0, 0, 1]), images([5, 5, 6], seed=1)
    options = {"data_dir": "d", "image_key": "i", "label_key": "l", "super_key": "s"}
    options |= {"size": 2, "channels": 1, "crop": True, "cache": "c"}
    train, test = load("tfds", name="n", split="own", train_split="fit", test_split="probe", **options)
    assert train is stored["fit"]
    assert test is stored["probe"]
    assert stored["read"] == [{"name": "n", **options}] * 2


def test_a_set_that_is_parted_here_reads_only_its_training_split(stored):
    stored["fit"] = images(np.repeat(np.arange(6), 4))
    train, test = load("tfds", name="n", split="class", test_fraction=0.5, split_seed=3, train_split="fit")
    expected = splits.by_class(stored["fit"], test_fraction=0.5, seed=3)
    assert same(train, expected[0])
    assert same(test, expected[1])
    assert len(stored["read"]) == 1


def test_a_folder_is_parted_by_class_or_by_image(monkeypatch):
    read = []
    whole = images(np.repeat(np.arange(6), 4))

    def stored_folder(root, **options):
        read.append({"root": root, **options})
        return whole

    monkeypatch.setattr(folder, "folder", stored_folder)
    options = {"root": "r", "size": 2, "channels": 3, "crop": True, "skip_bad": True, "cache": "c"}
    for split, part in (
        ("class", functools.partial(splits.by_class, seed=3)),
        ("image", functools.partial(splits.by_image, seed=3)),
        ("in_order", splits.in_order),
    ):
        train, test = load("folder", split=split, test_fraction=0.5, split_seed=3, **options)
        expected = part(whole, test_fraction=0.5)
        assert same(train, expected[0])
        assert same(test, expected[1])
    assert read == [options] * 3
    with pytest.raises(DataError, match=r"data\.split='own' needs a manifest with a column 'split'"):
        load("folder", root="r", split="own")


def test_a_manifest_has_a_split_of_its_own(monkeypatch):
    whole = images([0, 0, 1, 1, 2, 2, 3])
    whole = dataclasses.replace(whole, columns={"split": np.array("fit fit fit val val val unused".split())})
    monkeypatch.setattr(folder, "folder", lambda root, **_: whole)
    train, test = load("folder", root="r", split="own", train_split="fit", test_split="val")
    assert same(train, whole[:3])
    assert same(test, whole[3:6])
    with pytest.raises(DataError, match=r"unknown data\.test_split 'vall', did you mean 'val'\?"):
        load("folder", root="r", split="own", train_split="fit", test_split="vall")
    with pytest.raises(DataError, match=r"are both 'fit': test on another"):
        load("folder", root="r", split="own", train_split="fit", test_split="fit")


@pytest.mark.parametrize("split", ["own", "class", "in_order"])
def test_a_group_is_not_trained_on_and_tested_on(monkeypatch, split):
    """Ada and Eve are in one photo; whoever knows the one has seen the other."""
    whole = images(np.repeat(np.arange(4), 3))
    columns = {"group": np.array(list("abcdefghijka")), "split": np.array(["train"] * 6 + ["test"] * 6)}
    monkeypatch.setattr(folder, "folder", lambda root, **_: dataclasses.replace(whole, columns=columns))
    with pytest.raises(DataError, match="1 groups, such as 'a', have images to train on and others to test"):
        load("folder", root="r", split=split, test_fraction=0.5, split_seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"source": "digit"},
            r"unknown data\.source 'digit', did you mean 'digits'\? There is: digits, folder, tfds, vinyals",
        ),
        ({"source": "DIGITS"}, r"unknown data\.source 'DIGITS', did you mean 'digits'\?"),
        ({"split": "clas"}, r"unknown data\.split 'clas', did you mean 'class'\?"),
        ({"split": "own"}, "source='digits' has no split of its own: set data.split to 'image' or 'class'"),
        ({"source": "vinyals", "split": "class"}, "source='vinyals' is a split: set data.split to 'own'"),
        (
            {"source": "vinyals", "split": "own", "crop": True},
            "data.crop=True is not for data.source='vinyals'",
        ),
        ({"source": "folder", "super_key": "x"}, r"data.super_key='x' is not for .* to 'tfds'$"),
        ({"cache": "x"}, r"data.cache='x' is not for .*'folder' or 'tfds' or 'vinyals'$"),
        (
            {"name": "mnist"},
            "data.name='mnist' is not for data.source='digits': leave it, or set data.source to 'tfds'",
        ),
        ({"size": 28}, r"data.size=28 is not for .*: leave it, or set data.source to 'folder' or 'tfds' or "),
        ({"channels": 3}, "data.channels=3 is not for data.source='digits'"),
        ({"root": "x"}, r"data.root='x' is not for .* to 'folder' or 'vinyals'$"),
        ({"source": "folder", "name": "x"}, "data.name='x' is not for data.source='folder'"),
        ({"source": "tfds", "skip_bad": True}, r"data.skip_bad=True is not for .* to 'folder'$"),
        ({"source": "folder"}, "data.root is empty"),
        ({"test_fraction": 0.0}, "data.test_fraction must lie between"),
        ({"source": "folder", "root": "r", "size": "48"}, "data.size must be a whole number, got '48'"),
        ({"split_seed": 0.5}, "data.split_seed must be a whole number, got 0.5"),
        ({"split_seed": -1}, "data.split_seed must not be negative"),
    ],
)
def test_names_and_numbers_that_do_not_fit(options, message):
    with pytest.raises(DataError, match=message):
        load(**{"source": "digits", **options})


def test_names_are_looked_at_before_anything_is_read():
    datasets.check("tfds", "own")
    datasets.check("digits", "class")
    with pytest.raises(DataError, match=r"unknown data\.source"):
        datasets.check("faces", "image")
    with pytest.raises(DataError, match="no split of its own"):
        datasets.check("digits", "own")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"source": "tfds", "name": "mnist", "train_split": "test[:9]"},
            "reading mnist .* as far as image 2, ",
        ),
        (
            {"source": "folder", "root": "faces/orl", "skip_bad": True},
            r"orl was read as far as 's1/2\.pgm', ",
        ),
    ],
)
def test_images_are_not_to_blame_for_memory_that_is_full(shared, monkeypatch, options, told):
    count, decode = itertools.count(), decoding.decode

    def fill(*args, **options):
        if next(count) == 2:
            raise MemoryError
        return decode(*args, **options)

    monkeypatch.setattr(decoding, "decode", fill)
    monkeypatch.chdir(shared)
    with pytest.raises(DataError, match=rf"{told}and there is no memory for more: set a smaller data\.size"):
        load(**options, data_dir="tfds")


def test_nobody_is_tested_on_what_was_trained_on(stored):
    with pytest.raises(DataError, match="are both 'train': test on another"):
        load("tfds", name="n", split="own", test_split="train")
    assert not stored["read"]


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (images([3, 3, 3]), "all images to test on are of class 3, so that whatever is found is right"),
        (images([3, 4, 5]), "no class has two images to test on, so that nothing can be found"),
        (
            images([3, 3, 4], (4, 4, 1)),
            r"images to train and to test on differ, 2×2×1 and 4×4×1: set data\.size",
        ),
        (images([3, 3, 4], (2, 2, 3)), "differ, 2×2×1 and 2×2×3"),
    ],
)
def test_a_test_set_on_which_retrieval_means_nothing(stored, test, message):
    stored["train"], stored["test"] = images([0, 0, 1, 1]), test
    with pytest.raises(DataError, match=message):
        load("tfds", name="n", split="own")


def test_a_set_with_one_image_a_class_cannot_be_tested_on(stored):
    stored["train"] = images(np.arange(8))
    with pytest.raises(DataError, match="no class has two images"):
        load("tfds", name="n", split="class", test_fraction=0.5)


def test_a_test_set_of_one_class_is_told_by_its_name(stored):
    stored["train"] = images([0, 0, 1, 1])
    bobs = images([1, 1])
    stored["test"] = Images(bobs.images, bobs.labels, class_names=("Ada", "Bob"))
    with pytest.raises(DataError, match="all images to test on are of class Bob, so"):
        load("tfds", name="n", split="own")


def test_classes_too_small_to_be_trained_on_are_left_out_and_counted(stored, capsys):
    stored["train"], stored["test"] = images([0, 0, 0, 1, 2, 2, 2, 3, 3]), images([4, 4, 5])
    train, test = load("tfds", name="n", split="own", min_images=3, rotations=True)
    assert set(train.labels) == {0, 2, 3, 5, 6, 8, 9, 11}
    assert len(test) == 3  # tested on as it is
    told = "2 classes of fewer than 3 images are left out of the training set, 3 images in all\n"
    assert capsys.readouterr().err == told
    assert load("tfds", name="n", split="own", min_images=1)[0] is stored["train"]
    assert capsys.readouterr().err == ""
    with pytest.raises(
        DataError, match=r"no class of the training set has data\.min_images=4 images, but at most 3"
    ):
        load("tfds", name="n", split="own", min_images=4)
    with pytest.raises(DataError, match=r"data\.min_images must not be negative, got -1"):
        load("tfds", name="n", split="own", min_images=-1)


def test_classes_too_small_to_be_parted_are_left_out_before_that(monkeypatch, capsys):
    whole = images([0] * 10 + [1] * 7 + [2] * 8 + [3] * 2)
    monkeypatch.setattr(folder, "folder", lambda root, **_: whole)
    with pytest.raises(DataError, match=r"set data\.min_images=8 to leave out smaller classes"):
        load("folder", root="r")
    train, test = load("folder", root="r", split="image", min_images=8)
    assert [np.unique(part.labels, return_counts=True)[1].tolist() for part in (train, test)] == [
        [8, 6],
        [2, 2],
    ]
    load("folder", root="r", split="image", min_images=7, test_fraction=0.5)
    assert capsys.readouterr().err == (
        "2 classes of fewer than 8 images are left out of the set that is parted, 9 images in all\n"
        "1 class of fewer than 7 images is left out of the set that is parted, 2 images in all\n"
    )


def test_one_class_with_two_images_is_enough_to_be_tested_on(stored):
    stored["train"], stored["test"] = images([0, 0, 1, 1]), images([3, 4, 4])
    assert len(load("tfds", name="n", split="own")[1]) == 3
