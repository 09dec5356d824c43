"""experiments/search.py: it finds the nearest, says who it is, and of odd galleries what is wrong with them."""

import json
import shutil
import sys

import numpy as np
import pytest
import trained_run
from PIL import Image

from experiments import embed, search
from metric_jax.data import DataError, shards
from metric_jax.training import RunError, calibration, open_run

THRESHOLD = calibration.Threshold(0.01, 0.5, 0.009, 0.9, "euclidean", 1000, 12, (8, 8, 1), False)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A calibrated run, files of three of its test images, and their gallery; nothing in it is to be changed."""
    home = tmp_path_factory.mktemp("search")
    folder = trained_run.copy(home / "run")
    (folder / "evaluation").mkdir()
    calibration.save(folder, THRESHOLD)
    run = open_run(folder, data={})
    images = run.load_data()[1]
    for number in range(3):
        Image.fromarray(images.images[number, ..., 0]).save(home / f"{number}.png")
    made_with = {
        "model": embed.digest_of_checkpoint(run),
        "step": run.step,
        "image_shape": [8, 8, 1],
        "crop": False,
    }
    # Three shards, one of them empty; class 0 has a hostile name.
    names = ["zero\x1b[31m", *map(str, range(1, 10))]
    shards.claim(home / "gallery", made_with, shards=3, class_names=names)
    for number, part in enumerate((images[:100], images[:0], images[100:])):
        rows = [shards.Row(*row) for row in zip(part.ids.tolist(), part.labels.tolist(), strict=True)]
        embeddings = run.embed(part.images) if rows else np.zeros((0, 8), np.float32)
        shards.write(home / "gallery", number, embeddings, rows)
    return home


@pytest.fixture(scope="module")
def run(home):
    return open_run(home / "run", data={})


@pytest.fixture(scope="module")
def images(run):
    return run.load_data()[1]


@pytest.fixture(autouse=True)
def opened_once(run, monkeypatch):
    """Only what asks for another checkpoint opens the run again."""
    monkeypatch.setattr(
        search, "open_run", lambda folder, checkpoint: open_run(folder, checkpoint) if checkpoint else run
    )


@pytest.fixture
def gallery(home, tmp_path):
    """One's own copy."""
    return shutil.copytree(home / "gallery", tmp_path / "gallery")


@pytest.fixture
def searched(home, gallery, tmp_path, capsys):
    """A function that searches for a test image and returns the lines that are printed."""

    def search_for(query=0, **options):
        options = {"k": 6, "out": str(tmp_path / "found.png"), **options}
        search.main(str(home / f"{query}.png"), workdir=str(home / "run"), gallery=str(gallery), **options)
        return capsys.readouterr().out.splitlines()

    return search_for


def rewritten(path, change):
    """The file of JSON lines, or of one JSON object, with its (first) object changed."""
    first, *others = (
        path.read_text().splitlines(keepends=True) if path.suffix == ".jsonl" else [path.read_text()]
    )
    content = json.loads(first)
    change(content)
    path.write_text(json.dumps(content) + "\n" + "".join(others))


@pytest.mark.parametrize("approximate", [False, True])
def test_it_finds_the_nearest_and_says_who_it_is(run, gallery, searched, tmp_path, images, approximate):
    if approximate:
        pytest.importorskip("faiss")
    rows = run.embed(images.images)
    distances = np.linalg.norm(rows - rows[0], axis=-1)
    nearest = np.argsort(distances, kind="stable")[:6]
    for _ in range(1 + approximate):  # the second time, with the index that the first has built
        lines = searched(approximate=approximate)
        assert lines[0] == str(images.labels[0])  # it finds the query itself
        for line, index in zip(lines[3:9], nearest, strict=True):
            assert float(line.split()[1].rstrip("?")) == pytest.approx(distances[index], abs=2e-4)
        assert lines[3].endswith(f"{images.labels[0]}, {images.ids[0]}")
    assert len(list(gallery.glob("*.faiss"))) == approximate
    with Image.open(tmp_path / "found.png") as picture:
        assert picture.width > 500


def test_it_says_unknown_beyond_the_threshold(searched, monkeypatch):
    monkeypatch.setattr(calibration, "of_run", lambda *_, **__: THRESHOLD._replace(threshold=-1.0))
    lines = searched()
    assert lines[0] == "unknown"
    assert "the nearest is beyond the threshold of -1.0000" in lines[1]
    assert lines[-2] == "? is beyond the threshold"


