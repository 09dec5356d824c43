"""Evaluates a trained run on its test set, calibrates its threshold, and writes a report.

    python experiments/evaluate.py --workdir=runs/digits
    python experiments/evaluate.py --workdir=runs/faces --far=0.001 --compare=runs/faces_contrastive --projector
    python experiments/evaluate.py --workdir=runs/omniglot --data.data_dir=TFDS_FOLDER --checkpoint=500

Any key of a config's data can be set by a flag, as --data.KEY=VALUE: data that have moved, other ones, or another size
of the images, which the threshold is then for. Turned and mirrored classes, which are for training, are always left
out. --relative measures pairs by `evaluation.relative_distances` too, which takes off how far either image lies from
the training images; these must be of other classes. The threshold is then for them, and verify.py alone takes it.
Everything is written into the folder evaluation/ in the run's own: evaluation.json, threshold.json (which verify.py,
search.py and export.py need) and report.html with its figures.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a script sees its own folder alone

from experiments import command
from metric_jax.data import Images, datasets
from metric_jax.distances import Distance, euclidean
from metric_jax.evaluation import threshold_at
from metric_jax.evaluation.pairs import STRANGERS, Compared
from metric_jax.training import Run, RunError, calibration, folders, open_run
from metric_jax.training.evaluate import Pairs, assess, beside, compared, draw_pairs, pixels, table, verified

RESULTS = "evaluation.json"
RATES = ("auc", "eer", "tar@far=")  # what is told of relative distances too
SET = ("source", "name")
PLACE = ("root", "data_dir")
SPLIT = (
    "split",
    "test_fraction",
    "split_seed",
    "train_split",
    "test_split",
)  # which of its images are to test on


class Evaluated(NamedTuple):
    """A run and what came out of it on a test set."""

    name: str
    run: Run
    embeddings: np.ndarray
    compared: Compared
    cohort: np.ndarray | None
    threshold: calibration.Threshold
    metrics: dict[str, float]


def main(
    workdir: str,
    *,
    checkpoint: int | str | None = None,
    far: float = 0.01,
    relative: bool = False,
    compare: str | None = None,
    projector: bool = False,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Evaluates, writes into RUN/evaluation, and prints what it found.

    Args:
        workdir: The run's folder.
        checkpoint: The step of the checkpoint, or "best"; the newest by default.
        far: The false accept rate that the threshold is calibrated for.
        relative: Whether pairs are compared by their distances relative to the training images.
        compare: The folder of another run, for a report of both.
        projector: Whether to write files for TensorBoard's projector too.
        data: Keys of the config's data that differ.
    """
    calibration.check_far(far)
    # Given, for the data are read, and the shape of the images is theirs; strangers are taken as they are.
    data = {**(data or {}), "rotations": False, "mirrors": False}
    runs = [open_run(workdir, checkpoint, data=data)]
    train, test = runs[0].load_data()
    if relative:
        check_strangers(train, test)
    strangers = train if relative else None
    if compare is not None:
        runs.append(open_run(compare, data=data))
        check_comparable(*runs)
    paths = [run.folder.resolve() for run in runs]
    for run in runs:
        tell_of_seen_images(run, {**runs[0].config["data"], **data}, test)
    pairs = draw_pairs(test.labels)
    far, notice = measurable(far, pairs)
    if notice:
        print(f"evaluate: {notice}", file=sys.stderr)
    raw = raw_pixels(test, strangers, pairs, far)
    unlike = len({path.name for path in paths}) == len(paths)
    evaluated = [
        evaluate(path.name if unlike else str(path), run, test, strangers, pairs, raw, far)
        for path, run in zip(paths, runs, strict=True)
    ]

    folder = runs[0].folder / calibration.EVALUATION
    try:
        folder.mkdir(exist_ok=True)
        folders.write_json(folder / RESULTS, evaluated[0].metrics)
        threshold = calibration.save(runs[0].folder, evaluated[0].threshold, evaluated[0].cohort)
        report = write_report(folder, evaluated, test, projector=projector)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error}") from error
    for each in evaluated:
        print(f"{each.name}, checkpoint {each.run.step}:\n{table(each.metrics)}\n")
    print(
        f"same if the {threshold.measure} is at most {threshold.threshold:.4f}: that accepts\n"
        f"  {threshold.measured_far:.4%} of {threshold.impostors:,} pairs of different classes\n"
        f"  {threshold.tar:.4%} of the pairs of the same class\nreport: {report}"
    )
    if notice:
        print(f"but {notice}")


def check_strangers(train: Images, test: Images) -> None:
    """Raises a RunError unless the training images are of other classes than those of the test set, and enough."""
    names = [{images.class_name(label) for label in np.unique(images.labels)} for images in (train, test)]
    if shared := sorted(names[0] & names[1]):
        raise RunError(
            f"--relative needs training images of other classes than those to test on, and {shared[0]} is one of both: "
            "name data that are parted by class, or --data.split=class if the run never saw those of its test set"
        )
    if len(train) < STRANGERS:
        raise RunError(f"--relative needs {STRANGERS} training images, and there are {len(train)}")


