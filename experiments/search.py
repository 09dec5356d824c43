"""Finds the images of an embedded folder that are nearest to a query image, and says who it is.

    python experiments/embed.py --workdir=runs/faces --images=FOLDER --out=embedded
    python experiments/search.py IMAGE --workdir=runs/faces --gallery=embedded --images=FOLDER --out=found.png

Prints the nearest images with their distances, and the class of the nearest one, or "unknown" if it is farther than the
threshold that evaluate.py calibrated. Writes a picture of the query and what was found, of the nearest 40 at most: the
images are taken from --images, the folder that was embedded, or else from the run's own data.

The search is exact, shard by shard, through galleries larger than memory. With --approximate it asks an index of faiss
(pip install faiss-cpu), which is built once and kept beside the gallery, and may miss some.
"""

import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a script sees its own folder alone

from experiments import command
from experiments.embed import digest_of_checkpoint
from metric_jax import files
from metric_jax.data import DataError, manifest, shards
from metric_jax.distances import normalize
from metric_jax.evaluation import nearest
from metric_jax.reports.figures import drawable
from metric_jax.training import Run, RunError, calibration, open_run

LINKS = 32  # of every item in the index
PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")
DRAWN = 40  # neighbours in the picture at most: more take minutes
CANDIDATES = 100  # that the index is asked for, at least; exact distances choose among them
INDEXED = {
    "euclidean": False,
    "squared_euclidean": False,
    "cosine": True,
}  # whether rows are normalised for it


class Found(NamedTuple):
    """An image that was found: its id, its class if it has one, its distance."""

    id: str
    name: str
    distance: float


def main(
    image: str,
    *,
    workdir: str,
    gallery: str,
    checkpoint: int | str | None = None,
    k: int = 8,
    images: str | None = None,
    out: str = "found.png",
    approximate: bool = False,
) -> None:
    """Searches, prints, and writes the picture.

    Args:
        image: The path of the query.
        workdir: The folder of a run that evaluate.py has been over.
        gallery: A folder that embed.py wrote with this run.
        checkpoint: The step of the checkpoint, or "best"; the newest by default.
        k: How many images to find.
        images: The folder of images that was embedded; the run's own data by default.
        out: The picture to write.
        approximate: Whether to ask an index of faiss.
    """
    check_out(out, image)
    run = open_run(workdir, checkpoint)
    check_apart(out, images or run.config["data"]["root"])
    threshold = calibration.of_run(run.folder, step=run.step, distance=run.distance)
    query = run.read_image(image)
    embedded = read_gallery(gallery, run)
    if not 1 <= k <= len(embedded.ids):
        raise RunError(f"--k={k} must lie between 1 and the {len(embedded.ids)} images in {gallery}")
    picture = picture_of(run, images)
    rows = run.embed(query[None])
    if rows.shape[1] != embedded.shards[0].shape[1]:
        raise RunError(f"{gallery} holds embeddings of another dimension: embed it anew")
    if approximate:
        indices, distances = approximately(run, pathlib.Path(gallery), embedded, rows, k)
    else:
        indices, distances = exactly(run, embedded.shards, rows, k)
    found = [
        Found(str(embedded.ids[i]), class_name(embedded, int(i)), float(distance))
        for i, distance in zip(indices, distances, strict=True)
    ]
    print(answer(found, threshold))
    save_picture(out, query, found[:DRAWN], threshold, picture)
    print(f"picture: {out}" + (f", of the nearest {DRAWN}" if k > DRAWN else ""))


def check_out(out: str, image: str) -> None:
    """Raises a RunError unless a picture can be written there, and not over the query."""
    path = pathlib.Path(out)
    if not path.parent.is_dir() or path.is_dir():
        raise RunError(f"--out={out} is no file in a folder that there is: name another")
    if path.suffix.lower() not in PICTURES:
        raise RunError(f"--out={out} does not end as a picture does: {', '.join(PICTURES)}")
    if path.exists() and os.path.exists(image) and path.samefile(image):
        raise RunError(f"--out={out} is the query itself: name another file")


def check_apart(out: str, images: str) -> None:
    """Raises a RunError if a picture would lie in a folder of images, or take the place of one of a manifest's."""
    path, home = (pathlib.Path(each).expanduser().resolve() for each in (out, images))
    if manifest.is_one(home):
        is_among = path in (file.path.resolve() for file in manifest.read(home).files)
    else:
        is_among = bool(images) and path.is_relative_to(home)
    if is_among:
        raise RunError(f"--out={out} lies among the images of {images}: name a file elsewhere")


