"""Embeddings on disk: shards of rows that can be mapped into memory, and whose they are.

A folder of them holds ``embeddings-00000.npy``, ... ([rows, dim] each), beside every one ``ids-00000.jsonl`` (a line
``{"id": ..., "label": ...}`` for each row) and one ``manifest.json``: what they were made with, how many shards there
will be, the names of the classes. Every file is written under another name and then renamed, ids before embeddings, so
a shard is there as a whole or not at all, and whoever was interrupted goes on with the first that is missing.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metric_jax import files
from metric_jax.data.errors import DataError

MANIFEST = "manifest.json"


class Row(NamedTuple):
    """Whose an embedding is: the image's id and its class, negative if it has none."""

    id: str
    label: int


class Embedded(NamedTuple):
    """The embeddings of a folder.

    Attributes:
        shards: ``[rows, dim]`` floating each, mapped into memory: nothing is read before it is used.
        ids: ``[n]`` strings, of the rows of all shards one after the other.
        labels: ``[n]`` int32, negative where there is no class.
        class_names: Of class 0, 1, ...; empty if they have none.
        made_with: What `claim` was told.
    """

    shards: list[np.ndarray]
    ids: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    made_with: dict[str, Any]


def claim(
    folder: pathlib.Path, made_with: Mapping[str, Any], *, shards: int, class_names: Sequence[str] = ()
) -> None:
    """Makes a folder for embeddings, or finds in it those of the same making, to go on with.

    Args:
        folder: The folder.
        made_with: All that the embeddings depend on, as JSON: hashes of the model and the images, ...
        shards: How many there will be.
        class_names: Of class 0, 1, ...; empty if they have none.

    Raises:
        DataError: The folder holds embeddings made with something else, or a broken manifest.
        OSError: It cannot be written to.
    """
    manifest = {"made_with": dict(made_with), "shards": shards, "class_names": list(class_names)}
    if (folder / MANIFEST).exists():
        there = _manifest(folder)["made_with"]
        differing = {
            key: f"({str(there.get(key))[:12]} there, {str(made_with.get(key))[:12]} here)"  # of a hash the beginning
            for key in sorted(there.keys() | made_with.keys())
            if there.get(key) != made_with.get(key)
        }
        if "images" in differing:
            raise DataError(
                f"{folder} holds embeddings of other images {differing['images']}: choose another folder"
            )
        if differing:
            others = ", ".join(f"{key} {values}" for key, values in differing.items())
            raise DataError(
                f"{folder} holds embeddings made otherwise, with another {others}: choose another folder"
            )
    elif any(folder.glob("embeddings-*.npy")):
        raise DataError(f"{folder} holds embeddings without {MANIFEST}: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    files.replace(folder / MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")


def write(folder: pathlib.Path, number: int, embeddings: np.ndarray, rows: Sequence[Row]) -> None:
    """Writes a shard; it is on disk when this returns.

    Args:
        folder: One that was claimed.
        number: Which shard, from 0.
        embeddings: ``[rows, dim]`` floating.
        rows: Whose they are.

    Raises:
        TypeError: Embeddings that are not floating to NumPy, as bfloat16 is not; an id that is no string.
        ValueError: Not one row for each embedding; a label that is no integer.
        OverflowError: A label beyond 32 bits.
        OSError: The shard cannot be written.
    """
    if embeddings.ndim != 2 or len(embeddings) != len(rows):
        raise ValueError(f"{len(rows)} rows for embeddings {list(embeddings.shape)}")
    if not _is_floating(embeddings):
        raise TypeError(
            f"embeddings must be floating, got {embeddings.dtype}: convert with embeddings.astype(np.float32)"
        )
    _ids_and_labels([row._asdict() for row in rows])
    lines = "".join(json.dumps(row._asdict()) + "\n" for row in rows).encode()
    files.replace(_ids(folder, number), lines)
    files.replace(_embeddings(folder, number), lambda file: np.save(file, embeddings, allow_pickle=False))


