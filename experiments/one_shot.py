"""One-shot classification within each class of classes: which of 20 characters of its alphabet is this one?

    python experiments/one_shot.py --workdir=runs/omniglot --data.super_key=alphabet

The test of Lake, Salakhutdinov, Tenenbaum (2015), https://doi.org/10.1126/science.aab3050, on the alphabets that the
run of configs/omniglot.py never saw. An episode draws 20 characters of one alphabet, or all if it has fewer, and two
people: what the first of them drew shows the characters, what the second drew is to be recognised. Theirs are 20 fixed
episodes, of ten of these alphabets, so its errors are near theirs, and not to be taken for them. Who drew what is told
by the order of TFDS's Omniglot (`data.drawers`). Where it is not known, or the images are a part in which not everyone
drew every character, each class is shown, and asked of, by any two of its images. Prints which of both it was, the
error of every alphabet, and their mean ± half its 95 % interval over alphabets.

    python experiments/one_shot.py --workdir=runs/omniglot --runs=FOLDER

takes their own episodes, of the folder that Omniglot's one-shot-classification/all_runs.zip unpacks to, and prints the
one error of all, with Wilson's 95 % interval. With --centred embeddings are less the mean of those that an episode
shows: what the characters of an alphabet have in common does not tell them apart.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a script sees its own folder alone

from experiments import command, sweep
from metric_jax.data import drawers
from metric_jax.distances import Distance
from metric_jax.evaluation import centred_on, few_shot, one_shot_runs, within_alphabet
from metric_jax.training import RunError, open_run

WAYS = 20


def main(
    workdir: str,
    data: dict[str, Any],
    *,
    episodes: int,
    centred: bool = False,
    checkpoint: int | str | None = None,
) -> None:
    """Embeds the run's test set, classifies and tells.

    Args:
        workdir: The run.
        data: What else than in its config the data are to be.
        episodes: How many of each class of classes.
        centred: Whether embeddings are `evaluation.centred_on` what an episode shows.
        checkpoint: As of `open_run`.

    Raises:
        RunError: No classes of classes, or no two of a class.
    """
    run = open_run(workdir, checkpoint=checkpoint, data=data)
    _, test = run.load_data()
    if "super" not in test.columns:
        raise RunError(
            "this set has no classes of classes: name the feature that holds them by --data.super_key"
        )
    people = drawers(test)
    if people is not None and not _all_drew_all(people, test.labels, test.columns["super"]):
        people = None
    print(
        "shown by one person, asked of another"
        if people is not None
        else "shown and asked of by any two images"
    )
    errors = within(
        run.embed(test.images),
        test.labels,
        test.columns["super"],
        run.distance,
        people=people,
        episodes=episodes,
        centred=centred,
    )
    for name, error in errors.items():
        print(f"{name:32s} {error:.4f}")
    over_all = sweep.summary([{"error": error} for error in errors.values()])["error"]
    print(f"{f'mean of {len(errors)}':32s} {sweep.cell(over_all)}")


def _all_drew_all(people: np.ndarray, labels: np.ndarray, supers: np.ndarray) -> bool:
    """Whether of each class of classes everybody who drew one drew every one."""

    def pairs(*of: np.ndarray) -> int:
        return np.unique(np.stack(of), axis=1).shape[1]

    heres = [supers == name for name in np.unique(supers)]
    return pairs(people, labels) == sum(pairs(people[here]) * pairs(labels[here]) for here in heres)


def of_runs(
    workdir: str,
    folder: str,
    data: dict[str, Any],
    *,
    centred: bool = False,
    checkpoint: int | str | None = None,
) -> None:
    """Classifies the queries of Lake's runs and tells.

    Args:
        workdir: The run that embeds.
        folder: The folder of theirs.
        data: What else than in its config the run's data are to be, of which only the size of the images matters here.
        centred: As of `main`.
        checkpoint: As of `open_run`.

    Raises:
        DataError: The folder holds no such runs, or an image in it cannot be read.
    """
    episodes = command.given("runs", within_alphabet, folder)
    run = open_run(workdir, checkpoint=checkpoint, data=data or None)

    def embed(paths: Sequence[pathlib.Path]) -> np.ndarray:
        return run.embed(np.stack([run.read_image(path) for path in paths]))

    def distances(query: Sequence[pathlib.Path], support: Sequence[pathlib.Path]) -> np.ndarray:
        asked, shown = embed(query), embed(support)
        if centred:
            asked, shown = centred_on(shown, asked), centred_on(shown, shown)
        return run.distance.pairwise(asked, shown)

    found = one_shot_runs(episodes, distances)
    low, high = 1 - found["accuracy_high"], 1 - found["accuracy_low"]
    print(
        f"error {1 - found['accuracy']:.4f}, 95 % interval {low:.4f} to {high:.4f}, of {found['queries']} queries in "
        f"{found['runs']} runs"
    )


def within(
    embeddings: np.ndarray,
    labels: np.ndarray,
    supers: np.ndarray,
    distance: Distance,
    *,
    episodes: int,
    people: np.ndarray | None = None,
    centred: bool = False,
) -> dict[str, float]:
    """The share of queries that go to another class of their own class of classes.

    Args:
        embeddings: ``[n, dim]``.
        labels: ``[n]``, the class of each.
        supers: ``[n]``, the class of that.
        distance: The distance between embeddings.
        episodes: How many of each class of classes, at least 2.
        people: ``[n]``, who drew each: then an episode is shown by one of them, and asked of another.
        centred: As of `main`.

    Raises:
        RunError: A class of classes with a single class, or one of whose classes has a single image.
    """
    errors = {}
    for number, name in enumerate(np.unique(supers)):
        here = supers == name
        ways = min(WAYS, len(np.unique(labels[here])))
        if ways < 2:
            raise RunError(f"{name} has a single class: there is nothing to take it for")
        try:
            found = few_shot(
                embeddings[here],
                labels[here],
                ways=ways,
                shots=1,
                queries=1,
                episodes=episodes,
                key=jax.random.key(number),
                groups=None if people is None else people[here],
                centred=centred,
                distance=distance,
            )
        except ValueError as error:
            raise RunError(f"{name} cannot be measured: {error}") from error
        errors[str(name)] = 1 - found["accuracy"]
    return errors


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run.")
    CHECKPOINT = command.define_checkpoint()
    EPISODES = flags.DEFINE_integer("episodes", 200, "Episodes of each class of classes.", lower_bound=2)
    RUNS = flags.DEFINE_string("runs", None, "The folder of Lake's runs: run01, run02, ...")
    CENTRED = flags.DEFINE_boolean("centred", False, "Whether embeddings are less the mean of what is shown.")
    DATA = command.define_data("one_shot")

    def start() -> None:
        """Takes the episodes of Lake's runs where they are given."""
        chosen = {"centred": CENTRED.value, "checkpoint": CHECKPOINT.value}
        if RUNS.value is None:
            main(WORKDIR.value, DATA(), episodes=EPISODES.value, **chosen)
        else:
            of_runs(WORKDIR.value, RUNS.value, DATA(), **chosen)

    command.start("one_shot", start, usage=__doc__)
