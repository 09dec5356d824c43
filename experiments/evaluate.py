"""Evaluates a trained run on its test set, calibrates its threshold, and writes a report.

    python experiments/evaluate.py --workdir=runs/digits
    python experiments/evaluate.py --workdir=runs/faces --far=0.001 --compare=runs/faces_contrastive --projector
    python experiments/evaluate.py --workdir=runs/omniglot --data.data_dir=TFDS_FOLDER --checkpoint=500

Any key of a config's data can be set by a flag, as --data.KEY=VALUE: data that have moved, or other ones of the same
shape. Everything is written into the folder evaluation/ in the run's own: evaluation.json, threshold.json (which
verify.py, search.py and export.py need) and report.html with its figures.
"""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a script sees its own folder alone

from experiments import command
from metric_jax.data import Images
from metric_jax.distances import euclidean
from metric_jax.training import Run, RunError, calibration, folders, open_run
from metric_jax.training.evaluate import assess, beside, pixels, table

RESULTS = "evaluation.json"


class Evaluated(NamedTuple):
    """A run and what came out of it on a test set."""

    name: str
    run: Run
    embeddings: np.ndarray
    metrics: dict[str, float]


def main(
    workdir: str,
    *,
    checkpoint: int | None = None,
    far: float = 0.01,
    compare: str | None = None,
    projector: bool = False,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Evaluates, writes into RUN/evaluation, and prints what it found.

    Args:
        workdir: The run's folder.
        checkpoint: The step of the checkpoint; the newest by default.
        far: The false accept rate that the threshold is calibrated for.
        compare: The folder of another run, for a report of both.
        projector: Whether to write files for TensorBoard's projector too.
        data: Keys of the config's data that differ.
    """
    calibration.check_far(far)
    runs = [open_run(workdir, checkpoint, data=data), *([open_run(compare, data=data)] if compare else [])]
    paths = [run.folder.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise RunError(f"--compare={compare} is the run itself: name another one")
    _, test = runs[0].load_data()
    raw = raw_pixels(test)
    unlike = len({path.name for path in paths}) == len(paths)
    evaluated = [
        evaluate(path.name if unlike else str(path), run, test, raw)
        for path, run in zip(paths, runs, strict=True)
    ]
    threshold = calibrated(evaluated[0], test, far)

    folder = runs[0].folder / calibration.EVALUATION
    try:
        folder.mkdir(exist_ok=True)
        folders.write_json(folder / RESULTS, evaluated[0].metrics)
        calibration.save(runs[0].folder, threshold)
        report = write_report(folder, evaluated, test, projector=projector)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error}") from error
    for each in evaluated:
        print(f"{each.name}\n{table(each.metrics)}\n")
    print(
        f"same if the {threshold.distance} distance is at most {threshold.threshold:.4f}: that accepts\n"
        f"  {threshold.measured_far:.4%} of {threshold.impostors:,} pairs of different classes\n"
        f"  {threshold.tar:.4%} of the pairs of the same class\nreport: {report}"
    )


def evaluate(name: str, run: Run, test: Images, raw: Mapping[str, float]) -> Evaluated:
    """Embeds the test set by a run, and measures all there is, beside raw pixels."""
    embeddings = run.embed(test.images)
    found = assess(embeddings, test.labels, distance=run.distance)
    return Evaluated(name, run, embeddings, {**beside(found, raw), "step": run.step})


def raw_pixels(test: Images) -> dict[str, float]:
    """The same of raw pixels under the Euclidean distance: the numbers to beat."""
    return assess(pixels(test), test.labels, distance=euclidean)


def calibrated(evaluated: Evaluated, test: Images, far: float) -> calibration.Threshold:
    """The run's threshold for this FAR, or for the smallest that the test set can measure, which is then said."""
    run = evaluated.run
    threshold = calibration.calibrate(
        evaluated.embeddings,
        test.labels,
        far=far,
        distance=run.distance,
        step=run.step,
        image_shape=run.image_shape,
    )
    if threshold.far > far:
        print(
            f"evaluate: a FAR of {far:g} cannot be measured with {threshold.impostors} pairs of different classes; "
            f"the threshold is for {threshold.far:.3g}, the smallest that can",
            file=sys.stderr,
        )
    return threshold


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
        )
        for each in evaluated
    ]
    names = " and ".join(each.name for each in evaluated)
    return reports.write(folder, pages, title=f"Evaluation of {names}", projector=projector)[0]


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run.")
    CHECKPOINT = flags.DEFINE_integer(
        "checkpoint", None, "The step of the checkpoint; the newest by default."
    )
    FAR = flags.DEFINE_float("far", 0.01, "The false accept rate that the threshold is calibrated for.")
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
            compare=COMPARE.value,
            projector=PROJECTOR.value,
            data=DATA(),
        ),
        usage=__doc__,
    )
