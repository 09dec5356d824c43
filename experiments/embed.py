"""Embeds a data set or a folder of images by a trained run, into files that can be mapped into memory.

    python experiments/embed.py --workdir=runs/faces --out=runs/faces/test
    python experiments/embed.py --workdir=runs/faces --out=runs/faces/train --part=train
    python experiments/embed.py --workdir=runs/omniglot --out=embedded --data.data_dir=TFDS_FOLDER
    python experiments/embed.py --workdir=runs/faces --out=embedded --images=FOLDER

Embeds the test set that the run's config names, and any key of its data can be set by a flag, as --data.KEY=VALUE;
turned and mirrored classes, which are for training, are always left out. Or, with --images, it embeds all images in a
folder, which lie in it or in one folder a class. These need not fit into memory.

Writes shards of at most --shard rows, embeddings-00000.npy, ... and whose they are, ids-00000.jsonl, ...;
metric_jax.data.shards reads them. The same command again goes on where it was interrupted.
"""

import functools
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from tqdm import tqdm

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a script sees its own folder alone

from experiments import command
from metric_jax.data import Images, folder, listing, shards
from metric_jax.training import Run, RunError, folders, open_run

SKIP = "--skip_bad"


class Work(NamedTuple):
    """What is to be embedded.

    Attributes:
        count: How many images.
        digest: A hash of them: of other images it is another one.
        class_names: Of class 0, 1, ...
        load: ``(start, stop) -> images [n, height, width, channels], rows [n]``; fewer if some are left out.
    """

    count: int
    digest: str
    class_names: tuple[str, ...]
    load: Callable[[int, int], tuple[np.ndarray, list[shards.Row]]]