def read_gallery(gallery: str, run: Run) -> shards.Embedded:
    """What embed.py wrote, which must be by this checkpoint and of images of this shape."""
    anew = "embed it anew with experiments/embed.py"
    embedded = shards.read(gallery)
    if embedded.made_with.get("model") != digest_of_checkpoint(run):
        raise RunError(f"{gallery} was not embedded by step {run.step} of {run.folder}: {anew}")
    seen = [embedded.made_with.get(key) for key in ("image_shape", "crop")]
    if seen != [list(run.image_shape), run.crop]:
        raise RunError(
            f"{gallery} was embedded from images of another shape than {list(run.image_shape)}, which the threshold of "
            f"{run.folder} is for: {anew}, and with the --data flags that evaluate.py was given"
        )
    return embedded


def exactly(
    run: Run, parts: Sequence[np.ndarray], query: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices and distances ``[k]`` of the nearest rows, counted through all parts."""
    try:
        indices, distances = nearest(query, [part for part in parts if len(part)], k=k, distance=run.distance)
    except ValueError as error:
        raise RunError(f"the gallery cannot be searched: {error}") from error
    return indices[0], distances[0]


def approximately(
    run: Run, folder: pathlib.Path, embedded: shards.Embedded, query: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same among the candidates of an index, which may miss some; the distances are exact."""
    if run.distance.name not in INDEXED:
        raise RunError(f"there is no index for the {run.distance.name} distance: leave --approximate")
    try:
        import faiss
    except ImportError as error:
        raise RunError("--approximate needs faiss: pip install faiss-cpu, or leave the flag") from error

    def prepared(rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, np.float32)
        return np.asarray(normalize(rows)) if INDEXED[run.distance.name] else rows

    # Of other embeddings it is another file.
    described = json.dumps([embedded.made_with, len(embedded.ids)], sort_keys=True)
    path = folder / f"index-{hashlib.sha256(described.encode()).hexdigest()[:16]}.faiss"
    try:
        if path.exists():
            index = faiss.read_index(str(path))
        else:
            index = faiss.IndexHNSWFlat(query.shape[1], LINKS)
            for part in embedded.shards:
                index.add(prepared(part))
            files.replace(path, lambda file: faiss.write_index(index, faiss.PyCallbackIOWriter(file.write)))
    except (RuntimeError, OSError) as error:
        raise RunError(
            f"the index {path} can be neither read nor written: remove it, or leave --approximate"
        ) from error
    if (type(index), index.d, index.ntotal) != (faiss.IndexHNSWFlat, query.shape[1], len(embedded.ids)):
        raise RunError(f"the index {path} is not that of this gallery: remove it, or leave --approximate")
    wanted = min(len(embedded.ids), max(CANDIDATES, 4 * k))
    index.hnsw.efSearch = wanted
    candidates = np.sort(index.search(prepared(query), wanted)[1][0])
    candidates = candidates[candidates >= 0]  # -1 where it found no more
    if len(candidates) < k:  # among many duplicates its graph falls apart
        return exactly(run, embedded.shards, query, k)
    indices, distances = exactly(run, [np.stack([row_of(embedded, i) for i in candidates])], query, k)
    return candidates[indices], distances


def row_of(embedded: shards.Embedded, index: int) -> np.ndarray:
    """One row, counted through all shards."""
    ends = np.cumsum([len(part) for part in embedded.shards])
    shard = int(np.searchsorted(ends, index, side="right"))
    return embedded.shards[shard][index - ends[shard]]


def class_name(embedded: shards.Embedded, index: int) -> str:
    """What the class of a row is called; empty if it has none."""
    number = int(embedded.labels[index])
    if number < 0:
        return ""
    return str(embedded.class_names[number] if number < len(embedded.class_names) else number)


def answer(found: list[Found], threshold: calibration.Threshold) -> str:
    """Who it is, why, and what was found."""
    first = found[0]
    known = first.distance <= threshold.threshold
    who = (first.name or f"the same as {first.id}") if known else "unknown"
    lines = [
        printable(who),
        f"the nearest is {'within' if known else 'beyond'} the threshold of {threshold.threshold:.4f}, calibrated for "
        f"a false accept rate of {threshold.far:.3g} a comparison",
        f"{'':>3} {threshold.distance:>10}  class, image",
    ]
    for rank, each in enumerate(found, 1):
        sign = " " if each.distance <= threshold.threshold else "?"
        lines.append(f"{rank:>3} {each.distance:>10.4f}{sign} {label(each)}")
    if found[-1].distance > threshold.threshold:
        lines.append("? is beyond the threshold")
    return "\n".join(lines)


def label(found: Found) -> str:
    """An image in one line."""
    return printable(", ".join(filter(None, [found.name, found.id])))


def printable(text: str) -> str:
    """A text without the characters that a terminal would obey."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def picture_of(run: Run, images: str | None) -> Callable[[str], np.ndarray | None]:
    """From an image's id to the image, or None if it is not there or broken."""
    if images is not None:
        home = pathlib.Path(images).resolve()
        if manifest.is_one(home):
            home = home.parent  # to which the paths in a manifest are relative
        if not home.is_dir():
            raise RunError(f"there is no folder --images={images}: name the one that was embedded")

        def of_folder(name: str) -> np.ndarray | None:
            try:
                path = (home / name).resolve()
                return run.read_image(path) if path.is_relative_to(home) else None
            except (DataError, OSError, ValueError):  # the last for a name that no file can have
                return None

        return of_folder
    try:
        parts = run.load_data()
    except DataError as error:
        raise RunError(f"name the folder that was embedded, --images=FOLDER, for {error}") from error

    def of_data(name: str) -> np.ndarray | None:
        for part in parts:
            at = np.flatnonzero(part.ids == name)
            if at.size:
                return part.images[at[0]]
        return None

    return of_data


def save_picture(
    out: str,
    query: np.ndarray,
    found: list[Found],
    threshold: calibration.Threshold,
    picture: Callable[[str], np.ndarray | None],
) -> None:
    """The query and what was found, in order; the frame is dashed where it is beyond the threshold."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(5, len(found) + 1)
    rows = -(-(len(found) + 1) // columns)
    figure = Figure(figsize=(1.9 * columns, 2.45 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    show(axes[0], query, "query", "#222222", "solid")
    for axis, each in zip(axes[1:], found, strict=False):
        within = each.distance <= threshold.threshold
        title = f"{each.distance:.3f}, {'within' if within else 'beyond'}\n{shortened(each.name or each.id)}"
        style = ("#0072B2", "solid") if within else ("#D55E00", "dashed")
        show(axis, picture(each.id), title, *style)
    try:
        figure.savefig(out)
    except OSError as error:
        raise RunError(f"cannot write --out={out}: {error}") from error


def show(axis: Any, image: np.ndarray | None, title: str, colour: str, line: str) -> None:
    """An image in a frame, or the frame alone."""
    axis.axis("on")
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9, parse_math=False)
    for spine in axis.spines.values():
        spine.set(color=colour, linestyle=line, linewidth=2.5)
    if image is None:
        axis.text(0.5, 0.5, "no image", ha="center", va="center", transform=axis.transAxes)
    else:
        axis.imshow(image, cmap="gray" if image.shape[-1] == 1 else None, vmin=0, vmax=255)


def shortened(text: str) -> str:
    """A name that fits over an image, as far as the font has it."""
    text = drawable(text)
    return text if len(text) <= 24 else f"…{text[-23:]}"


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run.")
    GALLERY = flags.DEFINE_string("gallery", None, "The folder that embed.py wrote.")
    CHECKPOINT = command.define_checkpoint()
    K = flags.DEFINE_integer("k", 8, "How many images to find.")
    IMAGES = flags.DEFINE_string("images", None, "The folder of images that was embedded.")
    OUT = flags.DEFINE_string("out", "found.png", "The picture to write.")
    APPROXIMATE = flags.DEFINE_bool("approximate", False, "Asks an index of faiss, which may miss some.")
    command.start(
        "search",
        lambda image: main(
            image,
            workdir=WORKDIR.value,
            gallery=GALLERY.value,
            checkpoint=CHECKPOINT.value,
            k=K.value,
            images=IMAGES.value,
            out=OUT.value,
            approximate=APPROXIMATE.value,
        ),
        images=("IMAGE",),
        usage=__doc__,
    )
