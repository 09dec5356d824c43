"""LFW's own test: do two photos show the same person? 6,000 pairs, in ten folds.

    python experiments/embed.py --workdir=RUN --images=LFW_FOLDER --out=runs/lfw_photos
    python experiments/lfw.py --gallery=runs/lfw_photos --pairs=pairs.txt

LFW_FOLDER is the unpacked lfw-funneled.tgz, or another with a folder for every person; pairs.txt, or another file of
its format, comes with LFW (Huang et al. 2007, https://people.cs.umass.edu/~elm/papers/lfw.pdf). Of each fold the
accuracy is that of the threshold which is best on the others; printed are its mean over folds and its standard error,
as LFW's tables have them, and what needs no threshold, with its interval over people. RUN is to have been trained on
other faces: LFW calls that "unrestricted, labeled outside data". A run of configs/lfw.py has seen most of these people.
"""

import pathlib
import sys

import numpy as np
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a script sees its own folder alone

from experiments import command
from metric_jax.data import DataError, shards
from metric_jax.evaluation import lfw_path, pair_distances, read_pairs, verification
from metric_jax.evaluation.lfw import Pairs
from metric_jax.training import RunError, choices


def main(gallery: str, path: str) -> None:
    """Compares the pairs, and tells.

    Args:
        gallery: The folder of what embed.py wrote of all photos.
        path: The file of pairs.

    Raises:
        DataError: The file cannot be read, or is none of pairs; it names photos that were not embedded.
        RunError: The gallery does not say by which distance to compare, or holds NaN; folds that share no threshold.
    """
    pairs = command.given("pairs", read_pairs, path)
    photos = shards.read(gallery)
    distance = choices.DISTANCES.get(str(photos.made_with.get("distance")))
    if distance is None:
        raise RunError(f"{gallery} names no distance: write it anew with experiments/embed.py")
    first, second = rows_of(pairs, photos.ids.tolist(), gallery)
    folds = pairs.folds if pairs.folds.max() > 0 else None
    try:
        distances = pair_distances(np.concatenate(photos.shards), first, second, distance=distance)
        found = verification(distances, pairs.is_same, folds=folds, subjects=people_of(pairs))
    except ValueError as error:
        raise RunError(f"the pairs of {path} cannot be compared: {error}") from error
    print(told(found))


def rows_of(pairs: Pairs, ids: list[str], gallery: str) -> tuple[list[int], list[int]]:
    """Which rows of the gallery the pairs compare; raises a DataError for photos that it lacks."""
    row_of = {name: row for row, name in enumerate(ids)}
    first, second = ([lfw_path(*photo) for photo in side] for side in (pairs.first, pairs.second))
    missing = sorted({*first, *second} - row_of.keys())
    if missing:
        raise DataError(
            f"{gallery} lacks {len(missing)} photos of the pairs, such as {missing[0]}: give embed.py the folder of "
            "all people as --images"
        )
    return [row_of[name] for name in first], [row_of[name] for name in second]


def people_of(pairs: Pairs) -> np.ndarray:
    """``[pairs, 2]``: the number of the person on either photo."""
    names = [[first, second] for (first, _), (second, _) in zip(pairs.first, pairs.second, strict=True)]
    return np.unique(names, return_inverse=True)[1].reshape(-1, 2)


def told(found: dict[str, float]) -> str:
    """What was found, a line each."""
    lines = []
    for key in sorted(key for key in found if f"{key}_low" in found):
        error = f" ± {found[f'{key}_std']:.4f} standard error," if f"{key}_std" in found else ""
        interval = f"{found[f'{key}_low']:.4f} to {found[f'{key}_high']:.4f}"
        lines.append(f"{key:14s} {found[key]:.4f}{error} 95 % interval {interval}")
    return "\n".join([*lines, f"of {found['genuine']} pairs of one person and {found['impostors']} of two"])


if __name__ == "__main__":
    GALLERY = flags.DEFINE_string("gallery", None, "The folder that embed.py wrote.")
    PAIRS = flags.DEFINE_string("pairs", None, "LFW's pairs.txt, or another file of its format.")
    command.start("lfw", lambda: main(GALLERY.value, PAIRS.value), usage=__doc__)
