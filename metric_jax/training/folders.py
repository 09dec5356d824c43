"""The folder of a run: whose it is, and what of it must not be lost."""

import contextlib
import fcntl
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from metric_jax import files
from metric_jax.training.errors import RunError

CONFIG, RESULTS, METRICS, CHECKPOINTS = "config.json", "results.json", "metrics.jsonl", "checkpoints"
SPEED, PROFILE = "speed.jsonl", "profile"
# Where the data lies and who looks on is not what the run is: a rerun may have it otherwise.
MAY_DIFFER = {"data.data_dir", "data.root", "data.cache", "compiled", "profile", "wandb"}


def check(folder: pathlib.Path, config: Mapping[str, Any]) -> dict[str, float] | None:
    """Looks whether a folder is free for a run, or holds this very one. Writes nothing.

    Args:
        folder: The run's folder; it need not exist.
        config: The run's config, nested.

    Returns:
        The results, if the run is finished, else None.

    Raises:
        RunError: The folder holds a run of another config, or one without.
    """
    remedy = "choose another --workdir"
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is not a folder: {remedy}")
    if not (folder / CONFIG).exists():
        for name in (RESULTS, METRICS, CHECKPOINTS):
            if (folder / name).exists():
                raise RunError(f"{folder} holds {name} of a run without {CONFIG}: {remedy}")
        return None
    mend = f"mend it, or {remedy}"
    before, now = flatten(read_json(folder / CONFIG, mend)), flatten(json.loads(json.dumps(config)))
    differing = sorted(
        key for key in (before.keys() | now.keys()) - MAY_DIFFER if before.get(key) != now.get(key)
    )
    if differing:
        changes = ", ".join(f"{key} ({before.get(key)!r} there, {now.get(key)!r} here)" for key in differing)
        raise RunError(f"{folder} holds a run with another config, which differs in {changes}: {remedy}")
    return read_json(folder / RESULTS, mend) if (folder / RESULTS).exists() else None


def claim(folder: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Makes the folder, if need be, and writes the config that it belongs to from now on."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not (folder / CONFIG).exists():
        write_json(folder / CONFIG, config)


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from training in a folder that was claimed; however this one ends, the lock ends too."""
    with writing(folder / CONFIG), (folder / CONFIG).open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another process trains in {folder}: wait for it, or choose another --workdir"
            ) from None
        yield


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Makes a RunError that names the path of what goes wrong while something is written there."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes a file that is either there as a whole or not at all."""
    replace(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: pathlib.Path, remedy: str = "") -> dict[str, Any]:
    """A JSON file that holds an object.

    Args:
        path: The file.
        remedy: What a message about a file that is no such thing advises.

    Raises:
        RunError: It cannot be read, is not JSON, or holds something else.
    """
    advice = f": {remedy}" if remedy else ""
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}{advice}") from error
    except ValueError as error:
        raise RunError(f"{path} is not JSON ({error}){advice}") from error
    if not isinstance(found, dict):
        raise RunError(f"{path} holds no JSON object{advice}")
    return found


def replace(path: pathlib.Path, text: str) -> None:
    """Puts a text in the place of a file at one stroke."""
    with writing(path):
        files.replace(path, text.encode())


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots.

    Example:
        >>> flatten({"steps": 3, "loss": {"margin": 0.2}})
        {'steps': 3, 'loss.margin': 0.2}
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
