"""Shards of embeddings: what is read is what was written, or an error that names the file."""

import json
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from metric_jax.data import DataError, shards

ROWS = [shards.Row(name, label) for name, label in [("a/é\n</script>.png", 0), ("b", -1), ("c", 2**31 - 1)]]
EMBEDDINGS = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
MADE_WITH = {"step": 3, "model": "abc"}


@pytest.fixture
def written(tmp_path):
    """Two shards, of two rows and of one."""
    folder = tmp_path / "embedded"
    shards.claim(folder, MADE_WITH, shards=2, class_names=["Ada"])
    shards.write(folder, 0, EMBEDDINGS[:2], ROWS[:2])
    shards.write(folder, 1, EMBEDDINGS[2:], ROWS[2:])
    return folder


def test_what_is_read_is_what_was_written(written):
    found = shards.read(written)
    assert all(isinstance(shard, np.memmap) and not shard.flags.writeable for shard in found.shards)
    assert [len(shard) for shard in found.shards] == [2, 1]
    np.testing.assert_array_equal(np.concatenate(found.shards), EMBEDDINGS)
    assert found.ids.tolist() == [row.id for row in ROWS]
    assert found.labels.tolist() == [row.label for row in ROWS]
    assert (found.class_names, found.made_with) == (("Ada",), MADE_WITH)
    assert sorted(path.name for path in written.iterdir()) == [
        "embeddings-00000.npy",
        "embeddings-00001.npy",
        "ids-00000.jsonl",
        "ids-00001.jsonl",
        "manifest.json",
    ]
    np.testing.assert_array_equal(
        np.load(written / "embeddings-00001.npy", allow_pickle=False), EMBEDDINGS[2:]
    )


def test_a_shard_without_rows_is_one(written):
    shards.write(written, 1, np.zeros((0, 2), np.float32), [])
    assert shards.read(written).ids.tolist() == ["a/é\n</script>.png", "b"]


def test_the_same_may_go_on_and_others_may_not(written):
    shards.claim(written, MADE_WITH, shards=2, class_names=["Ada"])
    assert shards.is_written(written, 1)
    with pytest.raises(DataError, match=r"with another step \(3 there, 4 here\): choose another folder"):
        shards.claim(written, MADE_WITH | {"step": 4}, shards=2)
    with pytest.raises(
        DataError, match=r"with another model \(abc there, None here\), step \(3 there, None here\): choose"
    ):
        shards.claim(written, {}, shards=2)
    with pytest.raises(
        DataError,
        match=r"embedded holds embeddings of other images \(None there, x here\): choose another folder",
    ):
        shards.claim(written, MADE_WITH | {"images": "x"}, shards=2)
    (written / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"holds embeddings without manifest\.json"):
        shards.claim(written, MADE_WITH, shards=2)


def test_a_shard_is_there_as_a_whole_or_not_at_all(written, monkeypatch):
    """The disk is full, or the process dies, when half of it is written."""
    before = (written / "embeddings-00000.npy").read_bytes()
    (written / "embeddings-00001.npy").unlink()

    def half(file, array, **options):
        file.write(before[:50])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", half)
    for number in (0, 1):
        with pytest.raises(OSError, match="No space left"):
            shards.write(written, number, EMBEDDINGS[:2] + 1, ROWS[:2])
    assert [shards.is_written(written, number) for number in (0, 1)] == [True, False]
    assert (written / "embeddings-00000.npy").read_bytes() == before
    with pytest.raises(DataError, match="holds 1 of 2 shards of embeddings: run again what wrote them"):
        shards.read(written)


class Planted:
    def __reduce__(self):
        return pytest.fail, ("a pickle was run",)


def plant(path):
    path.write_bytes(pickle.dumps(Planted()))


def plant_in_an_array(path):
    np.save(path, np.array([[Planted()]]), allow_pickle=True)