def test_an_index_that_finds_too_few_gives_way_to_all_images(searched, gallery, monkeypatch):
    """Among many images that look the same, HNSW may come to an end before it has found any number of them."""
    faiss = pytest.importorskip("faiss")
    expected = searched()
    monkeypatch.setattr(
        faiss.IndexHNSWFlat, "search", lambda self, rows, k: (np.zeros((1, k)), np.full((1, k), -1))
    )
    assert searched(approximate=True) == expected


def test_an_index_is_there_as_a_whole_or_not_at_all(searched, gallery, monkeypatch):
    """The disk is full before all of it is there."""
    pytest.importorskip("faiss")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=r"the index .*faiss can be neither read nor written"):
        searched(approximate=True)
    assert not list(gallery.glob("*.faiss"))


def test_a_picture_of_very_many_shows_the_nearest(searched, monkeypatch, tmp_path):
    monkeypatch.setattr(search, "DRAWN", 3)
    assert searched(k=3)[-1] == f"picture: {tmp_path / 'found.png'}"
    expected = (tmp_path / "found.png").read_bytes()
    lines = searched(k=5)
    assert (lines[-1], lines[7].split()[0]) == (f"picture: {tmp_path / 'found.png'}, of the nearest 3", "5")
    assert (tmp_path / "found.png").read_bytes() == expected


@pytest.mark.parametrize("kind", ["jpg", "JPEG", "pdf", "svg"])
def test_pictures_of_other_kinds(searched, tmp_path, kind):
    searched(k=1, out=str(tmp_path / f"found.{kind}"))
    assert (tmp_path / f"found.{kind}").stat().st_size > 1000


# --- odd names, numbers and images ------------------------------------------------------------------------------------


def test_it_prints_no_control_characters(home, searched, images):
    zero = int(np.flatnonzero(images.labels == 0)[0])
    Image.fromarray(images.images[zero, ..., 0]).save(home / "zero.png")
    lines = searched(query="zero")
    assert lines[0] == r"zero\x1b[31m"
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800", "字", ".", "$x^$", "../../etc/passwd", ""])
def test_any_id_can_be_found(home, gallery, searched, name):
    rewritten(gallery / "ids-00000.jsonl", lambda row: row.update(id=name, label=-1))
    for images in (None, str(home)):
        lines = searched(k=1, images=images)  # of whom the font cannot draw, matplotlib would warn
        assert lines[0] == search.printable(f"the same as {name}".rstrip("\0"))


def test_a_class_is_called_by_what_the_gallery_says_or_by_its_number(gallery, searched):
    rewritten(gallery / "manifest.json", lambda manifest: manifest.update(class_names=[None, 7]))
    rewritten(gallery / "ids-00000.jsonl", lambda row: row.update(label=0))
    assert searched()[0] == "None"
    rewritten(gallery / "ids-00000.jsonl", lambda row: row.update(label=2**31 - 1))
    assert searched()[0] == "2147483647"


