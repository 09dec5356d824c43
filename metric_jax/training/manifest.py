"""What the files of a checkpoint were when it was whole: their sizes and SHA-256, in a file beside them.

It is verified before anything else reads a checkpoint. So damage is told in one line that names the file, and Orbax,
which would not tell it so and leaves an event loop behind where it fails, never sees any.
"""

import hashlib
import os
import pathlib

from metric_jax.training import folders
from metric_jax.training.errors import RunError

NAME = "manifest.json"


def write(folder: pathlib.Path) -> None:
    """Writes the manifest of all files below a folder; they and it are on disk when this returns."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / NAME:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            found[path.relative_to(folder).as_posix()] = _describe(path)
    folders.write_json(folder / NAME, {"files": found})
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        sync(path)


def verify(folder: pathlib.Path) -> None:
    """Raises a RunError that says what is wrong with the files of a folder, by their names in it, if anything is."""
    if not (folder / NAME).is_file():
        raise RunError(f"it has no {NAME}")
    files = folders.read_json(folder / NAME).get("files")
    if not isinstance(files, dict) or not files:
        raise RunError(f"its {NAME} lists no files")
    for name, wanted in files.items():
        try:
            found = _describe(folder / name)
        except OSError as error:
            raise RunError(f"{name}: {error.strerror}") from error
        if found != wanted:
            raise RunError(f"{name} is not what was saved there")


def sync(folder: pathlib.Path) -> None:
    """Puts the names of what is in a folder on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _describe(path: pathlib.Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
