r"""A manifest of images: a table that says which file is of which class, for images that do not lie in such folders.

A CSV file with a header, or a JSONL file with an object in every line. Its columns:

- ``path``, of an image, relative to the folder of the manifest, which it must not leave;
- ``label``, the name of its class;
- ``split``, if there is one: ``train``, ``test``, or any name that ``data.train_split`` and ``data.test_split`` use;
- ``group``, if there is one: images of a group, such as the photos of one burst, are never parted by a split;
- ``super``, if there is one: the class of the class, such as the brand of a product.

Other columns are not looked at. What is wrong with a line is told together with what is wrong with the files.
"""

import csv
import difflib
import io
import json
import os
import pathlib
import unicodedata
from collections.abc import Iterator
from typing import Any

from metric_jax.data.errors import DataError
from metric_jax.data.listing import READ, Fault, File, Listing, order, reason

SUFFIXES = (".csv", ".jsonl")
NEEDED = ("path", "label")
OPTIONAL = ("split", "group", "super")

Row = dict[str, Any]


def is_one(path: pathlib.Path) -> bool:
    """Whether a file is there that is called as a manifest is."""
    return path.is_file() and path.suffix.lower() in SUFFIXES


def read(path: pathlib.Path) -> Listing:
    r"""Reads a manifest.

    Args:
        path: The manifest, of which the name ends in ``.csv`` or ``.jsonl``.

    Returns:
        What it lists, in its order, and of which lines nothing can be made; classes are in the order of their names.

    Raises:
        DataError: The manifest cannot be read, is none, or lacks a column.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     manifest = pathlib.Path(name, "people.csv")
        ...     _ = manifest.write_text("path,label,group\na.png,Ada,monday\nb.png,Bob,monday\n")
        ...     pathlib.Path(name, "a.png").touch()
        ...     found = read(manifest)
        >>> found.class_names, found.files[0].id, dict(found.files[0].columns), found.faults
        (('Ada',), 'a.png', {'group': 'monday'}, [Fault(id='line 3', reason="there is no file 'b.png'")])
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read the manifest {path}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the manifest {path} is no text in UTF-8: save it as such") from error
    faults: list[Fault] = []
    rows: dict[int, Row] = {}
    for number, row in _csv(text, path) if path.suffix.lower() == ".csv" else _jsonl(text):
        if isinstance(row, str):
            faults.append(Fault(f"line {number}", row))
        else:
            rows[number] = row
    columns = dict.fromkeys(key for row in rows.values() for key in row)
    _check_columns(list(columns), path, empty=not rows and not faults)

    expected = [key for key in (*NEEDED, *OPTIONAL) if key in columns]
    first_in: dict[str, int] = {}
    good: list[dict[str, str]] = []
    for number, row in rows.items():
        wrong = _wrong(row, expected, path.parent)
        texts = {key: str(row.get(key, "")) for key in expected}
        if not wrong:
            texts["path"] = pathlib.PurePath(texts["path"]).as_posix()
            first = first_in.setdefault(texts["path"], number)
            wrong = f"{texts['path']!r} is already in line {first}" if first != number else ""
        if wrong:
            faults.append(Fault(f"line {number}", wrong))
        else:
            good.append({**texts, "label": unicodedata.normalize("NFC", texts["label"])})
    class_names = sorted({row["label"] for row in good}, key=order)
    labels = {name: label for label, name in enumerate(class_names)}
    files = [_file(row, path.parent, labels[row["label"]]) for row in good]
    return Listing(path, files, tuple(class_names), faults)


def _file(row: dict[str, str], home: pathlib.Path, label: int) -> File:
    """The file that a row names; an image of no group is one of its own."""
    further = {key: text for key, text in row.items() if key not in NEEDED}
    if further.get("group") == "":
        further["group"] = row["path"]
    return File(home / row["path"], row["path"], label, further)


def _csv(text: str, path: pathlib.Path) -> Iterator[tuple[int, Row | str]]:
    """The rows of a CSV file by the numbers of their lines; of a row with too many or too few fields, what is wrong."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        for name in filter(None, header):
            if header.count(name) > 1:
                raise DataError(f"the manifest {path} has the column {name!r} twice: rename either")
        for fields in filter(None, reader):
            same = len(fields) == len(header)
            row = dict(zip(header, map(str.strip, fields), strict=False))
            yield (
                reader.line_num,
                row if same else f"{len(fields)} fields, where the header has {len(header)}",
            )
    except csv.Error as error:
        raise DataError(f"the manifest {path} is no CSV: line {reader.line_num}: {error}") from error


def _jsonl(text: str) -> Iterator[tuple[int, Row | str]]:
    """The objects of a JSONL file with the numbers of their lines; of a line that is none, what is wrong."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, f"no JSON: {error}"
                continue
            yield number, found if isinstance(found, dict) else "no JSON object"


def _check_columns(columns: list[str], path: pathlib.Path, *, empty: bool) -> None:
    """Raises a DataError for columns that are missing, or misspelt."""
    if empty:
        raise DataError(f"the manifest {path} lists no image")
    for key in columns:
        close = difflib.get_close_matches(key.lower(), (*NEEDED, *OPTIONAL), n=1, cutoff=0.8)
        if close and close[0] not in columns:
            raise DataError(f"the manifest {path} has a column {key!r}, did you mean {close[0]!r}?")
    for key in NEEDED:
        if columns and key not in columns:
            raise DataError(f"the manifest {path} has no column {key!r}, but {', '.join(columns)}")


def _wrong(row: Row, expected: list[str], home: pathlib.Path) -> str:
    """What is wrong with a row; empty if nothing is."""
    for key in expected:
        value = row.get(key, "")
        if isinstance(value, bool) or not isinstance(value, str | int):
            return f"its {key} is {json.dumps(value)[:40]}, and must be a string"
        if value == "" and key != "group":
            return f"its {key} is empty"
    name = str(row["path"])
    path = home / name
    if path.is_absolute() and pathlib.PurePath(name).is_absolute():
        return f"{name!r} is absolute: write it relative to the folder of the manifest"
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # links in a circle, names that no file can have
        return (
            f"a link that leads nowhere: {name!r}" if os.path.islink(path) else f"there is no file {name!r}"
        )
    if not target.is_relative_to(home.resolve()):
        return f"{name!r} leads out of the folder of the manifest: copy the image there"
    if path.suffix.lower() not in READ:
        return f"{path.suffix or 'such'} files are not read: convert {name!r} to PNG or JPEG"
    return "" if path.is_file() else f"{name!r} is not a file"