def test_it_draws_images_from_a_folder_and_never_from_outside(run, home, tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(home / "1.png", folder / "one.png")
    shutil.copy(home / "2.png", tmp_path / "2.png")
    (folder / "broken.png").write_bytes(b"no image")
    picture = search.picture_of(run, str(folder))
    np.testing.assert_array_equal(picture("one.png"), run.read_image(folder / "one.png"))
    for name in ("../2.png", str(tmp_path / "2.png"), "gone.png", "broken.png", ""):
        assert picture(name) is None


# --- what cannot be searched ------------------------------------------------------------------------------------------


def pickled(gallery):
    np.save(gallery / "embeddings-00000.npy", np.array([{"a": 1}], object), allow_pickle=True)


def spoiled(gallery):
    rows = np.load(gallery / "embeddings-00002.npy")
    rows[3] = np.nan
    np.save(gallery / "embeddings-00002.npy", rows)


def narrowed(gallery):
    for path in gallery.glob("*.npy"):
        np.save(path, np.load(path)[:, :3])


def made_with(**changes):
    def harm(gallery):
        rewritten(gallery / "manifest.json", lambda manifest: manifest["made_with"].update(changes))

    return harm


def labelled(label):
    def harm(gallery):
        rewritten(gallery / "ids-00000.jsonl", lambda row: row.update(label=label))

    return harm


@pytest.mark.parametrize(
    ("harm", "options", "told"),
    [
        (None, {"k": 360}, "--k=360 must lie between 1 and the 359 images in"),
        (None, {"k": 0}, "--k=0 must lie between 1 and the 359 images in"),
        (None, {"query": "gone"}, r"cannot read the image .*gone\.png: No such file"),
        (None, {"checkpoint": 4}, "has no checkpoint of step 4: it keeps 8, 12"),
        (None, {"out": "nowhere/found.png"}, "--out=nowhere/found.png is no file in a folder that there is"),
        (None, {"out": "found.docx"}, r"--out=found\.docx does not end as a picture does: \.png"),
        (None, {"out": "found"}, "--out=found does not end as a picture does"),
        (None, {"out": "found.pgf"}, r"found\.pgf does not end as .*: \.png, \.jpg, \.jpeg, \.pdf, \.svg$"),
        (None, {"out": "/"}, "--out=/ is no file in a folder"),
        (None, {"out": "/dev/null/found.png"}, "is no file in a folder that there is"),
        (None, {"images": "nowhere"}, "there is no folder --images=nowhere"),
        (pickled, {}, r"embeddings-00000\.npy is no array"),
        (shutil.rmtree, {}, "holds no embeddings: it has no manifest.json"),
        (made_with(model="another"), {}, "was not embedded by step 12 of .*: embed it anew"),
        (made_with(image_shape=[16, 16, 1]), {}, r"embedded from images of another shape than \[8, 8, 1\]"),
        (made_with(crop=True), {}, "embedded from images of another shape than"),
        (labelled(2**40), {}, r"ids-00000\.jsonl is missing or broken \(.*1099511627776.* int32\)"),
        (labelled(float("inf")), {}, r"ids-00000\.jsonl is missing or broken \(.*infinity"),
        (labelled("zero"), {}, r"ids-00000\.jsonl is missing or broken"),
        (spoiled, {}, "the gallery cannot be searched: gallery part 1 hold NaN or infinity in row 3"),
        (narrowed, {}, "holds embeddings of another dimension: embed it anew"),
        (narrowed, {"approximate": True}, "holds embeddings of another dimension: embed it anew"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(gallery, searched, harm, options, told):
    if harm:
        harm(gallery)
    with pytest.raises((RunError, DataError), match=told) as caught:
        searched(**options)
    assert "\n" not in str(caught.value)


def test_a_picture_takes_the_place_of_no_image(tmp_path):
    (tmp_path / "photos").mkdir()
    query = tmp_path / "photos/query.png"
    query.write_bytes(b"a photo")
    with pytest.raises(RunError, match=r"query\.png is the query itself: name another file"):
        search.check_out(str(query), str(query))
    listed = tmp_path / "photos/all.csv"
    listed.write_text("path,label\nquery.png,Ada\n")
    for out, images in (("found.png", query.parent), ("query.png", listed)):
        with pytest.raises(RunError, match="lies among the images of "):
            search.check_apart(str(query.with_name(out)), str(images))
    search.check_out(str(tmp_path / "found.png"), str(query))
    search.check_apart(str(tmp_path / "found.png"), str(tmp_path / "photos"))
    search.check_apart(str(query.with_name("found.png")), str(listed))  # which does not name it
    search.check_apart(str(tmp_path / "found.png"), "")


def test_a_manifest_stands_for_its_folder(run, tmp_path):
    photo = np.full((8, 8), 90, np.uint8)
    Image.fromarray(photo).save(tmp_path / "a.png")
    (tmp_path / "all.csv").write_text("path,label\na.png,Ada\n")
    read = search.picture_of(run, str(tmp_path / "all.csv"))
    np.testing.assert_array_equal(read("a.png"), run.read_image(tmp_path / "a.png"))


def test_data_that_are_gone_are_told_before_the_search(run, searched, monkeypatch):
    def gone():
        raise DataError("there is no such set")

    monkeypatch.setattr(run, "load_data", gone)
    with pytest.raises(
        RunError, match="name the folder that was embedded, --images=FOLDER, for there is no such"
    ):
        searched()


def test_without_faiss_or_with_an_odd_index_it_says_so(gallery, searched, monkeypatch):
    faiss = pytest.importorskip("faiss")
    searched(approximate=True)
    (index,) = gallery.glob("*.faiss")
    index.write_bytes(b"\x80\x04N.")
    with pytest.raises(RunError, match=r"the index .*faiss can be neither read nor written: remove it"):
        searched(approximate=True)
    for other in (faiss.IndexFlatL2(8), faiss.IndexHNSWFlat(8, 4), faiss.IndexHNSWFlat(3, 4)):
        faiss.write_index(other, str(index))
        with pytest.raises(RunError, match=r"the index .*faiss is not that of this gallery: remove it"):
            searched(approximate=True)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(RunError, match="--approximate needs faiss: pip install faiss-cpu"):
        searched(approximate=True)
