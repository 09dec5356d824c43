"""What the suite tests: a loss or a miner, its own arguments, and the reference that it is held to."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import references

import metric_jax as mj

DIM = 3
LABELS = np.array([0, 1, 0, 2, 1, 0, 3, 2])  # classes of 3, 2, 2 and 1, never two of a class side by side
N = len(LABELS)
DISTANCES = (mj.euclidean, mj.squared_euclidean, mj.manhattan, mj.cosine)


class Precision(NamedTuple):
    """A type to compute in, and how near to a float64 reference that must come, relatively."""

    dtype: type
    tolerance: float


PRECISIONS = {"float64": Precision(np.float64, 1e-10), "float32": Precision(np.float32, 1e-5)}
EVERYTHING = np.ones(N, bool)
PENALTIES = {jax.nn.relu: references.relu, jax.nn.softplus: references.softplus}


def reference_options(options: dict[str, Any], default: mj.Distance | None = mj.euclidean) -> dict[str, Any]:
    """The same options in the words of the references: distances by name, rows in float64."""
    distance = options.pop("distance", None) or default or mj.euclidean
    options = {**options, "distance": references.DISTANCES[distance.name]}
    if "references" in options:
        options["references"] = np.asarray(options["references"], np.float64)
    return options


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
    """A batch loss, and the reference that it is held to.

    Attributes:
        name: What tests call it.
        function: The loss: ``(embeddings, labels[, proxies], *, ...)``.
        terms: The reference: lists one anchor's terms, or with ``whole`` those of all anchors; see `references`.
        own: The keyword arguments of its own. The reference gets the same.
        measure: The distance or similarity that it is tested with; None if it has none.
        measures: All that it is tested with where the test looks at rounding or gradients.
        whole: Whether ``terms`` takes the whole batch.
        weights: Lists what the gradient takes as constant: the argument ``weights`` of ``terms``.
        proxies: Those of a proxy loss, of the four classes of `LABELS`.
        needs: Whether an anchor without a ``"positive"``, a ``"negative"`` or one of ``"both"`` has no term.
        has_product: Whether it compares by a matrix product.
        sees_lengths: Whether the lengths of rows count, though it compares by cosines.
        is_per_proxy: Whether its terms are those of proxies, not of rows.
        has_classes: Whether its labels are classes, of which only equality counts.
        is_core: Whether it is held to every variant of a property, where the others are held to one.
    """

    name: str
    function: Callable
    terms: Callable
    own: dict[str, Any] = dataclasses.field(default_factory=dict)
    measure: mj.Distance | None = mj.euclidean
    measures: tuple[mj.Distance, ...] = ()
    whole: bool = False
    weights: Callable | None = None
    proxies: np.ndarray | None = None
    needs: str = ""
    has_product: bool = True
    sees_lengths: bool = False
    is_per_proxy: bool = False
    has_classes: bool = True
    is_core: bool = False

    def __call__(self, embeddings, labels, *, distance=None, proxies=None, **options):
        distance = distance or self.measure
        if self.measure is not None:
            options["similarity" if self.measure.is_similarity else "distance"] = distance
        if self.proxies is not None:
            proxies = self.proxies if proxies is None else proxies
            options["proxies"] = jnp.asarray(proxies, jnp.promote_types(embeddings.dtype, jnp.float32))
        return self.function(embeddings, labels, **self.own, **options)

    def expected(self, embeddings, labels, *, proxies=None, **options):
        own = {name: PENALTIES[value] if name == "penalty" else value for name, value in self.own.items()}
        rows = np.asarray(embeddings, np.float64)
        if self.proxies is not None:
            centers = self.proxies if proxies is None else np.asarray(proxies, np.float64)
            options["references"] = centers.reshape(-1, centers.shape[-1])
            options["reference_labels"] = np.repeat(
                np.arange(len(centers)), centers[0].size // centers.shape[-1]
            )
        options = reference_options(options, self.measure)
        return references.batch_loss(self.terms, rows, labels, own=own, whole=self.whole, **options)

    @property
    def all_measures(self):
        return self.measures or (self.measure,)

    def takes(self, argument):
        """Whether the loss has this one of the shared arguments."""
        return argument in inspect.signature(self.function).parameters

    @property
    def is_euclidean(self):
        """Whether it compares positions, which may be moved together."""
        return self.measure in (mj.euclidean, mj.squared_euclidean, mj.manhattan)

    def moved(self, move):
        """The loss with its proxies, if it has any, moved along."""
        return self if self.proxies is None else dataclasses.replace(self, proxies=move(self.proxies))

    @property
    def numbers(self):
        """The own arguments that are numbers and may be learned."""
        return {name: value for name, value in self.own.items() if isinstance(value, float)}

    @property
    def has_hinge(self):
        """Whether a triplet that keeps the margin costs nothing."""
        return self.is_core and "margin" in self.own and "penalty" not in self.own

    @functools.cache
    def batch(self, distance=None):
        """Embeddings of `LABELS`, float64 but exact in float32, at which the loss is smooth and worth a test.

        That is: a hinge has terms on both its sides, and enough beyond it for the value to have digits.
        """
        distance = distance or self.measure

        def value(batch):
            return self.expected(batch, LABELS, distance=distance)

        def is_telling(batch):
            mean_active = self.expected(batch, LABELS, distance=distance, reduction="mean_active")
            return abs(value(batch)) > 0.05 and (value(batch) < mean_active or not self.has_hinge)

        return next(filter(is_telling, references.smooth_batches(value, LABELS, DIM)))

    @functools.cache
    def expected_gradient(self, distance=None):
        held = self.held(distance)

        def value(embeddings):
            return held.expected(embeddings, LABELS, distance=distance or self.measure)

        return references.central_differences(value, self.batch(distance))

    def held(self, distance=None):
        """The loss as its gradient sees it: with the weights that it has at its batch."""
        if self.weights is None:
            return self
        options = reference_options({}, distance or self.measure)
        weights = self.weights(list(references.anchors(self.batch(distance), LABELS, **options)), **self.own)
        return dataclasses.replace(self, terms=functools.partial(self.terms, weights=weights))


@dataclasses.dataclass(frozen=True, eq=False)
class Miner:
    """A miner, the reference that mines by loops, and the keyword arguments of its own.

    Attributes:
        measures: The distances that it is about.
        is_random: Whether it draws by a key and by where a row stands, so that other places make another draw.
        needs: As of a loss.
        is_core: As of a loss.
    """

    name: str
    function: Callable
    reference: Callable
    own: dict[str, Any] = dataclasses.field(default_factory=dict)
    measures: tuple[mj.Distance, ...] = DISTANCES
    is_random: bool = False
    needs: str = "both"
    is_core: bool = False

    def __call__(self, embeddings, labels, **options):
        options = {"distance": mj.euclidean, **options}  # also where another is the default
        return self.function(embeddings, labels, **self.own, **options)

    def expected(self, embeddings, labels, **options):
        rows = np.asarray(embeddings, np.float64)
        return self.reference(rows, labels, **self.own, **reference_options(options))


def of_views(function):
    """A loss of two views as one of a batch, whose other view are the rows read backwards."""

    @functools.wraps(function)
    def adapted(embeddings, labels, **options):
        return function(embeddings, jnp.flip(embeddings, axis=1), **options)

    return adapted


def of_rows(function):
    """A loss that knows no labels as one of a batch."""

    @functools.wraps(function)
    def adapted(embeddings, labels, **options):
        return function(embeddings, **options)

    return adapted


def terms_of_rows(reference):
    """A reference of rows as one of all anchors: a single term."""

    def terms(anchors, **own):
        rows = np.array([anchor.row for anchor in anchors if anchor.where])
        value = [reference(rows, **own)] if len(rows) else []
        return [value, *([] for _ in anchors[1:])]

    return terms


def terms_of_views(reference):
    """The same for a reference of two views."""
    return terms_of_rows(lambda rows, **own: reference(rows, rows[:, ::-1], **own))
