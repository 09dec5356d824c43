"""Folders of images: what is in them is read in one order everywhere, and what is wrong is told at once, all of it."""

import io
import os
import pathlib
import re
import struct
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image

from metric_jax.data import DataError, folder, listing, load, samplers

NFC, NFD = unicodedata.normalize("NFC", "Zoé"), unicodedata.normalize("NFD", "Zoé")


def picture(seed, shape=(5, 4)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return image


def bomb(side):
    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.fixture
def people(tmp_path):
    """Three people, two photos of each, by the ids of the photos."""
    root = tmp_path / "people"
    ids = [f"{name}/{number}.png" for name in ("Ada", "Bob", NFC) for number in (1, 2)]
    return root, {name: save(root / name, picture(seed)) for seed, name in enumerate(ids)}


def test_classes_names_ids_and_pixels(people):
    root, pictures = people
    images = folder.folder(str(root))
    assert images.class_names == ("Ada", "Bob", NFC)
    assert images.ids.tolist() == list(pictures)
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(images.images[..., 0], list(pictures.values()))
    assert [images.class_name(label) for label in images[np.array([5, 0])].labels] == [NFC, "Ada"]


@pytest.mark.parametrize("kind", ["jpg", "JPEG", "png", "webp", "pgm", "ppm", "bmp"])
def test_formats(tmp_path, kind):
    options = {"lossless": True} if kind == "webp" else {}
    grey = kind.lower() not in ("webp", "ppm")
    smooth = np.full((8, 8) if grey else (8, 8, 3), 90, np.uint8)
    save(tmp_path / "a" / f"x.{kind}", smooth, **options)
    images = folder.folder(str(tmp_path)).images
    assert images.shape == (1, 8, 8, 1 if grey else 3)
    assert np.abs(images.astype(int) - 90).max() <= 1


def test_order_is_that_of_composed_names_whatever_the_system_stores(tmp_path):
    """'é' is one character or two; compared byte by byte they would lie on either side of 'z'."""
    for root, accented in (("composed", "é"), ("decomposed", unicodedata.normalize("NFD", "é"))):
        for seed, name in enumerate(("f", accented, "z")):
            for number in ("b", accented):
                save(tmp_path / root / name / f"{number}.png", picture((seed, ord(number[0]))))
    one, other = (folder.folder(str(tmp_path / root)) for root in ("composed", "decomposed"))
    assert one.class_names == other.class_names == ("f", "z", "é")
    np.testing.assert_array_equal(one.labels, other.labels)
    assert [unicodedata.normalize("NFC", name) for name in other.ids] == one.ids.tolist()
    assert all((tmp_path / "decomposed" / name).is_file() for name in other.ids)  # an id leads to its file


def test_hidden_files_and_other_files_are_not_there(people):
    root, pictures = people
    (root / ".ipynb_checkpoints").mkdir()
    (root / "Ada/.ipynb_checkpoints").mkdir()
    save(root / "Ada/.ipynb_checkpoints/1-checkpoint.png", picture(9))
    (root / "Ada/._1.png").write_bytes(b"resource fork")
    (root / "Ada/notes.txt").write_text("blinks")
    (root / "train.txt").write_text("Ada/1")
    assert folder.folder(str(root)).ids.tolist() == list(pictures)


def test_size_and_channels(tmp_path):
    save(tmp_path / "a/grey.png", np.full((9, 6), 100, np.uint8))
    red = save(tmp_path / "a/red.png", np.full((4, 4, 3), [255, 0, 0], np.uint8))
    for channels, expected in ((1, 1), (3, 3), (0, 3)):
        images = folder.folder(str(tmp_path), size=2, channels=channels).images
        assert images.shape == (2, 2, 2, expected)
        assert np.all(images[0] == 100)
    np.testing.assert_array_equal(images[1], red[:2, :2])


FAULTS = {
    "Ada/denied.png": "Permission denied",
    "Ada/empty.jpg": "an empty file",
    "Ada/huge.png": "decompression bomb",
    "Ada/link.png": "a link that leads nowhere",
    "Ada/loop.png": "a link that leads nowhere",
    "Ada/outside.png": "a link that leads out of the folder",
    "Ada/photo.HEIC": r"\.HEIC files are not read: convert it to PNG or JPEG",
    "Ada/pipe.png": "not a file, but a device or a pipe",
    "Ada/text.jpg": "not a JPEG, PNG, WebP, PGM, PPM or BMP file",
    "Bob/again.png": "a copy of 'Ada/1.png'",
    "Bob/cut.png": "truncated|broken",
    "Cyd": "a class without an image",
    "Dan": "a link that leads out of the folder",
    "Dr.Who": "a link that leads nowhere",
    "loose.png": "lies beside the folders of classes",
    r"Ada/caf\udce9.png": "its name is not UTF-8",
}


@pytest.fixture
def faulty(people, tmp_path, monkeypatch):
    """The same people, among all that can be wrong."""
    root, pictures = people
    save(root / "Ada/denied.png", picture(52))
    whole = pathlib.Path.read_bytes

    def deny(path):  # whoever runs the tests as root may read everything
        if path.name == "denied.png":
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", deny)
    (tmp_path / "elsewhere").mkdir()
    save(tmp_path / "elsewhere/secret.png", picture(50))
    (root / "Ada/empty.jpg").touch()
    (root / "Ada/huge.png").write_bytes(bomb(20_000))
    (root / "Ada/link.png").symlink_to("nowhere.png")
    # This one does not pretend to be an image.
    (root / "Ada/link.txt").symlink_to(tmp_path / "elsewhere/secret.txt")
    (root / "Ada/loop.png").symlink_to("loop.png")
    (root / "Ada/outside.png").symlink_to(tmp_path / "elsewhere/secret.png")
    (root / "Ada/photo.HEIC").write_bytes(b"ftypheic")
    os.mkfifo(root / "Ada/pipe.png")  # opening it would wait for ever
    (root / "Ada/text.jpg").write_text("hello")
    (root / "Bob/again.png").write_bytes((root / "Ada/1.png").read_bytes())
    (root / "Bob/cut.png").write_bytes((root / "Ada/1.png").read_bytes()[:-30])
    (root / "Cyd").mkdir()
    (root / "Dan").symlink_to(tmp_path / "elsewhere")
    (root / "Dr.Who").symlink_to(tmp_path / "nowhere")
    save(root / "loose.png", picture(51))
    pathlib.Path(os.fsdecode(os.fsencode(root) + b"/Ada/caf\xe9.png")).write_bytes(
        (root / "Ada/1.png").read_bytes()
    )
    return root, pictures


def test_T7_one_report_lists_all_that_is_wrong(faulty):
    root, _ = faulty
    with pytest.raises(DataError) as caught:
        folder.folder(str(root))
    first, *lines = str(caught.value).splitlines()
    assert re.search(
        rf"^{len(FAULTS)} of what is in .* mend or remove them, or .*data\.skip_bad=True$", first
    )
    told = dict(re.fullmatch(r"  '(.*?)': (.*)", line).groups() for line in lines)
    assert told.keys() == FAULTS.keys()
    for name, reason in FAULTS.items():
        assert re.search(reason, told[name]), name


def test_T7_a_folder_that_may_be_listed_and_not_entered_joins_the_report(people, monkeypatch):
    root, _ = people
    looked = pathlib.Path.is_dir

    def deny(path):
        if path.parent.name == "Bob":
            raise PermissionError(13, "Permission denied", str(path))
        return looked(path)

    monkeypatch.setattr(pathlib.Path, "is_dir", deny)
    with pytest.raises(
        DataError, match=r"'Bob': a class without.*\n.*'Bob/1.png': Permission denied\n.*'Bob/2.png'"
    ):
        folder.folder(str(root))


def test_T7_names_of_all_digits_are_put_in_an_order(tmp_path):
    found = listing.Listing(tmp_path, [], (), [])
    with pytest.raises(DataError, match=r"'10'.*\n.*'readme'.*\n.*'٣'"):
        listing.settle(
            [listing.Fault(name, "?") for name in ("٣", "readme", "10")], found, skip_bad=False, option=""
        )


def test_T7_skipping_is_asked_for_and_counted(faulty, capsys):
    root, pictures = faulty
    images = folder.folder(str(root), skip_bad=True)
    assert images.ids.tolist() == list(pictures)
    assert images.class_names == ("Ada", "Bob", NFC)
    told = capsys.readouterr().err
    assert f"{len(FAULTS)} of what is in {root} cannot be used and left out:" in told
    assert len(told.splitlines()) == 1 + len(FAULTS)


def test_T7_a_class_of_which_nothing_is_left_has_no_number(people):
    root, pictures = people
    (root / "Bob/1.png").write_bytes(b"x")
    (root / "Bob/2.png").write_bytes(b"y")
    images = folder.folder(str(root), skip_bad=True)
    assert images.class_names == ("Ada", NFC)
    assert images.labels.tolist() == [0, 0, 1, 1]
    for name in pictures:
        (root / name).write_bytes(name.encode())
    with pytest.raises(
        DataError, match=r"(?s)none of the images in .* can be used:\n.*'Ada/1\.png': not a JPEG"
    ):
        folder.folder(str(root), skip_bad=True)


def test_T7_what_may_not_be_read_is_in_the_report(people, monkeypatch):
    root, _ = people

    def deny(path):
        raise PermissionError(13, "Permission denied", str(path))

    whole = pathlib.Path.read_bytes
    monkeypatch.setattr(
        pathlib.Path, "read_bytes", lambda path: deny(path) if path.parent.name == "Bob" else whole(path)
    )
    with pytest.raises(
        DataError, match=r"'Bob/1\.png': Permission denied\n  'Bob/2\.png': Permission denied$"
    ):
        folder.folder(str(root))
    monkeypatch.undo()
    listed = pathlib.Path.iterdir
    monkeypatch.setattr(
        pathlib.Path, "iterdir", lambda path: deny(path) if path.name == "Bob" else listed(path)
    )
    with pytest.raises(DataError, match=r"^1 of what is in .*\n  'Bob': Permission denied$"):
        folder.folder(str(root))


def test_T7_depth_inks_and_transparency_are_read(tmp_path):
    deep = picture(0).astype(np.uint16) * 257
    save(tmp_path / "a/deep.png", deep)
    Image.fromarray(deep).save(tmp_path / "a/deep.pgm")
    Image.new("CMYK", (4, 5), (0, 0, 0, 255)).save(tmp_path / "a/inks.jpg")
    Image.new("RGBA", (4, 5), (0, 0, 0, 0)).save(tmp_path / "a/nothing.png")
    images = folder.folder(str(tmp_path), channels=1).images[..., 0]
    np.testing.assert_array_equal(images[:2], [picture(0)] * 2)
    assert images[2].max() < 5
    assert images[3].min() == 255


def test_T7_a_class_with_one_image_never_meets_itself(people):
    root, _ = people
    (root / "Bob/2.png").unlink()
    for number in (3, 4):
        save(root / f"Ada/{number}.png", picture(20 + number))
    images = folder.folder(str(root))
    with pytest.raises(DataError, match="class Bob has 1 training images"):
        samplers.choose(images, classes=2, samples=2, seed=0)
    with pytest.raises(DataError, match=r"of the 1 images of class Bob, .* both need two"):
        load("folder", root=str(root), split="image", test_fraction=0.5)


def test_links_within_the_folder_are_followed(people):
    root, pictures = people
    (root / "Bob/3.png").symlink_to("../Ada/1.png")
    with pytest.raises(DataError, match=r"1 of what is in .*\n  'Bob/3.png': a copy of 'Ada/1.png'$"):
        folder.folder(str(root))
    (root / "Bob/3.png").unlink()
    (root.parent / "alias").symlink_to(root)
    assert folder.folder(str(root.parent / "alias")).ids.tolist() == list(pictures)


def test_a_file_too_large_is_not_read(people, monkeypatch):
    root, _ = people
    with (root / "Ada/3.png").open("wb") as file:
        file.truncate(300 * 2**20)  # of zeros, which take no space
    monkeypatch.setattr(pathlib.Path, "read_bytes", lambda path: io.BytesIO(b"").read())
    with pytest.raises(DataError, match=r"'Ada/3\.png': a file of 300 MiB, where 256 are allowed"):
        folder.folder(str(root))


def test_names_cannot_deceive_a_terminal(people):
    root, _ = people
    (root / "Ada/a\x1b[2Jb\nc.png").write_text("x")
    with pytest.raises(DataError) as caught:
        folder.folder(str(root))
    assert r"'Ada/a\x1b[2Jb\nc.png'" in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no images: data.root is to hold one folder of images for every class"),
        (["a.txt"], "holds no images"),
        (["a.png"], "holds images, but no folders: data.root is to hold one folder"),
        (
            ["train/Ada/1.png", "test/Ada/1.png"],
            r"folders within folders \('test/Ada', 'train/Ada'\): .* or set data\.root to .*/test$",
        ),
        (
            ["Ada/1.png", "Ada/old/1.png"],
            r"folders within folders \('Ada/old'\): .* a manifest, a CSV file that says which file is of which class$",
        ),
        (
            ["a/1.png", "a/Ada/1.png", "b/Ada/1.png", "b/Bob/1.png"],
            r"folders within folders .* a manifest, .* or set data\.root to .*/b$",
        ),
        ([f"{NFC}/1.png", f"{NFD}/2.png"], "two folders for one class .* make them one"),
    ],
)
def test_folders_that_are_not_laid_out_so(tmp_path, files, message):
    for seed, name in enumerate(files):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.touch()
        else:
            save(path, picture(seed))
    if any(NFC in name for name in files) and len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system takes both names for one")
    with pytest.raises(DataError, match=message) as caught:
        folder.folder(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_roots_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"^data\.root is empty: say which"):
        folder.folder("")
    with pytest.raises(
        DataError, match=r"the folder of images .*/nowhere is not there: say with data\.root where"
    ):
        folder.folder(str(tmp_path / "nowhere"))
    for root, reason in (("~nobody_of_this_name/faces", "home directory"), ("f" * 300, "name too long")):
        with pytest.raises(DataError, match=rf"^data\.root='.*' cannot be looked for: .*{reason}"):
            folder.folder(root)
    with pytest.raises(
        DataError, match=r"^the manifest .*/no\.csv is not there: say with data\.root where the file is$"
    ):
        folder.folder(str(tmp_path / "no.csv"))
    (tmp_path / "faces.zip").touch()
    with pytest.raises(
        DataError, match=r"is a file: if it is an archive, unpack it and say with --images where"
    ):
        folder.find(str(tmp_path / "faces.zip"), option="--images")


