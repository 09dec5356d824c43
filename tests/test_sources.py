"""Sources: what is decoded is what was stored, and what cannot be read is told in one line with a remedy."""

import io
import json
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from metric_jax.data import DataError, Images, decoding, drawers, sources

# --- arrays in memory -------------------------------------------------------------------------------------------------


def labelled(images, *labels):
    return Images(np.asarray(images, np.uint8), np.array(labels, np.int32))


def test_images_are_chosen_by_index_mask_and_slice():
    images = labelled(np.arange(4).reshape(4, 1, 1, 1), 7, 8, 7, 9)
    for choice, expected in (
        (np.array([2, 0]), [2, 0]),
        (images.labels == 7, [0, 2]),
        (slice(1, 3), [1, 2]),
    ):
        chosen = images[choice]
        assert len(chosen) == len(expected)
        assert chosen.images.ravel().tolist() == expected
        assert chosen.labels.tolist() == images.labels[expected].tolist()
        assert chosen.ids.tolist() == [str(number) for number in expected]  # an image keeps its own


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 8, 8), np.uint8), np.zeros(2, np.int32), r"got \[2, 8, 8\] uint8"),
        (np.zeros((2, 8, 8, 1), np.float32), np.zeros(2, np.int32), r"got \[2, 8, 8, 1\] float32"),
        (
            np.zeros((2, 8, 8, 1), np.uint8),
            np.zeros(2, np.int64),
            r"labels must be \[2\] int32.* got \[2\] int64",
        ),
        (np.zeros((2, 8, 8, 1), np.uint8), np.zeros(3, np.int32), r"labels must be \[2\] int32.* got \[3\]"),
        (np.zeros((2, 8, 8, 1), np.uint8), np.zeros((2, 1), np.int32), r"got \[2, 1\]"),
    ],
)
def test_arrays_that_are_no_labelled_images(images, labels, message):
    with pytest.raises(DataError, match=message):
        Images(images, labels)


def test_images_and_classes_have_the_names_that_they_are_given():
    pixels, labels = np.zeros((3, 1, 1, 1), np.uint8), np.array([1, 0, 1], np.int32)
    images = Images(pixels, labels, np.array(["c", "a", "b"]), ("Ada", "Bob"))[np.array([2, 1])]
    assert images.ids.tolist() == ["b", "a"]
    assert [images.class_name(label) for label in images.labels] == ["Bob", "Ada"]
    assert Images(pixels, labels).class_name(1) == "1"
    assert len(images[images.labels > 5]) == 0


@pytest.mark.parametrize(
    ("ids", "class_names", "message"),
    [
        (np.array(["a"]), (), r"ids must be \[2\] strings, one for every image, got \[1\]"),
        (np.array([1, 2]), (), r"ids must be \[2\] strings.* got \[2\] int64"),
        (np.array(["a", "b"]), ("Ada",), "class 1 has no name, as there are 1 class_names"),
    ],
)
def test_names_that_do_not_fit(ids, class_names, message):
    with pytest.raises(DataError, match=message):
        Images(np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 1], np.int32), ids, class_names)


def test_digits():
    digits, raw = sources.digits(), load_digits()
    assert digits.images.shape == (1797, 8, 8, 1)
    assert (digits.images.min(), digits.images.max()) == (0, 255)
    np.testing.assert_array_equal(np.round(digits.images[..., 0] / 255 * 16), raw.images)
    np.testing.assert_array_equal(digits.labels, raw.target)
    assert digits.class_name(7) == "7"
    assert digits.ids[[0, -1]].tolist() == ["0", "1796"]


def test_rotations_are_further_classes():
    images = labelled(np.arange(2 * 3 * 3 * 2).reshape(2, 3, 3, 2), 1, 4)
    turned = sources.with_rotations(images)
    expected = [np.rot90(image, quarter) for quarter in range(4) for image in images.images]
    np.testing.assert_array_equal(turned.images, expected)
    assert turned.labels.tolist() == [1, 4, 6, 9, 11, 14, 16, 19]
    assert turned.ids[2:4].tolist() == ["0, turned by 90 degrees", "1, turned by 90 degrees"]
    assert turned.columns["origin"].tolist() == ["1", "4"] * 4
    assert sources.with_mirrors(turned).columns["origin"].tolist() == ["1", "4"] * 8
    named = Images(images.images, images.labels, class_names=tuple("abcdefg"))  # f and g have no images
    turned = sources.with_rotations(named)
    assert turned.columns["origin"].tolist() == ["b", "e"] * 4
    assert [turned.class_name(label) for label in turned.labels[[0, 1, 3, 7]]] == [
        "b",
        "e",
        "e, turned by 90 degrees",
        "e, turned by 270 degrees",
    ]


