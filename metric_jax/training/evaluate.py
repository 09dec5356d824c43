"""How good the embedding is on the test set, and how good the bare pixels are."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from metric_jax import whitening as whitenings
from metric_jax.data import Images
from metric_jax.distances import Distance, cosine, euclidean, normalize
from metric_jax.evaluation import all_pairs, clustering, few_shot, retrieval, verification
from metric_jax.evaluation.pairs import MOST_PAIRS, Compared, compare
from metric_jax.evaluation.verification import FARS
from metric_jax.training import devices
from metric_jax.training.choices import Augment
from metric_jax.training.errors import NonFiniteError, RunError
from metric_jax.training.state import TrainState
from metric_jax.training.step import make_embed
from metric_jax.whitening import Whitening

KS = (1, 2, 4, 8)
WAYS, SHOTS, QUERIES, EPISODES = (5, 20), 1, 15, 1000
FITTED = 4096  # training images, of all classes alike, that a whitening is fitted to
# of the test set, whatever embeds it
COUNTS = ("queries", "left_out", "genuine", "impostors", "clusters")

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # two indices each, and whether the classes are the same


class Evaluator:
    """Evaluates states of a model on one test set."""

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        test: Images,
        *,
        distance: Distance,
        batch_size: int,
        mesh: Mesh,
        views: int = 1,
        mirrored: bool = False,
        augment: Augment | None = None,
    ):
        """Looks at nothing yet.

        Args:
            graphdef: The model's, from `state.create`.
            test: The test set.
            distance: The distance between embeddings.
            batch_size: How many images to embed at a time, rounded up to what the devices can share.
            mesh: Where a batch is spread over.
            views: How many of an image are embedded, as of `make_embed`.
            mirrored: Whether in the mirror too.
            augment: What makes further views.
        """
        jit = functools.partial(devices.jit, out_shardings=devices.replicated(mesh))
        self._embed = jit(make_embed(graphdef, views=views, mirrored=mirrored, augment=augment))
        self._glance = jit(make_embed(graphdef)) if views > 1 or mirrored else self._embed
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
        """The embeddings ``[n, dim]`` of the test set."""
        return self._in_batches(self._embed, state, self._test, state.whitening)

    def whiten(self, state: TrainState, train: Images, *, shrinkage: float | None) -> TrainState:
        """The state with the whitening of what it embeds of the training set; as it was if there is to be none."""
        if state.whitening is None:
            return state
        some = np.linspace(0, len(train) - 1, min(len(train), FITTED)).astype(int)
        found = whitenings.fit(
            jnp.asarray(self._in_batches(self._embed, state, train[some])), shrinkage=shrinkage
        )
        layout = jax.tree.map(lambda x: x.sharding, state.whitening)
        return state._replace(whitening=devices.arrange(found, layout))

    def glance(self, state: TrainState, images: Images) -> np.ndarray:
        """Embeddings ``[n, dim]`` of these images as they are trained, by a single view: for the centres of classes."""
        return self._in_batches(self._glance, state, images)

    def _in_batches(
        self, embed: jax.stages.Wrapped, state: TrainState, images: Images, whitening: Whitening | None = None
    ) -> np.ndarray:
        apply = functools.partial(embed, *state.evaluated, whitening)
        rows = in_batches(apply, images.images, size=self._batch_size, mesh=self._mesh)
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise NonFiniteError(
                f"stopped after step {int(state.step)}: {np.sum(~finite)} of {len(rows)} images are embedded to NaN "
                "or infinity. Lower optimizer.learning_rate, and choose another --workdir"
            )
        return rows

    @functools.cached_property
    def raw_pixels(self) -> dict[str, float]:
        """What the same evaluation says of raw pixels under the Euclidean distance: the number to beat."""
        return self._retrieval(pixels(self._test), euclidean)

    def _retrieval(self, embeddings: np.ndarray, distance: Distance) -> dict[str, float]:
        return retrieval(
            jnp.asarray(embeddings),
            jnp.asarray(self._test.labels),
            ks=_ks(len(embeddings)),
            distance=distance,
        )


def pixels(images: Images) -> np.ndarray:
    """``[n, height * width * channels]`` in [0, 1]: the images as they are, for embeddings."""
    return images.images.reshape(len(images), -1).astype(np.float32) / 255.0


def in_batches(apply: Callable[[Array], Array], images: np.ndarray, *, size: int, mesh: Mesh) -> np.ndarray:
    """Embeds images a batch at a time; the last one is padded, so that one shape is compiled.

    Args:
        apply: ``[size, height, width, channels] uint8 -> [size, dim]``.
        images: ``[n, height, width, channels]`` uint8.
        size: Images of a batch, a multiple of the mesh's devices.
        mesh: Where a batch is spread over.

    Returns:
        ``[n, dim]``, on the host.
    """
    parts = []
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        padding = [(0, size - len(batch)), *[(0, 0)] * (images.ndim - 1)]
        placed = devices.place(devices.own_part(np.pad(batch, padding)), mesh)
        parts.append(np.asarray(apply(placed))[: len(batch)])
    return np.concatenate(parts)


def draw_pairs(labels: np.ndarray, *, seed: int = 0) -> Pairs:
    """The pairs of a test set that whatever embeds it is to compare: all, or `MOST_PAIRS` of either kind.

    Raises:
        RunError: Labels without pairs of both kinds.
    """
    with _evaluable():
        return all_pairs(labels, limit=MOST_PAIRS, seed=seed)


def compared(
    embeddings: np.ndarray, pairs: Pairs, *, distance: Distance, cohort: np.ndarray | None = None
) -> Compared:
    """These pairs with the distances of their embeddings; with a cohort, the relative ones.

    Raises:
        RunError: Embeddings that hold NaN, or a cohort of fewer than are looked at.
    """
    with _evaluable():
        return compare(jnp.asarray(embeddings), pairs, distance=distance, cohort=cohort)


def assess(
    embeddings: np.ndarray,
    labels: np.ndarray,
    compared: Compared,
    *,
    distance: Distance,
    far: float | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """All that is measured of the embeddings of a test set, in one flat dictionary.

    Args:
        embeddings: ``[n, dim]``, floating.
        labels: ``[n]`` integers.
        compared: From `compared`, of these embeddings.
        distance: The distance between embeddings.
        far: A false accept rate to report the TAR at, beside the usual ones.
        seed: Draws few-shot episodes, k-means' start and resamples.

    Returns:
        What `evaluation.retrieval` and `evaluation.verification` say, with intervals over classes; ``5way_1shot``
        and ``20way_1shot``, the accuracy of the nearest of so many prototypes, with its interval, where as many classes
        have two images each; and ``nmi``, ``ami`` and ``purity`` of `evaluation.clustering`.

    Raises:
        RunError: Embeddings that hold NaN, labels on which nothing can be measured, or an FAR that these impostors
            cannot resolve.
    """
    rows = jnp.asarray(embeddings)
    classes = jnp.asarray(np.unique(labels, return_inverse=True)[1])  # labels may be beyond 32 bits
    with _evaluable():
        return {
            **retrieval(rows, classes, ks=_ks(len(rows)), distance=distance, intervals=True),
            **verified(labels, compared, far=far, seed=seed),
            **_few_shot(rows, classes, distance=distance, seed=seed),
            **clustering(normalize(rows) if distance is cosine else rows, classes, seed=seed),
        }


def verified(
    labels: np.ndarray, compared: Compared, *, far: float | None = None, seed: int = 0
) -> dict[str, float]:
    """What `evaluation.verification` says of these pairs, with intervals over classes: the part of `assess` on pairs.

    Raises:
        RunError: An FAR that these impostors cannot resolve.
    """
    subjects = np.stack([labels[compared.first], labels[compared.second]], axis=1)
    impostors = np.sum(~compared.is_same)
    fars = {f"{each:g}": each for each in (*FARS, far) if each and (each == far or each >= 1 / impostors)}
    with _evaluable():
        return verification(
            compared.distances,
            compared.is_same,
            fars=sorted(fars.values(), reverse=True),
            subjects=subjects,
            seed=seed,
        )


@contextlib.contextmanager
def _evaluable() -> Iterator[None]:
    try:
        yield
    except RunError:
        raise
    except ValueError as error:
        raise RunError(f"this test set cannot be evaluated: {error}") from error


def _few_shot(rows: Array, labels: Array, *, distance: Distance, seed: int) -> dict[str, float]:
    """The few-shot accuracy within the classes that have enough images; empty if these are too few."""
    classes, counts = np.unique(labels, return_counts=True)
    enough = counts > SHOTS
    chosen = np.isin(labels, classes[enough])
    kept, of = rows[chosen], labels[chosen]
    queries = int(counts.min(initial=SHOTS + QUERIES, where=enough)) - SHOTS
    accuracies: dict[str, float] = {}
    for ways in (ways for ways in WAYS if ways <= enough.sum()):
        found = few_shot(
            kept,
            of,
            ways=ways,
            shots=SHOTS,
            queries=queries,
            episodes=EPISODES,
            key=jax.random.key(seed),
            distance=distance,
        )
        name = f"{ways}way_{SHOTS}shot"
        accuracies |= {f"{name}{end}": found[f"accuracy{end}"] for end in ("", "_low", "_high")}
    return accuracies


def _ks(count: int) -> list[int]:
    """The k of recall@k that a set of so many images has."""
    return [k for k in KS if k < count]


def beside(found: Mapping[str, float], raw: Mapping[str, float]) -> dict[str, float]:
    """The results, each metric followed by that of raw pixels."""
    twins = {f"baseline_{key}": value for key, value in raw.items() if key not in COUNTS}
    return {**found, **twins}


def table(results: Mapping[str, float]) -> str:
    """The results for the eye, each metric with its interval, if it has one, and that of raw pixels beside it."""
    metrics = [key for key in results if f"baseline_{key}" in results and not key.endswith(("_low", "_high"))]
    intervals = any(f"{key}_low" in results for key in metrics)
    shown = {*metrics, *(f"{key}{end}" for key in metrics for end in ("_low", "_high"))}
    others = {k: v for k, v in results.items() if k not in shown and not k.startswith("baseline_")}
    width = max(map(len, ["on the test set", *metrics, *others])) + 1
    lines = [
        f"{'on the test set':<{width}}{'trained':>10}{'95 % interval' if intervals else '':>18}{'raw pixels':>12}"
    ]
    for key in metrics:
        low, high = results.get(f"{key}_low"), results.get(f"{key}_high")
        interval = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
        lines.append(f"{key:<{width}}{results[key]:>10.4f}{interval:>18}{results[f'baseline_{key}']:>12.4f}")
    if not intervals:
        lines = [line[: width + 10] + line[width + 28 :] for line in lines]
    lines += [
        f"{key:<{width}}{value:>10,{'d' if isinstance(value, int) else '.6g'}}"
        for key, value in others.items()
    ]
    return "\n".join(lines)
