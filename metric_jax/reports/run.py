"""What a report is about: one run, or two that were tried on the same images."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metric_jax.distances import Distance, check_measure, euclidean
from metric_jax.evaluation import checks
from metric_jax.evaluation.pairs import Compared


class Run(NamedTuple):
    """A run and what it made of the test set.

    Attributes:
        name: What the report calls the run.
        metrics: Flat, by the names of results.json: ``map_at_r``, ``recall@1``, ``auc``, ``tar@far=0.01``, ...; where
            they are known, with intervals, ``map_at_r_low`` and ``map_at_r_high``, and the ``baseline_map_at_r`` of raw
            pixels. ``threshold`` and a calibrated one, ``threshold@far=0.01``, are marked among the distances.
        history: The lines of metrics.jsonl, each with its ``step``.
        images: ``[n, height, width, channels]`` uint8, grey (one channel) or RGB (three).
        labels: ``[n]`` integers.
        names: ``[n]``, how the images are called. Any strings.
        class_names: Those of the labels. Any strings; a label without one is called by its number.
        embeddings: ``[n, dim]``, floating, finite.
        distance: The distance between embeddings.
        compared: Pairs of the images, those that the metrics were measured on; None has the report draw some.
    """

    name: str
    metrics: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    images: np.ndarray
    labels: np.ndarray
    names: Sequence[str]
    class_names: Mapping[int, str]
    embeddings: np.ndarray
    distance: Distance = euclidean
    compared: Compared | None = None

    def class_of(self, index: int) -> str:
        """How the class of an image is called."""
        label = int(self.labels[index])
        return self.class_names.get(label, str(label))


def checked(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs with arrays of NumPy; raises unless a report can be made of them, and says what is wrong."""
    if not isinstance(runs, Sequence) or isinstance(runs, Run) or not 1 <= len(runs) <= 2:
        given = type(runs).__name__ if isinstance(runs, Run) or not isinstance(runs, Sequence) else len(runs)
        raise ValueError(f"runs must be a sequence of one or two reports.Run, got {given}")
    one, *others = (_checked_run(run) for run in runs)
    for other in others:
        if other.name == one.name:
            raise ValueError(f"both runs are called {one.name!r}: give them two names")
        for what in ("labels", "names", "images"):
            if not np.array_equal(getattr(one, what), getattr(other, what)):
                raise ValueError(
                    f"runs {one.name!r} and {other.name!r} differ in their {what}: two runs are compared on the same "
                    "test set, in the same order"
                )
        if one.compared and other.compared and not np.array_equal(one.compared[:2], other.compared[:2]):
            raise ValueError(
                f"runs {one.name!r} and {other.name!r} compare other pairs: draw them once for both"
            )
    return (one, *others)


def _checked_run(run: Run) -> Run:
    where = f"run {run.name!r}: "
    check_measure(run.distance, "distance")
    images, labels, embeddings = (np.asarray(x) for x in (run.images, run.labels, run.embeddings))
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8 or 0 in images.shape:
        raise ValueError(
            f"{where}images must be [n, height, width, channels] uint8 of 1 or 3 channels and not empty, got "
            f"{images.dtype}{list(images.shape)}"
        )
    n = len(images)
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{where}labels must be an integer for each of the {n} images, got {labels.dtype}{list(labels.shape)}"
        )
    if len(run.names) != n:
        raise ValueError(f"{where}names must be one for each of the {n} images, got {len(run.names)}")
    if (
        embeddings.ndim != 2
        or len(embeddings) != n
        or not embeddings.shape[1]
        or embeddings.dtype.kind != "f"
    ):
        raise ValueError(
            f"{where}embeddings must be floating [n, dim], a row for each of the {n} images, got "
            f"{embeddings.dtype}{list(embeddings.shape)}"
        )
    checks.check_finite(embeddings, f"{where}embeddings")
    if n < 2 or len(np.unique(labels)) in (1, n):
        raise ValueError(
            f"{where}a report needs two images of one class and one of another, got {n} images of "
            f"{len(np.unique(labels))} classes"
        )
    if run.compared is not None:
        first, second, is_same, distances = run.compared
        if not len(first) == len(second) == len(is_same) == len(distances):
            raise ValueError(f"{where}compared must hold one of each for every pair")
        if not np.array_equal(labels[first] == labels[second], is_same):
            raise ValueError(f"{where}compared holds pairs of other labels")
        checks.check_finite(distances[:, None], f"{where}distances")
    names = [str(name) for name in run.names]
    class_names = {int(label): str(name) for label, name in run.class_names.items()}
    return run._replace(
        images=images, labels=labels, embeddings=embeddings, names=names, class_names=class_names
    )