def check_comparable(run: Run, other: Run) -> None:
    """Raises a RunError unless the other run can embed the test set of this one."""
    if run.folder.resolve() == other.folder.resolve():
        raise RunError(f"--compare={other.folder} is the run itself: name another one")
    if run.image_shape != other.image_shape:
        raise RunError(
            f"--compare={other.folder} is a run on images {list(other.image_shape)}, and {run.folder} one on "
            f"{list(run.image_shape)}: compare runs on the same data"
        )


def tell_of_seen_images(run: Run, data: Mapping[str, Any], test: Images) -> None:
    """Says so if the test set is another part of the data than the one that the run was not to see."""
    own = run.config["data"]

    def differing(keys: Sequence[str]) -> list[str]:
        return [f"data.{key}" for key in keys if own.get(key) != data.get(key)]

    if differing(SET):
        return
    if changed := differing(SPLIT):
        why = f"was trained with another {', '.join(changed)}"
    elif not differing(PLACE) and run.tested_on not in (None, datasets.ids_digest(test)):
        why = "kept other images for its test, as files or keys of its data were others then"
    else:
        return
    print(f"evaluate: {run.folder} {why}, and may have seen images of this test set", file=sys.stderr)


def measurable(far: float, pairs: Pairs) -> tuple[float, str]:
    """The FAR, or the smallest that the impostors among the pairs can measure, and what is to be said of that."""
    impostors = int(np.sum(~pairs[2]))
    least = 1 / impostors
    if far >= least:
        return far, ""
    return least, (
        f"a FAR of {far:g} cannot be measured with {impostors} pairs of different classes; the threshold is for "
        f"{least:.3g}, the smallest that can"
    )


def measure(
    rows: np.ndarray,
    test: Images,
    pairs: Pairs,
    far: float,
    *,
    distance: Distance,
    cohort: np.ndarray | None,
) -> tuple[dict[str, float], Compared, Compared]:
    """All there is to measure of the embeddings of the test set.

    Returns:
        The metrics, with a cohort those of relative distances too; the pairs as they are; and as a threshold is to tell
        them apart.
    """
    bare = compared(rows, pairs, distance=distance)
    metrics = assess(rows, test.labels, bare, distance=distance, far=far)
    if cohort is None:
        return metrics, bare, bare
    relative = compared(rows, pairs, distance=distance, cohort=cohort)
    rates = verified(test.labels, relative, far=far)
    metrics |= {f"relative_{key}": rate for key, rate in rates.items() if key.startswith(RATES)}
    return metrics, bare, relative


def raw_pixels(test: Images, strangers: Images | None, pairs: Pairs, far: float) -> dict[str, float]:
    """What is measured of raw pixels under the Euclidean distance: the numbers to beat."""
    cohort = None if strangers is None else pixels(strangers)
    return measure(pixels(test), test, pairs, far, distance=euclidean, cohort=cohort)[0]


def evaluate(
    name: str,
    run: Run,
    test: Images,
    strangers: Images | None,
    pairs: Pairs,
    raw: Mapping[str, float],
    far: float,
) -> Evaluated:
    """Embeds the test set by a run, calibrates its threshold, and measures all there is, beside raw pixels."""
    embeddings = run.embed(test.images)
    cohort = None if strangers is None else run.embed(strangers.images)
    metrics, bare, judged = measure(embeddings, test, pairs, far, distance=run.distance, cohort=cohort)
    threshold = calibration.calibrate(
        judged, far=far, distance=run.distance, step=run.step, image_shape=run.image_shape, crop=run.crop
    )
    at_far, _, _ = threshold_at(bare.distances, bare.is_same, far)
    metrics = {**beside(metrics, raw), f"threshold@far={far:g}": at_far, "step": run.step}
    return Evaluated(name, run, embeddings, bare, cohort, threshold, metrics)


def write_report(
    folder: pathlib.Path, evaluated: list[Evaluated], test: Images, *, projector: bool
) -> pathlib.Path:
    """The report of one run, or of two on the same images; returns the page."""
    from metric_jax import reports

    class_names = {int(label): test.class_name(label) for label in np.unique(test.labels)}
    pages = [
        reports.Run(
            name=each.name,
            metrics=each.metrics,
            history=each.run.history(),
            images=test.images,
            labels=test.labels,
            names=test.ids.tolist(),
            class_names=class_names,
            embeddings=each.embeddings,
            distance=each.run.distance,
            compared=each.compared,
        )
        for each in evaluated
    ]
    names = " and ".join(each.name for each in evaluated)
    return reports.write(folder, pages, title=f"Evaluation of {names}", projector=projector)[0]


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run.")
    CHECKPOINT = command.define_checkpoint()
    FAR = flags.DEFINE_float("far", 0.01, "The false accept rate that the threshold is calibrated for.")
    RELATIVE = flags.DEFINE_bool(
        "relative", False, "Whether to compare pairs by their distances relative to the training images."
    )
    COMPARE = flags.DEFINE_string("compare", None, "The folder of another run, for a report of both.")
    PROJECTOR = flags.DEFINE_bool(
        "projector", False, "Whether to write files for TensorBoard's projector too."
    )
    DATA = command.define_data("evaluate")
    command.start(
        "evaluate",
        lambda: main(
            WORKDIR.value,
            checkpoint=CHECKPOINT.value,
            far=FAR.value,
            relative=RELATIVE.value,
            compare=COMPARE.value,
            projector=PROJECTOR.value,
            data=DATA(),
        ),
        usage=__doc__,
    )
