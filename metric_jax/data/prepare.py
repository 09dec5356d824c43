"""Builds a standard TFDS set, once: from then on it is read without TensorFlow and without the network.

    .venv/bin/pip install -e '.[prepare]'
    .venv/bin/python -m metric_jax.data.prepare mnist --data_dir=TFDS_FOLDER

Nothing else in metric_jax needs TensorFlow. A name may be that of a set or of one of its configs, "set/config"; what
there is stands in https://www.tensorflow.org/datasets/catalog. Without --data_dir the set goes where it is looked for:
into $TFDS_DATA_DIR, else into ~/tensorflow_datasets.
"""

import argparse
import contextlib
import difflib
import importlib.util
import json
import pathlib
import shutil
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from metric_jax.data.errors import DataError
from metric_jax.data.sources import tfds_folder

BAD_INPUT = 2
PATIENCE = 10  # seconds that a server may take to answer


def prepare(name: str, *, data_dir: str = "", overwrite: bool = False) -> pathlib.Path:
    """Downloads and builds a TFDS set in a format that `sources.tfds` reads.

    Args:
        name: The set, ``"mnist"``, or one of its configs, ``"set/config"``.
        data_dir: The folder that holds prepared sets; by default TFDS_DATA_DIR, then ~/tensorflow_datasets.
        overwrite: Whether to build it anew if it is there. What is there goes once the new one is built.

    Returns:
        The folder of the set.

    Raises:
        DataError: TensorFlow is missing, there is no such set, it is there in another format or broken, or it cannot
            be downloaded or built.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(
            "building a TFDS set needs TensorFlow, which reading it does not: .venv/bin/pip install -e '.[prepare]'"
        )
    import tensorflow_datasets as tfds

    home = tfds_folder(data_dir)
    with tempfile.TemporaryDirectory() as empty:  # in its own place, a broken set could not be opened
        builder = _builder(tfds, name, empty)
        folder = home / pathlib.Path(builder.data_path).relative_to(empty)
    if not overwrite and _is_prepared(folder):
        return folder
    if not overwrite and folder.exists():
        raise DataError(
            f"{folder} holds a set that is broken or in another format: build it anew with --overwrite"
        )
    try:
        _check_reachable(builder.url_infos or ())
        with _out_of_the_way(folder):
            _builder(tfds, name, home).download_and_prepare()
    except DataError:
        raise
    except Exception as error:  # whatever may be wrong with a network, a disk or a set
        told = " ".join(str(error).split())[:500] or type(error).__name__
        raise DataError(f"the TFDS set {name!r} cannot be built: {told}") from error
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """What the command line asks for; returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m metric_jax.data.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="the set, such as mnist or omniglot")
    parser.add_argument("--data_dir", default="", help="the folder that holds prepared sets")
    parser.add_argument("--overwrite", action="store_true", help="build the set anew if it is there")
    given = parser.parse_args(arguments)
    try:
        folder = prepare(given.name, data_dir=given.data_dir, overwrite=given.overwrite)
    except DataError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return BAD_INPUT
    print(f"{given.name} is prepared in {folder}")
    return 0


def _builder(tfds: Any, name: str, data_dir: str | pathlib.Path) -> Any:
    """TFDS's builder of a set."""
    try:
        return tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.registered.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        meant = f", did you mean {close[0]!r}?" if close else ":"
        raise DataError(
            f"TFDS has no set {name!r}{meant} All are in https://www.tensorflow.org/datasets/catalog"
        ) from error
    except ValueError as error:  # of a config that the set does not have, or of what is no name
        told = " ".join(str(error).split())[:500]
        raise DataError(f"TFDS has no {name!r}: {told}") from error


@contextlib.contextmanager
def _out_of_the_way(folder: pathlib.Path) -> Iterator[None]:
    """Moves a folder aside, deletes it when what follows is done, and puts it back if that fails."""
    aside = folder.with_name(f"{folder.name}.before")
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    try:
        yield
    except BaseException:
        if aside.exists():
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _check_reachable(urls: Iterable[str]) -> None:
    """Raises a DataError if the first of the URLs is out of reach: TFDS itself would try for minutes."""
    url = next((url for url in urls if url.startswith("http")), None)
    if url is None:
        return
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:  # somebody answers, if only that this is not how to ask
        return
    except OSError as error:
        host, reason = urllib.parse.urlsplit(url).hostname, getattr(error, "reason", error)
        raise DataError(
            f"cannot reach {host} ({reason}): build the set on a machine with a network, and copy its folder here"
        ) from error


def _is_prepared(folder: pathlib.Path) -> bool:
    """Whether a set is there as a whole and in the format that is read here."""
    try:
        info = json.loads((folder / "dataset_info.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(info, dict) and info.get("fileFormat") == "array_record"


if __name__ == "__main__":
    sys.exit(main())