def test_mirrored_images_are_further_classes():
    images = labelled(np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2), 1, 4)
    both = sources.with_mirrors(images)
    np.testing.assert_array_equal(both.images, [*images.images, *map(np.fliplr, images.images)])
    assert both.labels.tolist() == [1, 4, 6, 9]
    assert both.ids[2:].tolist() == ["0, mirrored", "1, mirrored"]
    both = sources.with_mirrors(Images(images.images, images.labels, class_names=tuple("abcde")))
    assert [both.class_name(label) for label in both.labels] == ["b", "e", "b, mirrored", "e, mirrored"]


def test_rotations_that_cannot_be():
    with pytest.raises(DataError, match=r"not square.*data\.size"):
        sources.with_rotations(labelled(np.zeros((1, 2, 3, 1)), 0))
    largest = np.iinfo(np.int32).max // 4
    assert sources.with_rotations(labelled(np.zeros((1, 2, 2, 1)), largest)).labels[-1] == 4 * largest + 3
    with pytest.raises(DataError, match="does not fit int32"):
        sources.with_rotations(labelled(np.zeros((1, 2, 2, 1)), largest + 1))


# --- prepared TFDS sets -----------------------------------------------------------------------------------------------


def png(image):
    """A file, not its bytes: bytes would be taken for the path of one."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    file.seek(0)
    return file


def prepare(folder, records, **features):
    """A TFDS set called tiny, with the splits that the records are given by."""
    import tensorflow_datasets as tfds

    home = pathlib.Path(folder) / "tiny/1.0.0"
    home.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity("tiny", tfds.core.Version("1.0.0"), str(home), module_name="")
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": np.int64, **features})
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    writer = tfds.core.SequentialWriter(info, 1000, file_format="array_record")
    writer.initialize_splits(list(records))
    writer.add_examples(records)
    writer.close_all()
    return str(folder)


GREYS = np.arange(5 * 3 * 4, dtype=np.uint8).reshape(5, 3, 4)
LABELS = [3, 1, 3, 1, 2]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    colour = np.stack([GREYS[0]] * 2 + [GREYS[1]], axis=-1)
    greys = [
        {
            "image": png(image),
            "label": label,
            "note": "of no class",
            "score": 0.5,
            "wave": image.astype(np.float32),
        }
        for image, label in zip(GREYS, LABELS, strict=True)
    ]
    records = {
        "train": greys,
        "mixed": [greys[0] | {"image": png(GREYS[0])}, greys[1] | {"image": png(colour)}],
        "unequal": [greys[0] | {"image": png(GREYS[0])}, greys[1] | {"image": png(GREYS[1].T.copy())}],
        "unlabelled": [greys[0] | {"image": png(GREYS[0]), "label": -1}],
        "large": [greys[0] | {"image": png(GREYS[0]), "label": 2**31}],
        "junk": [greys[0] | {"image": png(GREYS[0])}, greys[1] | {"image": io.BytesIO(b"hello")}],
        "empty": [],
    }
    from tensorflow_datasets import features

    wave = features.Tensor(shape=(3, 4), dtype=np.float32)
    return prepare(
        tmp_path_factory.mktemp("sets"), records, note=features.Text(), score=np.float32, wave=wave
    )


def test_tfds_reads_what_was_stored(tiny, capsys):
    images = sources.tfds("tiny", "train", data_dir=tiny)
    np.testing.assert_array_equal(images.images, GREYS[..., None])
    assert images.images.flags.writeable
    assert images.labels.tolist() == LABELS
    assert images.ids.tolist() == [f"train/{number}" for number in range(5)]
    assert images.class_name(3) == "3"  # the set has no names for its classes
    part = sources.tfds("tiny:1.0.0", "train[1:3]", data_dir=tiny)
    np.testing.assert_array_equal(part.images, GREYS[1:3, ..., None])
    assert part.labels.tolist() == LABELS[1:3]
    assert "tensorflow" not in sys.modules
    assert capsys.readouterr() == ("", "")  # the bar is for terminals


def test_tfds_gives_grey_images_three_channels_beside_colour(tiny):
    images = sources.tfds("tiny", "mixed", data_dir=tiny).images
    np.testing.assert_array_equal(images[0], np.stack([GREYS[0]] * 3, axis=-1))
    np.testing.assert_array_equal(images[1], np.stack([GREYS[0]] * 2 + [GREYS[1]], axis=-1))


def test_tfds_resizes(tiny):
    images = sources.tfds("tiny", "unequal", data_dir=tiny, size=2)
    assert images.images.shape == (2, 2, 2, 1)
    assert sources.tfds("tiny", "unequal", data_dir=tiny, size=2, channels=3).images.shape == (2, 2, 2, 3)


def test_tfds_knows_what_classes_are_called(tmp_path):
    from tensorflow_datasets import features

    records = [{"image": png(GREYS[0]), "label": 0, "who": label} for label in (1, 0)]
    who = features.ClassLabel(names=["Ada", "Bob"])
    images = sources.tfds(
        "tiny", "train", data_dir=prepare(tmp_path, {"train": records}, who=who), label_key="who"
    )
    assert [images.class_name(label) for label in images.labels] == ["Bob", "Ada"]


def test_tfds_takes_texts_for_classes_and_knows_the_class_of_a_class(tmp_path):
    from tensorflow_datasets import features

    people = ["Zoé", "Ada", "Zoé", "Bob"]
    records = [
        {"image": png(GREYS[0]), "label": number, "who": who, "kind": number % 2}
        for number, who in enumerate(people)
    ]
    kinds = {"who": features.Text(), "kind": features.ClassLabel(names=["one", "other"])}
    data_dir = prepare(tmp_path, {"train": records}, **kinds)
    for cache in ("", str(tmp_path / "cache"), str(tmp_path / "cache")):
        images = sources.tfds(
            "tiny", "train", data_dir=data_dir, label_key="who", super_key="kind", cache=cache
        )
        assert images.class_names == ("Ada", "Bob", "Zoé")
        assert images.labels.tolist() == [2, 0, 2, 1]
        assert images.columns["super"].tolist() == ["one", "other"] * 2
    assert (
        sources.tfds("tiny", "train", data_dir=data_dir, super_key="who").columns["super"].tolist() == people
    )
    numbered = sources.tfds("tiny", "train", data_dir=data_dir, super_key="label").columns["super"]
    assert numbered.tolist() == ["0", "1", "2", "3"]


def test_tfds_takes_any_image_and_any_integer(tmp_path):
    from tensorflow_datasets import features

    records = [{"image": png(GREYS[0]), "drawing": png(GREYS[1]), "label": 0, "writer": 5}]
    folder = prepare(tmp_path, {"train": records}, drawing=features.Image(), writer=np.uint8)
    images = sources.tfds("tiny", "train", data_dir=folder, image_key="drawing", label_key="writer")
    np.testing.assert_array_equal(images.images[0, ..., 0], GREYS[1])
    assert images.labels.tolist() == [5]


def test_tfds_shows_a_bar_on_a_terminal(tiny, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    sources.tfds("tiny", "train", data_dir=tiny)
    assert "reading tiny train" in terminal.getvalue()
    assert "image" in terminal.getvalue()


def test_tfds_looks_where_the_environment_says(tiny, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", tiny)
    assert len(sources.tfds("tiny", "train")) == 5
    monkeypatch.setenv("TFDS_DATA_DIR", "")
    monkeypatch.setenv("HOME", "/nowhere")
    with pytest.raises(DataError, match="not prepared in /nowhere/tensorflow_datasets: "):
        sources.tfds("tiny", "train")
    monkeypatch.setenv("TFDS_DATA_DIR", "~nobody-at-all/sets")
    with pytest.raises(DataError, match="not prepared in ~nobody-at-all/sets: "):
        sources.tfds("tiny", "train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, r"data\.name is empty"),
        ({"size": -1}, r"data\.size must not be negative, got -1"),
        ({"size": 8193}, r"data\.size must be at most 8192, got 8193"),
        ({"channels": 4}, r"data\.channels must be 1 \(grey\), 3 \(colour\) or 0 \(as they are\), got 4"),
        ({"split": "trian"}, "no split 'trian', but train, .* or a part such as "),
        ({"split": "train[2"}, r"no split 'train\[2'"),
        ({"split": "train[:0]"}, r"split 'train\[:0\]' of tiny is empty"),
        ({"split": "empty"}, "split 'empty' of tiny is empty"),
        ({"label_key": "lable"}, "unknown feature of tiny 'lable', did you mean 'label'?"),
        ({"image_key": "picture"}, "unknown feature of tiny 'picture'.* There is: image, label"),
        ({"image_key": "wave"}, r"feature 'wave' of tiny is no image: set data\.image_key"),
        ({"label_key": "wave"}, r"feature 'wave' of tiny is no class: set data\.label_key to an integer"),
        ({"super_key": "wave"}, r"feature 'wave' of tiny is no class: set data\.super_key to an integer"),
        ({"super_key": "alphabt"}, "unknown feature of tiny 'alphabt'"),
        ({"label_key": "score"}, "feature 'score' of tiny is no class"),
        ({"label_key": "image"}, "feature 'image' of tiny is no class"),
        ({"split": "unequal"}, r"images of tiny differ in size, from 3×4 to 4×3: set data\.size"),
        ({"split": "unlabelled"}, "class -1 in 'label' of tiny unlabelled: negative numbers mark"),
        ({"split": "large"}, "class 2147483648 in 'label' of tiny large does not fit int32"),
        (
            {"split": "junk"},
            r"cannot be read \(image 1: not a JPEG, PNG, WebP, PGM, PPM or BMP file\): build it anew",
        ),
    ],
)
def test_tfds_names_what_does_not_fit(tiny, options, message):
    with pytest.raises(DataError, match=message) as caught:
        sources.tfds(**{"name": "tiny", "split": "train", "data_dir": tiny, **options})
    assert "\n" not in str(caught.value)
    assert ("build it anew" in str(caught.value)) == (options.get("split") == "junk")


def test_tfds_set_that_is_not_prepared(tmp_path):
    folder = tmp_path / "my sets"
    build = f".venv/bin/python -m metric_jax.data.prepare mnist --data_dir='{folder}'"
    remedy = f".venv/bin/pip install -e '.[prepare]' && {build}"
    with pytest.raises(DataError, match=f"{re.escape(remedy)}$"):
        sources.tfds("mnist", "train", data_dir=str(folder))


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def in_another_format(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fileFormat": "tfrecord"}))


def without_splits(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"splits": []}))


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("tiny-train.array_record-00000", cut),
        ("tiny-train.array_record-00000", pathlib.Path.unlink),
        ("dataset_info.json", cut),
        ("dataset_info.json", in_another_format),
        ("dataset_info.json", without_splits),
        ("features.json", cut),
        ("features.json", pathlib.Path.unlink),
    ],
)
def test_tfds_set_that_is_broken(tiny, tmp_path, file, harm):
    shutil.copytree(f"{tiny}/tiny", tmp_path / "tiny")
    harm(tmp_path / "tiny/1.0.0" / file)
    with pytest.raises(DataError, match=r"cannot be read \(.+\): build it anew: .* --overwrite$") as caught:
        sources.tfds("tiny", "train", data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


# --- real ones --------------------------------------------------------------------------------------------------------


def stored(shared, name, split):
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    return tfds.data_source(name, split=split, data_dir=shared / "tfds", download=False, decoders=decoders)


def test_mnist(shared):
    images = sources.tfds("mnist", "test[:200]", data_dir=str(shared / "tfds"))
    records = stored(shared, "mnist", "test[:200]")
    expected = [np.asarray(Image.open(io.BytesIO(record["image"]))) for record in records]
    np.testing.assert_array_equal(images.images[..., 0], expected)
    assert images.labels.tolist() == [record["label"] for record in records]


def test_omniglot_is_black_and_white(shared):
    images = sources.tfds("omniglot", "train[:50]", data_dir=str(shared / "tfds"))
    assert images.images.shape == (50, 105, 105, 1)
    assert set(np.unique(images.images)) == {0, 255}
    assert 0.9 < np.mean(images.images == 255) < 1  # ink on paper


def test_omniglot_has_its_classes_and_each_of_twenty_people_drew_each_once(shared, monkeypatch):
    monkeypatch.setattr(decoding, "decode", lambda *_, **__: np.zeros((1, 1, 1), np.uint8))  # of labels alone
    characters = []
    for split, count, classes in (("train", 19_280, 964), ("test", 13_180, 659)):
        records = [
            (r["label"], r["alphabet"], r["alphabet_char_id"]) for r in stored(shared, "omniglot", split)
        ]
        images = sources.tfds("omniglot", split, data_dir=str(shared / "tfds"))
        assert images.labels.tolist() == [label for label, *_ in records]
        assert (len(images), len(np.unique(images.labels)), len(set(records))) == (count, classes, classes)
        assert set(np.unique(images.labels, return_counts=True)[1]) == {20}
        characters.append({record[1:] for record in records})
        people = drawers(images)
        alphabets = {alphabet for _, alphabet, _ in records}
        assert set(people) == set(range(20 * len(alphabets)))
        assert len(set(zip(images.labels.tolist(), people.tolist(), strict=True))) == len(images)
    assert not set.intersection(*characters)