def overstate(path):
    """Declares 10 GB, and holds nothing."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (10**8, 25)}
        )


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        ("embeddings-00001.npy", plant, "is no array"),
        ("embeddings-00001.npy", plant_in_an_array, "is no array"),
        ("embeddings-00001.npy", overstate, "is no array"),
        ("embeddings-00001.npy", lambda path: path.write_bytes(b""), "is no array"),
        ("embeddings-00001.npy", lambda path: path.write_bytes(path.read_bytes()[:-1]), "is no array"),
        (
            "embeddings-00001.npy",
            lambda path: np.save(path, np.zeros(3)),
            r"holds no embeddings \[rows, dim\]",
        ),
        ("embeddings-00001.npy", lambda path: np.save(path, np.zeros((1, 2), int)), "holds no embeddings"),
        ("embeddings-00001.npy", lambda path: np.save(path, np.zeros((2, 2))), "1 lines for 2 embeddings"),
        ("ids-00001.jsonl", lambda path: path.unlink(), "is missing or broken"),
        ("ids-00001.jsonl", lambda path: path.write_text('{"id": "a"'), "is missing or broken"),
        ("ids-00001.jsonl", lambda path: path.write_text('{"id": "a"}'), "is missing or broken"),
        ("ids-00001.jsonl", lambda path: path.write_text("[1]"), "is missing or broken"),
        ("ids-00001.jsonl", lambda path: path.write_text("[" * 10**5), "is missing or broken"),
        ("ids-00001.jsonl", lambda path: path.write_text('{"id": null, "label": 1}'), "id None is no string"),
        (
            "ids-00001.jsonl",
            lambda path: path.write_text('{"id": "a", "label": 1.9}'),
            "label 1.9 is no integer",
        ),
        (
            "ids-00001.jsonl",
            lambda path: path.write_text('{"id": "a", "label": true}'),
            "label True is no integer",
        ),
    ],
)
def test_a_broken_shard_is_named_and_counts_as_not_written(written, file, harm, message):
    harm(written / file)
    with pytest.raises(DataError, match=f"{message}.*: write (it|them) anew"):
        shards.read(written)
    assert not shards.is_written(written, 1)
    shards.write(written, 1, EMBEDDINGS[2:], ROWS[2:])
    assert len(shards.read(written).ids) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"manifest\.json is broken"),
        ("[]", r"manifest\.json is broken"),
        ('{"shards": 1}', r"manifest\.json is broken"),
        pytest.param("[" * 10**5, r"manifest\.json is broken", id="nested"),
        *(
            (json.dumps({"made_with": {}, "shards": count, "class_names": []}), "is not what a folder of")
            for count in (0, -1, True)
        ),
        (
            json.dumps({"made_with": {}, "shards": "1", "class_names": []}),
            "is not what a folder of embeddings has",
        ),
    ],
)
def test_a_broken_manifest(written, content, message):
    (written / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=message):
        shards.read(written)


@pytest.mark.parametrize(
    ("embeddings", "row", "message"),
    [
        (np.zeros((1, 2), int), ROWS[0], "embeddings must be floating, got int64"),
        (np.zeros((1, 2), jnp.bfloat16), ROWS[0], "embeddings must be floating, got bfloat16: convert with"),
        (EMBEDDINGS[:1], shards.Row(None, 1), "the id None is no string"),
        (EMBEDDINGS[:1], shards.Row("a", 1.5), r"the label 1\.5 is no integer"),
        (EMBEDDINGS[:1], shards.Row("a", 2**40), "1099511627776"),
    ],
)
def test_what_could_not_be_read_is_not_written(written, embeddings, row, message):
    before = {path: path.read_bytes() for path in written.iterdir()}
    with pytest.raises((TypeError, ValueError, OverflowError), match=message):
        shards.write(written, 0, embeddings, [row])
    assert {path: path.read_bytes() for path in written.iterdir()} == before


def test_folders_without_embeddings_and_shards_that_do_not_fit(written, tmp_path):
    with pytest.raises(DataError, match=r"holds no embeddings: it has no manifest\.json"):
        shards.read(tmp_path)
    with pytest.raises(ValueError, match=r"2 rows for embeddings \[3, 2\]"):
        shards.write(written, 0, EMBEDDINGS, ROWS[:2])
    shards.write(written, 1, np.zeros((1, 5), np.float32), ROWS[:1])
    with pytest.raises(DataError, match="differ in dimension"):
        shards.read(written)
