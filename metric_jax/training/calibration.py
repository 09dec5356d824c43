"""The threshold that says "same" or "different": calibrated on a test set, and kept beside the run.

What it promises is a false accept rate (FAR): of so many pairs of strangers, as many are taken for the same. It holds
for this checkpoint and for images like those it was measured on.
"""

import hashlib
import io
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from metric_jax import files
from metric_jax.distances import Distance
from metric_jax.evaluation import threshold_at
from metric_jax.evaluation.pairs import Compared
from metric_jax.limits import FRACTION, NOT_NEGATIVE, Limits, is_count
from metric_jax.training import folders
from metric_jax.training.errors import RunError

EVALUATION = "evaluation"  # in a run's folder, the folder for what was found out after training
THRESHOLD = "threshold.json"
COHORT = "cohort.npy"  # beside it, if it is for relative distances
REMEDY = "calibrate one with experiments/evaluate.py --workdir="
NUMBERS: Mapping[str, Limits] = {
    "far": FRACTION,
    "threshold": Limits(),
    "measured_far": FRACTION,
    "tar": FRACTION,
    "impostors": NOT_NEGATIVE,
    "step": NOT_NEGATIVE,
}


class Threshold(NamedTuple):
    """A threshold and where it comes from. Two images are the same if their distance is at most ``threshold``.

    Attributes:
        far: The false accept rate it was calibrated for.
        threshold: In units of the distance.
        measured_far: The impostors among the pairs of the test set that it accepts, at most ``far``.
        tar: The genuine ones that it accepts.
        distance: The name of the distance.
        impostors: How many impostors there were.
        step: The checkpoint's.
        image_shape: (height, width, channels) of the images.
        crop: Whether images of another shape were cut to that one rather than squeezed.
        cohort: The checksum of the cohort beside it, if it is for `evaluation.relative_distances`; else empty.
    """

    far: float
    threshold: float
    measured_far: float
    tar: float
    distance: str
    impostors: int
    step: int
    image_shape: tuple[int, ...]
    crop: bool
    cohort: str = ""

    @property
    def measure(self) -> str:
        """What the two are compared by, in words."""
        return f"{'relative ' if self.cohort else ''}{self.distance} distance"


def calibrate(
    compared: Compared,
    *,
    far: float,
    distance: Distance,
    step: int,
    image_shape: tuple[int, ...],
    crop: bool,
) -> Threshold:
    """The largest threshold whose FAR among the pairs of a test set does not exceed the wanted one.

    Args:
        compared: The pairs, of both kinds.
        far: The wanted FAR, in (0, 1] and not below 1/#impostors.
        distance: The distance that they are compared by, to be noted, as all that follows.
        step: The checkpoint's.
        image_shape: (height, width, channels) of the images.
        crop: Whether images of another shape were cut to that one.

    Returns:
        The threshold.

    Raises:
        RunError: A FAR that is out of range or cannot be measured.
    """
    try:
        threshold, measured, tar = threshold_at(compared.distances, compared.is_same, far)
    except ValueError as error:
        raise RunError(f"no threshold can be calibrated: {error}") from error
    impostors = int(np.sum(~compared.is_same))
    return Threshold(far, threshold, measured, tar, distance.name, impostors, step, image_shape, crop)


def check_far(far: float) -> None:
    """Raises a RunError unless it is a rate that a threshold can be calibrated for."""
    if not 0 < far <= 1:
        raise RunError(f"--far must lie above 0 and be at most 1, got {far:g}")


def save(workdir: pathlib.Path, threshold: Threshold, cohort: np.ndarray | None = None) -> Threshold:
    """Writes the threshold into the evaluation folder of a run, which is there.

    Args:
        workdir: The run.
        threshold: The threshold.
        cohort: ``[strangers, dim]``, embeddings, if it is for distances relative to these.

    Returns:
        The threshold as it was written, with the checksum of the cohort.
    """
    path = workdir / EVALUATION / THRESHOLD
    if cohort is not None:
        content = io.BytesIO()
        np.save(content, cohort, allow_pickle=False)
        files.replace(path.with_name(COHORT), content.getvalue())
        threshold = threshold._replace(cohort=hashlib.sha256(content.getvalue()).hexdigest())
    folders.write_json(path, threshold._asdict())
    return threshold


def read_cohort(workdir: pathlib.Path, threshold: Threshold) -> np.ndarray:
    """The cohort that `save` wrote beside this threshold.

    Raises:
        RunError: It is missing, broken, or that of another threshold.
    """
    path = workdir / EVALUATION / COHORT
    remedy = f"{REMEDY}{workdir} --relative --checkpoint={threshold.step}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): {remedy}") from error
    if hashlib.sha256(content).hexdigest() != threshold.cohort:
        raise RunError(f"{path} is not the cohort that the threshold was calibrated with: {remedy}")
    return np.load(io.BytesIO(content), allow_pickle=False)


def read(workdir: pathlib.Path) -> Threshold:
    """The threshold of a run.

    Raises:
        RunError: There is none yet, or the file is not what `save` wrote.
    """
    path = workdir / EVALUATION / THRESHOLD
    if not path.is_file():
        raise RunError(f"{workdir} has no threshold yet: {REMEDY}{workdir}")
    found = folders.read_json(path)
    for key, limit in NUMBERS.items():
        if not _is_number(found.get(key), limit, whole=key in ("impostors", "step")):
            raise RunError(f"{path} has no number {key!r} that is {limit}: {REMEDY}{workdir}")
    shape, crop = found.get("image_shape"), found.get("crop")
    if not isinstance(shape, list) or len(shape) != 3 or not all(map(is_count, shape)):
        raise RunError(f"{path} has no 'image_shape' of three numbers: {REMEDY}{workdir}")
    if not isinstance(crop, bool):
        raise RunError(f"{path} does not say whether to 'crop': {REMEDY}{workdir}")
    cohort = found.get("cohort", "")  # older ones have none
    if not isinstance(cohort, str):
        raise RunError(f"{path} has no checksum 'cohort': {REMEDY}{workdir}")
    return Threshold(
        **{key: found[key] for key in NUMBERS},
        distance=str(found.get("distance")),
        image_shape=tuple(shape),
        crop=crop,
        cohort=cohort,
    )


def _is_number(value: Any, limit: Limits, *, whole: bool) -> bool:
    """Whether a value of JSON is a number, or a whole one, within the limit; an integer may be beyond all floats."""
    kinds = (int,) if whole else (int, float)
    try:
        return type(value) in kinds and bool(limit.holds(np.float64(value)))
    except OverflowError:
        return False


def of_run(
    workdir: pathlib.Path, *, step: int, distance: Distance, takes_relative: bool = False
) -> Threshold:
    """The threshold of a run, which must be that of this checkpoint.

    Raises:
        RunError: There is none, or it was calibrated for another checkpoint or distance, or for relative distances
            where these are not taken.
    """
    found = read(workdir)
    if (found.step, found.distance) != (step, distance.name):
        raise RunError(
            f"the threshold in {workdir} is that of step {found.step} and the {found.distance} distance, and this is "
            f"step {step} and the {distance.name} distance: {REMEDY}{workdir} --checkpoint={step}"
        )
    if found.cohort and not takes_relative:
        raise RunError(
            f"the threshold in {workdir} is for relative distances, which verify.py alone takes: {REMEDY}{workdir} "
            f"--norelative --checkpoint={step}"
        )
    return found
