"""The cache: what comes out of it is what went in, for as long as nothing changed that it depends on."""

import errno
import json
import os
import pathlib
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from metric_jax import files
from metric_jax.data import DataError, cache, decoding, folder, sources

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 1), dtype=np.uint8)
NOTES = {"kept": ["a", "é"], "numbers": [1, 2]}


def make():
    return cache.Decoded(IMAGES, NOTES)


def refuse():
    pytest.fail("was decoded again")


@pytest.fixture
def home(tmp_path):
    """A cache with one entry."""
    cache.through(str(tmp_path / "new/cache"), "three", ["described"], make)
    return tmp_path / "new/cache"


def test_what_was_decoded_once_is_mapped_into_memory(home):
    found = cache.through(str(home), "three", ["described"], refuse)
    assert isinstance(found.images, np.memmap)
    assert not found.images.flags.writeable
    np.testing.assert_array_equal(found.images, IMAGES)
    assert found.notes == NOTES
    assert len(list(home.iterdir())) == 2


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cache.through("", "three", [], make).images is IMAGES
    assert list(tmp_path.iterdir()) == []


def test_what_is_described_otherwise_is_another_entry(home):
    for described in (["describe"], ["described", 1], {"described": 1}):
        assert cache.through(str(home), "three", described, make).images is IMAGES
    assert len(list(home.glob("*.npy"))) == 4


def test_names_stay_in_the_folder(tmp_path):
    for name in ("../../x", "train[:10]/a b", "é" * 300):
        cache.through(str(tmp_path / "cache"), name, [], make)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


class Planted:
    def __reduce__(self):
        return pytest.fail, ("a pickle was run",)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def plant(path, write=lambda path: path.write_bytes(pickle.dumps(Planted()))):
    """A pickle under a checksum that is right."""
    write(path)
    described = {"sha256": cache._checksum(path, NOTES), "notes": NOTES}
    path.with_suffix(".json").write_text(json.dumps(described))


def plant_in_an_array(path):
    plant(path, lambda path: np.save(path, np.array([Planted()]), allow_pickle=True))


def misname(path):
    notes = path.with_suffix(".json")
    notes.write_text(notes.read_text().replace('"a"', '"b"'))


HARMS = {
    "a byte flipped": flip,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": pathlib.Path.unlink,
    "a pickle": plant,
    "a pickle in an array": plant_in_an_array,
    "notes cut off": lambda path: path.with_suffix(".json").write_text('{"sha256": '),
    "notes of another kind": lambda path: path.with_suffix(".json").write_text("[1]"),
    "notes changed": misname,
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_broken_entry_is_told_of_and_made_anew(home, capsys, harm):
    (path,) = home.glob("*.npy")
    harm(path)
    assert cache.through(str(home), "three", ["described"], make).images is IMAGES
    told = capsys.readouterr().err
    assert f"{path} in the cache is broken (" in told
    assert told.endswith("): the images are decoded anew\n")
    np.testing.assert_array_equal(cache.through(str(home), "three", ["described"], refuse).images, IMAGES)


def test_an_entry_without_its_notes_was_never_finished(home, capsys):
    next(home.glob("*.json")).unlink()
    cache.through(str(home), "three", ["described"], make)
    cache.through(str(home), "three", ["described"], refuse)
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_told_of_and_does_not_stop_a_run(tmp_path, monkeypatch, capsys):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "replace", full)
    assert cache.through(str(tmp_path), "three", [], make).images is IMAGES
    assert capsys.readouterr().err == f"cannot cache the images in {tmp_path}: No space left on device\n"
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_is_told_of_before_anything_is_decoded(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        DataError, match=r"data\.cache: cannot write to .*file/cache: Not a dir.*: name another"
    ):
        cache.through(str(tmp_path / "file/cache"), "three", [], refuse)
    for name, why in (("~nobody-at-all/cache", "Could not determine home"), ("a\0b", "embedded null")):
        with pytest.raises(DataError, match=f"cannot write to {name}: {why}.*: name another"):
            cache.through(name, "three", [], refuse)


def test_two_processes_that_make_one_entry_do_not_meet(tmp_path):
    """The second begins and ends while the first decodes, or the other way about."""

    def slow():
        np.testing.assert_array_equal(cache.through(str(tmp_path), "three", [], make).images, IMAGES)
        return make()

    cache.through(str(tmp_path), "three", [], slow)
    np.testing.assert_array_equal(cache.through(str(tmp_path), "three", [], refuse).images, IMAGES)
    assert len(list(tmp_path.iterdir())) == 2


# --- of folders and of TFDS -------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch):
    """How many images were decoded so far."""
    count = []
    decode = decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda *a, **options: count.append(1) or decode(*a, **options))
    return count


@pytest.fixture
def people(tmp_path):
    for number, name in enumerate(("Ada/1.png", "Ada/2.png", "Bob/1.png", "Bob/2.png")):
        path = tmp_path / "people" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4), 50 * number).save(path)
    return tmp_path / "people"


