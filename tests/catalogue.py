"""The one list of losses and miners. What stands here is held to every property; a new loss is one more line."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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
        proxies: Those of a proxy loss, of the four classes of `LABELS`.
        needs: Whether an anchor without a ``"positive"``, a ``"negative"`` or one of ``"both"`` has no term.
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
    proxies: np.ndarray | None = None
    needs: str = ""
    has_classes: bool = True
    is_core: bool = False

    def __call__(self, embeddings, labels, *, distance=None, proxies=None, **options):
        distance = distance or self.measure
        if distance is not None:
            is_similarity = getattr(distance, "is_similarity", False)  # a test may pass something wrong
            options["similarity" if is_similarity else "distance"] = distance
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
            return value(batch) > 0.05 and (value(batch) < mean_active or not self.has_hinge)

        return next(filter(is_telling, references.smooth_batches(value, LABELS, DIM)))

    @functools.cache
    def expected_gradient(self, distance=None):
        def value(embeddings):
            return self.expected(embeddings, LABELS, distance=distance or self.measure)

        return references.central_differences(value, self.batch(distance))


@dataclasses.dataclass(frozen=True, eq=False)
class Miner:
    """A miner, the reference that mines by loops, and the keyword arguments of its own."""

    name: str
    function: Callable
    reference: Callable
    own: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, embeddings, labels, **options):
        return self.function(embeddings, labels, **self.own, **options)

    def expected(self, embeddings, labels, **options):
        rows = np.asarray(embeddings, np.float64)
        return self.reference(rows, labels, **self.own, **reference_options(options))


SOFT = {"margin": 0.0, "penalty": jax.nn.softplus}

CORE = {"measures": DISTANCES, "is_core": True}
TRIPLETS = {**CORE, "needs": "both"}
CENTERS = np.round(np.random.default_rng(9).normal(size=(4, DIM)) * 64) / 64  # a proxy for each class
SUB_CENTERS = np.round(np.random.default_rng(10).normal(size=(4, 2, DIM)) * 64) / 64

LOSSES = (
    Loss("contrastive", mj.batch_contrastive_loss, references.contrastive, {"margin": 1.0}, **CORE),
    Loss("batch_hard", mj.batch_hard_triplet_loss, references.batch_hard, {"margin": 0.2}, **TRIPLETS),
    Loss("batch_hard_soft", mj.batch_hard_triplet_loss, references.batch_hard, SOFT, **TRIPLETS),
    Loss("semi_hard", mj.batch_semi_hard_triplet_loss, references.semi_hard, {"margin": 0.2}, **TRIPLETS),
    Loss("batch_all", mj.batch_all_triplet_loss, references.batch_all, {"margin": 0.2}, **TRIPLETS),
    # triplet: swap, drop
    # softmax
    # weighting
    # ranking
    # proxy
    # two views and regularizers
)

MINERS = (
    Miner("batch_hard", mj.mining.batch_hard, references.mine_batch_hard),
    Miner("semi_hard", mj.mining.batch_semi_hard, references.mine_semi_hard),
)

CORE_LOSSES = [loss for loss in LOSSES if loss.is_core]
TRIPLET_LOSSES = [loss for loss in CORE_LOSSES if loss.needs == "both"]
HINGE_LOSSES = [loss for loss in TRIPLET_LOSSES if loss.has_hinge]


def every(argument, choices):
    return pytest.mark.parametrize(argument, choices, ids=[choice.name for choice in choices])


def every_loss_with(argument, choices, rest=(), losses=LOSSES):
    """Every core loss with every choice, and every other loss with those of ``rest``, or of ``rest(loss)``."""
    cases = [
        pytest.param(loss, choice, id=f"{loss.name}-{getattr(choice, 'name', choice)}")
        for loss in losses
        for choice in (choices if loss.is_core else rest(loss) if callable(rest) else rest)
    ]
    return pytest.mark.parametrize(("loss", argument), cases)


def every_loss_in(*precisions, losses=LOSSES):
    """Every core loss in both precisions, and every other loss in these."""
    cases = [
        pytest.param(loss, precision, id=f"{loss.name}-{name}")
        for loss in losses
        for name, precision in PRECISIONS.items()
        if loss.is_core or name in precisions
    ]
    return pytest.mark.parametrize(("loss", "precision"), cases, indirect=["precision"])


every_loss = every("loss", LOSSES)
every_core_loss = every("loss", CORE_LOSSES)
every_loss_in_both = every_loss_in("float64", "float32")
every_loss_and_measure = every_loss_with("distance", DISTANCES, lambda loss: loss.all_measures)
every_loss_of_references = every("loss", [loss for loss in LOSSES if loss.takes("references")])
every_triplet_loss = every("loss", TRIPLET_LOSSES)
every_hinge_loss = every("loss", HINGE_LOSSES)
every_miner = every("miner", MINERS)
every_distance = every("distance", DISTANCES)
every_reduction = pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum", "none"])


def random_rows(seed=0, n=N):
    """Rows without a structure."""
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


def tied_rows(n, classes=3):
    """Integer rows with duplicates, hence many distances that tie exactly, and labels."""
    generator = np.random.default_rng(n)
    rows = generator.integers(0, 3, size=(n, DIM)).astype(np.float32)
    rows[1], rows[n // 2] = rows[0], rows[n - 1]
    return rows, generator.permutation(np.arange(n) % classes)


@functools.cache
def compiled(loss, distance=None, tile="auto"):
    """``(embeddings, labels, where) -> (value, gradient)``, compiled once for all the tests that need it."""

    def value(embeddings, labels, where):
        options = {name: given for name, given in (("tile", tile),) if loss.takes(name)}
        return loss(embeddings, labels, where=where, distance=distance, **options)

    return jax.jit(jax.value_and_grad(value))


def value_and_gradient(loss, distance=None, tile="auto"):
    """The same, with a mask of all rows where there is none: one compilation serves both."""
    step = compiled(loss, distance, tile)

    def run(embeddings, labels, where=None):
        return step(embeddings, labels, np.ones(len(embeddings), bool) if where is None else where)

    return run


@functools.cache
def with_references(loss):
    """``(embeddings, labels, references, reference_labels, reference_where) -> (sum, (gradient to each))``."""

    def value(embeddings, labels, references, reference_labels, reference_where):
        options = {"references": references, "reference_labels": reference_labels}
        return loss(embeddings, labels, **options, reference_where=reference_where, reduction="sum")

    return jax.jit(jax.value_and_grad(value, argnums=(0, 2)))


@functools.cache
def mine(miner, distance=mj.euclidean, tile="auto"):
    """``(embeddings, labels, where) -> Triplets``, likewise."""
    return jax.jit(
        lambda embeddings, labels, where: miner(embeddings, labels, where=where, distance=distance, tile=tile)
    )


def assert_close(actual, expected, tolerance):
    """Equal up to a tolerance relative to the largest entry: one that cancels to 0 has no digits of its own."""
    expected = np.asarray(expected, np.float64)
    assert np.isfinite(expected).all()  # or NaN would equal NaN
    scale = np.max(np.abs(expected), initial=0.0)
    actual = np.asarray(actual, np.float64)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale, strict=True)


def assert_same_triplets(actual, expected):
    """Equal, column by column; a reference that gives three columns leaves the anchors out."""
    columns = mj.mining.Triplets._fields[-len(expected) :]
    for name, ours, theirs in zip(columns, tuple(actual)[-len(expected) :], expected, strict=True):
        np.testing.assert_array_equal(np.asarray(ours, int), np.asarray(theirs, int), name, strict=True)
