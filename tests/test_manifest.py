"""Manifests: what is listed is what is read, and every line of which nothing can be made is in one report."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from metric_jax.data import DataError, folder, load, manifest
from metric_jax.data.listing import Fault

PATHS = ["b/2.png", "a.png", "b/1.png", "c.png"]
LABELS = ["Bob", "Ada", "Bob", "Ada"]


def write(path, rows):
    """The rows as CSV or as JSONL; the first are the names of the columns."""
    header, *rows = rows
    if path.suffix.lower() == ".csv":
        path.write_text("".join(",".join(row) + "\n" for row in [header, *rows]), encoding="utf-8")
    else:
        lines = (json.dumps(dict(zip(header, row, strict=True))) for row in rows)
        path.write_text("".join(line + "\n" for line in lines))
    return path


@pytest.fixture
def pictures(tmp_path):
    """Four pictures, each of one grey, by their paths."""
    for number, name in enumerate(PATHS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4), 10 * number).save(tmp_path / name)
    return tmp_path


@pytest.fixture(params=["people.csv", "people.jsonl", "PEOPLE.CSV"])
def listed(request, pictures):
    columns = ["label", "path", "size", "group", "split"]
    rows = zip(LABELS, PATHS, "1234", ["x", "y", "x", ""], ["train", "test", "train", "test"], strict=True)
    return write(pictures / request.param, [columns, *rows])


def test_images_come_in_the_order_of_the_manifest_and_classes_in_that_of_their_names(listed):
    images = folder.folder(str(listed))
    assert images.ids.tolist() == PATHS
    assert images.images[:, 0, 0, 0].tolist() == [0, 10, 20, 30]
    assert images.class_names == ("Ada", "Bob")
    assert images.labels.tolist() == [1, 0, 1, 0]
    assert images.columns.keys() == {"group", "split"}
    assert images.columns["split"].tolist() == ["train", "test"] * 2
    assert images.columns["group"].tolist() == ["x", "y", "x", "c.png"]  # no group is one of its own


def test_a_spreadsheet_writes_a_mark_at_the_beginning_and_quotes(pictures):
    (pictures / "list.csv").write_text(
        '\ufeffpath,label\r\n"a.png","Lovelace, Ada"\r\n\r\nc.png, "Lovelace, Ada"\r\n', encoding="utf-8"
    )
    found = manifest.read(pictures / "list.csv")
    assert found.class_names == ("Lovelace, Ada",)
    assert found.faults == [
        Fault("line 4", "3 fields, where the header has 2")
    ]  # a quote after a blank is none


def test_names_are_composed_and_numbers_are_names(pictures):
    rows = [{"path": "a.png", "label": "Zoe\u0301"}, {"path": "c.png", "label": "Zo\u00e9"}]
    rows += [{"path": "b/1.png", "label": 7}]
    (pictures / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = manifest.read(pictures / "list.jsonl")
    assert found.class_names == ("7", "Zo\u00e9")
    assert [file.label for file in found.files] == [1, 1, 0]


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_T7_one_report_lists_every_bad_line_and_every_bad_file(pictures, name):
    root = pictures / "inside"
    root.mkdir()
    (pictures / "a.png").rename(root / "a.png")
    (root / "cut.png").write_bytes((root / "a.png").read_bytes()[:-30])
    (root / "out").symlink_to(pictures)
    (root / "loop.png").symlink_to("loop.png")
    (root / "notes.txt").touch()
    (root / "folder.png").mkdir()
    wrong = {
        ("", "Ada", "train"): "its path is empty",
        ("a.png", "", "train"): "its label is empty",
        ("a.png", "Ada", ""): "its split is empty",
        ("./a.png", "Ada", "train"): r"'a\.png' is already in line \d",
        ("b.png", "Ada", "train"): r"there is no file 'b\.png'",
        ("loop.png", "Ada", "train"): r"a link that leads nowhere: 'loop\.png'",
        ("../c.png", "Ada", "train"): "leads out of the folder of the manifest: copy the image there",
        ("out/c.png", "Ada", "train"): "leads out of the folder of the manifest",
        (str(root / "a.png"), "Ada", "train"): "is absolute: write it relative to the folder",
        ("notes.txt", "Ada", "train"): r"\.txt files are not read: convert 'notes\.txt' to PNG or JPEG",
        ("folder.png", "Ada", "train"): "is not a file",
        ("a\0.png", "Ada", "train"): "there is no file",
        (f"{'a' * 300}.png", "Ada", "train"): "there is no file",
    }
    if name.endswith(".csv"):
        wrong[("a.png", "Ada", "train", "x")] = "4 fields, where the header has 3"
        wrong[("a.png",)] = "1 fields, where the header has 3"
    rows = [["path", "label", "split"], ["a.png", "Ada", "train"], ["cut.png", "Ada", "train"]]
    first = write(root / name, [*rows, *(row for row in wrong if len(row) == 3)])
    with first.open("a") as file:
        file.writelines(",".join(row) + "\n" for row in wrong if len(row) != 3)
        if name.endswith(".jsonl"):
            file.write(
                '{"path": \n[1]\n{"path": ["a.png"], "label": "Ada", "split": "train"}\n{"path": "a.png"}\n'
                + "[" * 100_000
            )
            wrong |= {
                1: "no JSON: ",
                2: "no JSON object",
                3: r'its path is \["a\.png"\], and must be a string',
            }
            wrong[4] = "its label is empty"
            wrong[5] = "no JSON: "
    with pytest.raises(DataError) as caught:
        folder.folder(str(root / name))
    header, *lines = str(caught.value).splitlines()
    assert re.search(
        rf"^{len(wrong) + 1} of what is in .*{name} cannot be used: mend or remove them, or", header
    )
    first_line = 4 if name.endswith(".csv") else 3
    for number, (told, reason) in enumerate(zip(lines[1:], wrong.values(), strict=True), first_line):
        assert re.search(rf"^  'line {number}': .*{reason}", told)
    assert re.search(r"^  'cut\.png': .*(truncated|broken)", lines[0])


def test_T7_lines_are_skipped_if_that_is_asked_for_and_counted(listed, capsys):
    (listed.parent / "a.png").unlink()
    images = folder.folder(str(listed), skip_bad=True)
    assert images.ids.tolist() == [name for name in PATHS if name != "a.png"]
    assert images.class_names == ("Ada", "Bob")
    assert re.search(r"^1 of what is in .* left out:\n  'line \d': there is no file", capsys.readouterr().err)
    for name in PATHS[2:]:
        (listed.parent / name).unlink()
    (listed.parent / PATHS[0]).unlink()
    with pytest.raises(DataError, match="none of the images in"):
        folder.folder(str(listed), skip_bad=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", "lists no image"),
        ("x.jsonl", b"\n\n", "lists no image"),
        ("x.csv", b"path,label\n", "lists no image"),
        ("x.csv", b"file,label\na.png,Ada\n", "has no column 'path', but file, label"),
        ("x.csv", b"path;label\na.png;Ada\n", "has no column 'path', but path;label"),
        ("x.jsonl", b'{"path": "a.png"}', "has no column 'label', but path"),
        ("x.csv", b"path,label,label\na.png,Ada,Bob\n", "has the column 'label' twice: rename either"),
        ("x.csv", b"path,label,gruop\na.png,Ada,x\n", "has a column 'gruop', did you mean 'group'?"),
        ("x.csv", b"Path,label\na.png,Ada\n", "has a column 'Path', did you mean 'path'?"),
        ("x.csv", b"path,label\na.png,\xff\n", "is no text in UTF-8: save it as such"),
        ("x.csv", b'path,label\na.png,"Ada\n', "is no CSV: line 2: unexpected end of data"),
    ],
)
def test_a_manifest_that_is_none(pictures, name, content, message):
    (pictures / name).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        folder.folder(str(pictures / name))
    assert "\n" not in str(caught.value)


def test_a_manifest_that_may_not_be_read(pictures, monkeypatch):
    (pictures / "x.csv").touch()

    def deny(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(pictures), "read_text", deny)
    with pytest.raises(DataError, match=r"cannot read the manifest .*x\.csv: Permission denied"):
        folder.folder(str(pictures / "x.csv"))


def test_a_super_class_has_to_be_said_of_all(pictures):
    rows = [["path", "label", "super"], ["a.png", "Ada", "people"], ["c.png", "Ada", ""]]
    with pytest.raises(DataError, match="'line 3': its super is empty"):
        folder.folder(str(write(pictures / "x.csv", rows)))
    rows[2][2] = "people"
    images = folder.folder(str(write(pictures / "x.csv", rows)))
    assert images.columns["super"].tolist() == ["people"] * 2


def test_a_split_by_image_parts_no_group_of_a_manifest(tmp_path):
    """Ten bursts of two photos for each of two people."""
    rows = [["path", "label", "group"]]
    for number in range(40):
        Image.fromarray(np.full((2, 2), number, np.uint8)).save(tmp_path / f"{number}.png")
        rows.append([f"{number}.png", "Ada" if number < 20 else "Bob", str(number // 2)])
    train, test = load("folder", root=str(write(tmp_path / "x.csv", rows)), split="image", test_fraction=0.3)
    assert np.bincount(test.labels).tolist() == [6, 6]
    assert not set(train.columns["group"]) & set(test.columns["group"])