def test_images_of_many_sizes_want_one(people):
    root, _ = people
    save(root / "Bob/3.png", picture(7, (4, 4)))
    with pytest.raises(
        DataError, match=r"differ in size, 'Ada/1.png' is 5×4 and 'Bob/3.png' 4×4: set data\.size"
    ):
        folder.folder(str(root))
    assert folder.folder(str(root), size=3).images.shape == (7, 3, 3, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": -1}, "data.size must not be negative, got -1"),
        ({"channels": 2}, "data.channels must be 1 .* got 2"),
    ],
)
def test_numbers_that_do_not_fit(people, options, message):
    with pytest.raises(DataError, match=message):
        folder.folder(str(people[0]), **options)


def test_a_flat_folder_is_listed_without_classes(tmp_path):
    save(tmp_path / "b.png", picture(0))
    save(tmp_path / "a.png", picture(1))
    found = folder.find(str(tmp_path))
    assert [(file.id, file.label) for file in found.files] == [("a.png", -1), ("b.png", -1)]
    assert (found.class_names, found.faults) == ((), [])
    np.testing.assert_array_equal(listing.read(found.files[0])[..., 0], picture(1))
    assert listing.read(found.files[0], (2, 3), 3).shape == (2, 3, 3)


def test_home_is_understood(people, monkeypatch):
    root, pictures = people
    monkeypatch.setenv("HOME", str(root.parent))
    assert folder.folder("~/people").ids.tolist() == list(pictures)


def test_orl_faces(shared):
    images = folder.folder(str(shared / "faces/orl"))
    assert images.images.shape == (400, 112, 92, 1)
    assert len(images.class_names) == 40
    assert np.bincount(images.labels).tolist() == [10] * 40
    stored = np.asarray(Image.open(shared / "faces/orl" / images.ids[123]))
    np.testing.assert_array_equal(images.images[123, ..., 0], stored)
    assert images.class_name(images.labels[123]) == images.ids[123].partition("/")[0]
