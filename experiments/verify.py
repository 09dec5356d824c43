"""Says whether two images show the same: the same person, character, product, whatever the run was trained on.

    python experiments/verify.py IMAGE1 IMAGE2 --workdir=runs/faces

Prints the distance, the threshold, "same" or "different", and the false accept rate that the threshold was calibrated
for by evaluate.py. After its --relative, the distance is relative to the images that the run was trained on, and the
two must be of none of those classes, whose images are no strangers to them. Exit codes, for scripts: 0 same,
1 different, 2 error, told in one line on stderr.
"""

import pathlib
import sys

import numpy as np
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a script sees its own folder alone

from experiments import command
from metric_jax.evaluation import pair_distances, relative_distances
from metric_jax.training import calibration, open_run

SAME, DIFFERENT = 0, 1


def main(image1: str, image2: str, *, workdir: str, checkpoint: int | str | None = None) -> int:
    """Compares two image files; returns `SAME` or `DIFFERENT`.

    Args:
        image1: The path of one image.
        image2: That of the other.
        workdir: The folder of a run that evaluate.py has been over.
        checkpoint: The step of the checkpoint, or "best"; the newest by default.
    """
    run = open_run(workdir, checkpoint)
    threshold = calibration.of_run(run.folder, step=run.step, distance=run.distance, takes_relative=True)
    embeddings = run.embed(np.stack([run.read_image(image1), run.read_image(image2)]))
    if threshold.cohort:
        cohort = calibration.read_cohort(run.folder, threshold)
        (distance,) = relative_distances(embeddings, cohort, [0], [1], distance=run.distance)
    else:
        (distance,) = pair_distances(embeddings, [0], [1], distance=run.distance)
    is_same = distance <= threshold.threshold
    print(
        f"{'same' if is_same else 'different'}\n"
        f"{threshold.measure} {distance:.4f}, threshold {threshold.threshold:.4f}\n"
        f"calibrated for a false accept rate of {threshold.far:.3g} (measured {threshold.measured_far:.3g} on "
        f"{threshold.impostors:,} pairs of different classes; of the same class it accepts {threshold.tar:.1%})"
    )
    return SAME if is_same else DIFFERENT


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run.")
    CHECKPOINT = command.define_checkpoint()
    command.start(
        "verify",
        lambda image1, image2: main(image1, image2, workdir=WORKDIR.value, checkpoint=CHECKPOINT.value),
        images=("IMAGE1", "IMAGE2"),
        usage=__doc__,
    )