def main(
    workdir: str,
    out: str,
    *,
    checkpoint: int | str | None = None,
    images: str | None = None,
    part: str = "test",
    shard: int = 2048,
    skip_bad: bool = False,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Embeds what is not embedded yet, and tells how it goes.

    Args:
        workdir: The run's folder.
        out: The folder to write to.
        checkpoint: The step of the checkpoint, or "best"; the newest by default.
        images: A folder of images; by default the run's data are embedded.
        part: ``"test"`` or ``"train"``, of the run's data.
        shard: How many images make a shard.
        skip_bad: Whether to leave out images of that folder that cannot be used, rather than to stop.
        data: Keys of the config's data that differ.
    """
    if shard < 1:
        raise RunError(f"--shard must be at least 1, got {shard}")
    if images is not None:
        if data or part != "test":
            raise RunError("--images is a folder of its own: leave --part and --data, or --images")
        found = folder.find(images, option="--images")
        run = open_run(workdir, checkpoint)
        work = of_folder(found, run.image_shape, crop=run.crop, skip_bad=skip_bad)
    elif skip_bad:
        raise RunError(f"{SKIP} is for --images: for the run's data, say --data.skip_bad=True")
    else:
        # Turned and mirrored images are classes to train on, made from those that are there.
        run = open_run(workdir, checkpoint, data={**(data or {}), "rotations": False, "mirrors": False})
        train, test = run.load_data()
        work = of_data(train if part == "train" else test)

    target = pathlib.Path(out)
    made_with = {
        "step": run.step,
        "model": digest_of_checkpoint(run),
        "images": work.digest,
        "image_shape": list(run.image_shape),
        "crop": run.crop,
        "shard": shard,
        "distance": run.distance.name,
    }
    count = -(-work.count // shard)
    try:
        shards.claim(target, made_with, shards=count, class_names=work.class_names)
        embed(run, work, target, size=shard, count=count)
    except OSError as error:
        raise RunError(f"cannot write to {target}: {error}") from error
    written = len(shards.read(target).ids)
    left_out = f", {work.count - written} left out" if written < work.count else ""
    parts = "1 shard" if count == 1 else f"{count} shards"
    print(f"{written} embeddings of {work.count} images{left_out} in {parts} in {target}")


def embed(run: Run, work: Work, target: pathlib.Path, *, size: int, count: int) -> None:
    """Writes the shards that are not there yet."""
    numbers = [number for number in range(count) if not shards.is_written(target, number)]
    if len(numbers) < count:
        say(f"going on: {count - len(numbers)} of {count} shards are there")
    spans = [(number, number * size, min(work.count, (number + 1) * size)) for number in numbers]
    total = sum(stop - start for _, start, stop in spans)
    begun, done = time.perf_counter(), 0
    with tqdm(total=total, desc="embedding", unit="image", disable=not sys.stderr.isatty()) as bar:
        for number, start, stop in spans:
            images, rows = work.load(start, stop)
            # Of a shard without an image, the dimension is that of any.
            embeddings = (
                run.embed(images) if rows else run.embed(np.zeros((1, *run.image_shape), np.uint8))[:0]
            )
            shards.write(target, number, embeddings, rows)
            bar.update(stop - start)
            done += stop - start
            if bar.disable:
                speed = done / (time.perf_counter() - begun)
                left = tqdm.format_interval((total - done) / speed)
                say(f"image {stop}/{work.count}  images/s {speed:,.0f}  ETA {left}")


def of_data(images: Images) -> Work:
    """A data set in memory."""

    def load(start: int, stop: int) -> tuple[np.ndarray, list[shards.Row]]:
        some = images[start:stop]
        rows = zip(some.ids.tolist(), some.labels.tolist(), strict=True)
        return some.images, [shards.Row(*row) for row in rows]

    described = json.dumps([images.ids.tolist(), images.labels.tolist(), images.images.shape]).encode()
    digest = hashlib.sha256(described + np.ascontiguousarray(images.images).tobytes()).hexdigest()
    return Work(len(images), digest, images.class_names, load)


def of_folder(found: listing.Listing, image_shape: tuple[int, ...], *, crop: bool, skip_bad: bool) -> Work:
    """A folder of images, of which only a shard is in memory at any time."""
    listing.settle(found.faults, found, skip_bad=skip_bad, option=SKIP)
    # not the inode: a copy of the folder, on another machine say, is the same folder
    described = json.dumps([[file.id, file.label, *listing.stamp(file.path)[:2]] for file in found.files])
    load = functools.partial(load_files, found, image_shape, crop, skip_bad)
    return Work(len(found.files), hashlib.sha256(described.encode()).hexdigest(), found.class_names, load)


def load_files(
    found: listing.Listing, image_shape: tuple[int, ...], crop: bool, skip_bad: bool, start: int, stop: int
) -> tuple[np.ndarray, list[shards.Row]]:
    """Some images of a folder; if one of them cannot be used, all that follow are looked at for the report."""
    height, width, channels = image_shape
    images: list[np.ndarray] = []
    rows: list[shards.Row] = []
    faults: list[listing.Fault] = []
    for number, file in enumerate(found.files[start:], start):
        if number >= stop and (skip_bad or not faults):
            break
        try:
            image = listing.read(file, (height, width), channels, crop=crop)
        except Exception as error:  # whatever Pillow raises of a broken file
            faults.append(listing.Fault(file.id, listing.reason(error)))
            continue
        if number < stop:
            images.append(image)
            rows.append(shards.Row(file.id, file.label))
    listing.settle(faults, found, skip_bad=skip_bad, option=SKIP)
    return np.stack(images) if images else np.zeros((0, *image_shape), np.uint8), rows


def digest_of_checkpoint(run: Run) -> str:
    """A hash of the parameters that the run embeds with."""
    home = run.folder / folders.CHECKPOINTS / str(run.step)
    digest = hashlib.sha256()
    for path in sorted(path for path in home.rglob("*") if path.is_file()):
        digest.update(path.relative_to(home).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def say(text: str) -> None:
    """A line of its own."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run.")
    OUT = flags.DEFINE_string("out", None, "The folder to write to; made if it is not there.")
    CHECKPOINT = command.define_checkpoint()
    IMAGES = flags.DEFINE_string(
        "images", None, "A folder of images; by default the run's data are embedded."
    )
    PART = flags.DEFINE_enum("part", "test", ["test", "train"], "Which part of the run's data.")
    SHARD = flags.DEFINE_integer("shard", 2048, "How many images make a shard.")
    SKIP_BAD = flags.DEFINE_bool("skip_bad", False, "Leaves out images of --images that cannot be used.")
    DATA = command.define_data("embed")
    command.start(
        "embed",
        lambda: main(
            WORKDIR.value,
            OUT.value,
            checkpoint=CHECKPOINT.value,
            images=IMAGES.value,
            part=PART.value,
            shard=SHARD.value,
            skip_bad=SKIP_BAD.value,
            data=DATA(),
        ),
        usage=__doc__,
    )