def is_written(folder: pathlib.Path, number: int) -> bool:
    """Whether a shard is there and whole."""
    try:
        _read(folder, number)
    except DataError:
        return False
    return True


def read(folder: str | pathlib.Path) -> Embedded:
    """The embeddings of a folder.

    Args:
        folder: One that `claim` made and `write` filled.

    Returns:
        Its embeddings, mapped into memory.

    Raises:
        DataError: The folder holds none, or not yet all of them; a file is broken; pickle where an array is expected.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = pathlib.Path(name)
        ...     claim(folder, {"step": 3}, shards=1, class_names=["Ada"])
        ...     write(folder, 0, np.ones((1, 2), np.float32), [Row("Ada/1.png", 0)])
        ...     found = read(folder)
        >>> found.shards[0].tolist(), found.ids.tolist(), found.labels.tolist(), found.made_with
        ([[1.0, 1.0]], ['Ada/1.png'], [0], {'step': 3})
    """
    folder = pathlib.Path(folder)
    if not (folder / MANIFEST).is_file():
        raise DataError(f"{folder} holds no embeddings: it has no {MANIFEST}")
    manifest = _manifest(folder)
    missing = [n for n in range(manifest["shards"]) if not _embeddings(folder, n).exists()]
    if missing:
        raise DataError(
            f"{folder} holds {manifest['shards'] - len(missing)} of {manifest['shards']} shards of embeddings: run "
            "again what wrote them, and it goes on"
        )
    found = [_read(folder, number) for number in range(manifest["shards"])]
    shards = [embeddings for embeddings, _, _ in found]
    if len({shard.shape[1] for shard in shards}) > 1:
        raise DataError(f"the shards in {folder} differ in dimension: write them anew")
    return Embedded(
        shards,
        np.array([name for _, ids, _ in found for name in ids], np.str_),
        np.concatenate([labels for _, _, labels in found]),
        tuple(manifest["class_names"]),
        manifest["made_with"],
    )


def _read(folder: pathlib.Path, number: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    """A shard, its ids and its labels; raises a DataError if they are not whole or do not belong together."""
    path = _embeddings(folder, number)
    try:
        embeddings = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy has several for a file that is cut off, or none of its own
        raise DataError(f"{path} is no array ({error}): write it anew") from error
    if not isinstance(embeddings, np.ndarray) or embeddings.ndim != 2 or not _is_floating(embeddings):
        raise DataError(f"{path} holds no embeddings [rows, dim]: write them anew")
    path = _ids(folder, number)
    try:
        ids, labels = _ids_and_labels([json.loads(line) for line in path.read_text().splitlines()])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"{path} is missing or broken ({error}): write it anew") from error
    if len(labels) != len(embeddings):
        raise DataError(f"{path} has {len(labels)} lines for {len(embeddings)} embeddings: write them anew")
    return embeddings, ids, labels


def _is_floating(embeddings: np.ndarray) -> bool:
    """Whether they are of a type that a file of NumPy's can name."""
    return embeddings.dtype.kind == "f"


def _ids_and_labels(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], np.ndarray]:
    """Those of some rows; raises, as `write` says, unless they are strings and integers of 32 bits."""
    for row in rows:
        if not isinstance(row["id"], str):
            raise TypeError(f"the id {row['id']!r} is no string")
        if isinstance(row["label"], bool) or int(row["label"]) != row["label"]:
            raise ValueError(f"the label {row['label']!r} is no integer")
    return [row["id"] for row in rows], np.array([row["label"] for row in rows], np.int32)


def _manifest(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / MANIFEST
    kinds = {"made_with": dict, "shards": int, "class_names": list}
    try:
        found = json.loads(path.read_text())
        whole = all(isinstance(found[key], kind) for key, kind in kinds.items())
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is broken ({error}): choose another folder") from error
    if not whole or isinstance(found["shards"], bool) or found["shards"] < 1:
        raise DataError(f"{path} is not what a folder of embeddings has: choose another folder")
    return found


def _embeddings(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / f"embeddings-{number:05}.npy"


def _ids(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / f"ids-{number:05}.jsonl"