def test_a_folder_is_decoded_once_and_again_when_it_changed(people, tmp_path, decoded):
    def read(**options):
        before = len(decoded)
        cached = folder.folder(str(people), cache=str(tmp_path / "cache"), **options)
        count = len(decoded) - before
        plain = folder.folder(str(people), **options)
        np.testing.assert_array_equal(cached.images, plain.images)
        assert cached.ids.tolist() == plain.ids.tolist()
        assert cached.labels.tolist() == plain.labels.tolist()
        assert cached.class_names == plain.class_names
        return count

    assert [read(), read()] == [4, 0]
    assert [read(size=2), read(size=2, crop=True), read(channels=3), read()] == [4, 4, 4, 0]
    Image.new("L", (6, 4), 7).save(people / "Bob/2.png")  # of the same size in bytes, and later
    assert [read(), read()] == [4, 0]
    Image.new("L", (6, 4), 8).save(people / "Bob/3.png")
    assert [read(), read()] == [5, 0]
    (people / "Ada/1.png").rename(people / "Ada/0.png")
    assert [read(), read()] == [5, 0]
    (people / "Bob/3.png").unlink()
    assert [read(), read()] == [4, 0]


def test_a_folder_is_decoded_again_when_its_files_changed_places(people, tmp_path):
    """Of one size and one age, as in some archives and formats."""
    for path in list(people.rglob("*.png")):
        Image.open(path).save(path.with_suffix(".pgm"))
        os.utime(path.with_suffix(".pgm"), ns=(0, 0))
        path.unlink()
    assert len({path.stat().st_size for path in people.rglob("*.pgm")}) == 1
    cache = str(tmp_path / "cache")
    before = folder.folder(str(people), cache=cache)
    for old, new in (("Ada", "nobody"), ("Bob", "Ada"), ("nobody", "Bob")):
        (people / old).rename(people / new)
    after = folder.folder(str(people), cache=cache)
    assert after.ids.tolist() == before.ids.tolist()
    np.testing.assert_array_equal(after.images, before.images[[2, 3, 0, 1]])


def test_T7_what_is_wrong_is_told_again_from_the_cache(people, tmp_path, decoded, capsys):
    (people / "Bob/2.png").write_text("no image")
    options = {"root": str(people), "cache": str(tmp_path / "cache")}
    for _ in range(2):
        with pytest.raises(DataError, match=r"1 of what is in .*\n  'Bob/2\.png': not a JPEG"):
            folder.folder(**options)
        assert folder.folder(**options, skip_bad=True).ids.tolist() == ["Ada/1.png", "Ada/2.png", "Bob/1.png"]
        assert "1 of what is in" in capsys.readouterr().err
    assert len(decoded) == 4
    for name in ("Ada/1.png", "Ada/2.png", "Bob/1.png"):
        (people / name).write_text(f"no image either: {name}")
    for _ in range(2):
        with pytest.raises(DataError, match="none of the images in"):
            folder.folder(**options)


def test_T7_a_file_that_may_be_read_again_is_read_again(people, tmp_path, monkeypatch):
    """Permissions are no change of a file, nor is a network that is there again."""
    options = {"root": str(people), "cache": str(tmp_path / "cache")}
    content = folder.content

    def refused(path):
        if path == people / "Ada/1.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return content(path)

    monkeypatch.setattr(folder, "content", refused)
    with pytest.raises(DataError, match=r"'Ada/1\.png': Permission denied"):
        folder.folder(**options)
    assert len(folder.folder(**options, skip_bad=True)) == 3
    monkeypatch.setattr(folder, "content", content)
    assert len(folder.folder(**options)) == 4


def test_a_prepared_set_is_decoded_once(shared, tmp_path, decoded, monkeypatch):
    options = {"data_dir": str(shared / "tfds"), "cache": str(tmp_path)}
    first = sources.tfds("mnist", "test[:20]", **options)
    assert len(decoded) == 20
    monkeypatch.setattr(sources, "_open", refuse)  # not even opened
    again = sources.tfds("mnist", "test[:20]", **options)
    np.testing.assert_array_equal(first.images, again.images)
    assert first.labels.tolist() == again.labels.tolist()
    assert first.ids.tolist() == again.ids.tolist()
    assert first.class_names == again.class_names
    monkeypatch.undo()
    assert len(sources.tfds("mnist", "test[:21]", **options)) == 21
    shutil.copytree(shared / "tfds/mnist", tmp_path / "elsewhere/mnist", copy_function=shutil.copy)
    before = len(list(tmp_path.glob("*.npy")))
    sources.tfds("mnist", "test[:20]", data_dir=str(tmp_path / "elsewhere"), cache=str(tmp_path))
    assert len(list(tmp_path.glob("*.npy"))) == before + 1  # files of another time
