"""The figures of a report: which there are, and what each shows in words."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from metric_jax.evaluation.pairs import MOST_PAIRS, all_pairs
from metric_jax.evaluation.pairs import compare as compare_pairs
from metric_jax.evaluation.rates import Roc
from metric_jax.evaluation.verification import roc
from metric_jax.reports import figures, metrics
from metric_jax.reports.run import Run

CURVES = {
    "loss": "loss",
    "map_at_r": "MAP@R on the test set",
    "recall@1": "Recall@1 on the test set",
    "active_fraction": "share of active triplets",
}


class Panel(NamedTuple):
    """A figure: the name of its PNG file, its title, what it shows in words, and its PNG in each theme."""

    file: str
    title: str
    alt: str
    png: dict[str, bytes]


class Pairs(NamedTuple):
    """Which pairs of images are genuine, and what each run's distances say. ``are_all``: it is no sample."""

    is_same: np.ndarray
    distances: list[np.ndarray]
    rocs: list[Roc]
    are_all: bool

    @property
    def genuine(self) -> int:
        """How many pairs are of one class."""
        return int(self.is_same.sum())

    @property
    def impostors(self) -> int:
        """How many are not."""
        return len(self.is_same) - self.genuine


def compare(runs: Sequence[Run]) -> Pairs:
    """The pairs that the runs were measured on, the same ones in both; if none tells which, they are drawn."""
    drawn = next((run.compared[:3] for run in runs if run.compared), None)
    drawn = drawn or all_pairs(runs[0].labels, limit=MOST_PAIRS)
    found = [run.compared or compare_pairs(run.embeddings, drawn, distance=run.distance) for run in runs]
    is_same, n = found[0].is_same, len(runs[0].labels)
    return Pairs(
        is_same,
        [each.distances for each in found],
        [roc(each.distances, is_same) for each in found],
        are_all=len(is_same) == n * (n - 1) // 2,
    )


def scores(runs: Sequence[Run], rows: Sequence[metrics.Row]) -> Iterator[Panel]:
    """The scores, if there are any."""
    if rows:
        yield _panel(
            "metrics.png",
            "Scores",
            "A mark for each score of the table, with its interval, and one for raw pixels.",
            partial(figures.scores, rows, [run.name for run in runs]),
        )


def training(runs: Sequence[Run]) -> Iterator[Panel]:
    """What the logs tell over the steps, where they tell it more than once."""
    names, histories = [run.name for run in runs], [run.history for run in runs]
    for key, label in CURVES.items():
        logged = {run.name: [line[key] for line in run.history if key in line] for run in runs}
        if max(map(len, logged.values())) > 1:
            ends = [f"{name}, from {seen[0]:.4g} to {seen[-1]:.4g}" for name, seen in logged.items() if seen]
            yield _panel(
                f"training_{key.replace('@', '_at_')}.png",
                label,
                f"The {label} over the steps of training: {'; '.join(ends)}.",
                partial(figures.curves, histories, names, key, label),
            )


def distances(runs: Sequence[Run], compared: Pairs) -> Iterator[Panel]:
    """How far apart the pairs are, for each run, and where its thresholds lie."""
    for number, (run, found) in enumerate(zip(runs, compared.distances, strict=True), start=1):
        middles = [np.median(found[kind]) for kind in (compared.is_same, ~compared.is_same)]
        thresholds = metrics.thresholds(run)
        told = "".join(f" The {title} is {value:.4g}." for title, value in thresholds.items())
        yield _panel(
            f"distances_{number}.png",
            run.name,
            f"Histograms of distances. Half of the genuine pairs are nearer than {middles[0]:.4g}, "
            f"half of the impostor pairs nearer than {middles[1]:.4g}.{told}",
            partial(figures.histogram, found, compared.is_same, thresholds),
        )


def errors(runs: Sequence[Run], compared: Pairs) -> Iterator[Panel]:
    """ROC and DET."""
    names = [run.name for run in runs]
    yield _panel(
        "roc.png",
        "ROC",
        "True accept rate over false accept rate, the latter on a logarithmic axis.",
        partial(figures.roc, compared.rocs, compared.impostors, names),
    )
    yield _panel(
        "det.png",
        "DET",
        "False reject rate over false accept rate, both on axes of normal quantiles.",
        partial(figures.det, compared.rocs, compared.genuine, compared.impostors, names),
    )


def _panel(file: str, title: str, alt: str, draw: Callable[[Any, figures.Theme], None]) -> Panel:
    return Panel(file, title, alt, {name: figures.png(draw, theme) for name, theme in figures.THEMES.items()})
