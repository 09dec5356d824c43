"""How good the embedding is on the test set, and how good the bare pixels are."""

import functools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from metric_jax.data import Images
from metric_jax.distances import Distance, euclidean
from metric_jax.evaluation import retrieval
from metric_jax.training import devices
from metric_jax.training.state import TrainState
from metric_jax.training.step import make_embed

KS = (1, 2, 4, 8)
COUNTS = ("queries", "left_out")  # of the test set, whatever embeds it


class Evaluator:
    """Evaluates states of a model on one test set."""

    def __init__(
        self, graphdef: nnx.GraphDef, test: Images, *, distance: Distance, batch_size: int, mesh: Mesh
    ):
        """Looks at nothing yet.

        Args:
            graphdef: The model's, from `state.create`.
            test: The test set.
            distance: The distance between embeddings.
            batch_size: How many images to embed at a time, rounded up to what the devices can share.
            mesh: Where a batch is spread over.
        """
        self._embed = make_embed(graphdef)
        self._test, self._distance, self._mesh = test, distance, mesh
        self._batch_size = -(-batch_size // mesh.size) * mesh.size
        self._last: tuple[int, dict[str, float]] = (-1, {})

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Retrieval within the test set, every image once the query; of the same step it is not done twice."""
        step = int(state.step)
        if self._last[0] != step:
            self._last = (step, self._retrieval(self.embed(state), self._distance))
        return self._last[1]

    def embed(self, state: TrainState) -> np.ndarray:
        """The embeddings ``[n, dim]`` of the test set; the last batch is padded, so that one shape is compiled."""
        images, size = self._test.images, self._batch_size
        parts = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            padding = [(0, size - len(batch)), *[(0, 0)] * (images.ndim - 1)]
            placed = devices.place(np.pad(batch, padding), self._mesh)
            parts.append(np.asarray(self._embed(state.params, state.rest, placed))[: len(batch)])
        return np.concatenate(parts)

    @functools.cached_property
    def raw_pixels(self) -> dict[str, float]:
        """What the same evaluation says of raw pixels under the Euclidean distance: the number to beat."""
        pixels = self._test.images.reshape(len(self._test), -1).astype(np.float32) / 255.0
        return self._retrieval(pixels, euclidean)

    def _retrieval(self, embeddings: np.ndarray, distance: Distance) -> dict[str, float]:
        ks = [k for k in KS if k < len(embeddings)]
        labels = jnp.asarray(self._test.labels)
        return retrieval(jnp.asarray(embeddings), labels, ks=ks, distance=distance)


def beside(found: Mapping[str, float], raw: Mapping[str, float]) -> dict[str, float]:
    """The results, each metric followed by that of raw pixels."""
    twins = {f"baseline_{key}": value for key, value in raw.items() if key not in COUNTS}
    return {**found, **twins}


def table(results: Mapping[str, float]) -> str:
    """The results for the eye, each metric with that of raw pixels beside it."""
    metrics = [key for key in results if f"baseline_{key}" in results]
    lines = [f"{'on the test set':<16}{'trained':>10}{'raw pixels':>12}"]
    lines += [f"{key:<16}{results[key]:>10.4f}{results[f'baseline_{key}']:>12.4f}" for key in metrics]
    others = {k: v for k, v in results.items() if k not in metrics and not k.startswith("baseline_")}
    lines += [f"{key:<16}{value:>10,.6g}" for key, value in others.items()]
    return "\n".join(lines)
