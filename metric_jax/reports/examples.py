"""Which images to look at: the pairs that the embedding gets most wrong, and what it finds for a query."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from metric_jax import evaluation, mining
from metric_jax.reports.run import Run

PAIRS, QUERIES, NEIGHBOURS = 8, 8, 5


class Pair(NamedTuple):
    """Two images, by index, and the distance of their embeddings."""

    first: int
    second: int
    distance: float


class Neighbour(NamedTuple):
    """An image found for a query, by index, and whether it is of the query's class."""

    image: int
    distance: float
    is_right: bool


class Answer(NamedTuple):
    """A query, by index, and its nearest images, the nearest first."""

    query: int
    neighbours: tuple[Neighbour, ...]


def hardest(run: Run) -> tuple[list[Pair], list[Pair]]:
    """The farthest pairs of one class and the nearest pairs of two, the worst first, no image twice in a list.

    They are the worst of what batch-hard mining finds with the whole test set as the batch: of every image that has a
    positive and a negative, the farthest positive and the nearest negative.
    """
    embeddings, labels = (
        jnp.asarray(run.embeddings),
        jnp.asarray(np.unique(run.labels, return_inverse=True)[1]),
    )
    found = mining.batch_hard(embeddings, labels, distance=run.distance)
    anchors = jnp.arange(len(labels))[np.asarray(found.valid)]
    lists = []
    for others, farthest_first in ((found.positive[anchors], True), (found.negative[anchors], False)):
        distances = np.asarray(run.distance(embeddings[anchors], embeddings[others]))
        order = np.argsort(-distances if farthest_first else distances, kind="stable")
        lists.append(
            _without_repeats(np.asarray(anchors)[order], np.asarray(others)[order], distances[order])
        )
    return lists[0], lists[1]


def _without_repeats(first: np.ndarray, second: np.ndarray, distances: np.ndarray) -> list[Pair]:
    """The first pairs in which no image was seen before: one odd image would fill the list otherwise."""
    pairs: list[Pair] = []
    seen: set[int] = set()
    for pair in map(Pair, first.tolist(), second.tolist(), distances.tolist()):
        if len(pairs) < PAIRS and not seen & {pair.first, pair.second}:
            pairs.append(pair)
            seen |= {pair.first, pair.second}
    return pairs


class Answers:
    """What a run finds for every image of its test set, each once the query."""

    def __init__(self, run: Run):
        """Searches the test set.

        Args:
            run: The run.
        """
        labels = np.asarray(run.labels)
        k = min(NEIGHBOURS, len(labels) - 1)
        indices, distances = evaluation.nearest(jnp.asarray(run.embeddings), k=k, distance=run.distance)
        self._indices, self._distances = np.asarray(indices), np.asarray(distances)
        self._is_right = labels[self._indices] == labels[:, None]
        _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        self.answerable = counts[inverse] > 1
        self.first_is_right = self._is_right[:, 0]

    def count(self, *, right: bool) -> int:
        """Of how many queries that have a right answer the nearest image is right, or wrong."""
        return int((self.answerable & (self.first_is_right == right)).sum())

    def sample(self, *, right: bool) -> list[Answer]:
        """Some answers whose nearest image is right, or wrong: spread over the test set, always the same ones."""
        queries = np.flatnonzero(self.answerable & (self.first_is_right == right))
        chosen = (
            queries[np.unique(np.linspace(0, len(queries) - 1, QUERIES // 2).astype(int))]
            if len(queries)
            else []
        )
        return [self._answer(int(query)) for query in chosen]

    def _answer(self, query: int) -> Answer:
        found = zip(
            self._indices[query].tolist(),
            self._distances[query].tolist(),
            self._is_right[query].tolist(),
            strict=True,
        )
        return Answer(query, tuple(Neighbour(*neighbour) for neighbour in found))
