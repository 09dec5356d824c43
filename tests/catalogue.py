"""The one list of losses and miners. What stands here is held to every property; a new loss is one more line."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import references

import metric_jax as mj

DIM = 3
LABELS = np.array([0, 1, 0, 2, 1, 0, 3, 2])  # classes of 3, 2, 2 and 1, never two of a class side by side
N = len(LABELS)
DISTANCES = (mj.euclidean, mj.squared_euclidean, mj.manhattan, mj.cosine)
PENALTIES = {jax.nn.relu: references.relu, jax.nn.softplus: references.softplus}


def reference_options(options: dict[str, Any]) -> dict[str, Any]:
    """The same options in the words of the references: distances by name, rows in float64."""
    options = {"distance": mj.euclidean, **options}
    options["distance"] = references.DISTANCES[options["distance"].name]
    if "references" in options:
        options["references"] = np.asarray(options["references"], np.float64)
    return options


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
    """A batch loss, the reference that lists one anchor's terms, and the keyword arguments of its own."""

    name: str
    function: Callable
    terms: Callable
    own: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, embeddings, labels, **options):
        return self.function(embeddings, labels, **self.own, **options)

    def expected(self, embeddings, labels, **options):
        own = {name: PENALTIES[value] if name == "penalty" else value for name, value in self.own.items()}
        rows = np.asarray(embeddings, np.float64)
        return references.batch_loss(self.terms, rows, labels, own=own, **reference_options(options))

    @property
    def has_hinge(self):
        return "margin" in self.own and "penalty" not in self.own

    @functools.cache
    def batch(self, distance=mj.euclidean):
        """Embeddings of `LABELS`, float64 but exact in float32, at which the loss is smooth and worth a test.

        That is: a hinge has terms on both its sides, and enough beyond it for the value to have digits.
        """
        options = {"distance": references.DISTANCES[distance.name], "margin": self.own.get("margin", 0.2)}

        def is_telling(batch):
            mean = self.expected(batch, LABELS, distance=distance)
            mean_active = self.expected(batch, LABELS, distance=distance, reduction="mean_active")
            return mean > 0.05 and (mean < mean_active or not self.has_hinge)

        return next(filter(is_telling, references.smooth_batches(LABELS, DIM, **options)))

    @functools.cache
    def expected_gradient(self, distance=mj.euclidean):
        def value(embeddings):
            return self.expected(embeddings, LABELS, distance=distance)

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

LOSSES = (
    Loss("contrastive", mj.batch_contrastive_loss, references.contrastive, {"margin": 1.0}),
    Loss("batch_hard", mj.batch_hard_triplet_loss, references.batch_hard, {"margin": 0.2}),
    Loss("batch_hard_soft", mj.batch_hard_triplet_loss, references.batch_hard, SOFT),
    Loss("semi_hard", mj.batch_semi_hard_triplet_loss, references.semi_hard, {"margin": 0.2}),
    Loss("batch_all", mj.batch_all_triplet_loss, references.batch_all, {"margin": 0.2}),
)

MINERS = (
    Miner("batch_hard", mj.mining.batch_hard, references.mine_batch_hard),
    Miner("semi_hard", mj.mining.batch_semi_hard, references.mine_semi_hard),
)

TRIPLET_LOSSES = [loss for loss in LOSSES if loss.name != "contrastive"]
HINGE_LOSSES = [loss for loss in TRIPLET_LOSSES if loss.has_hinge]


def every(argument, choices):
    return pytest.mark.parametrize(argument, choices, ids=[choice.name for choice in choices])


every_loss = every("loss", LOSSES)
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
def value_and_gradient(loss, distance=mj.euclidean, tile="auto"):
    """``(embeddings, labels, where) -> (value, gradient)``, compiled once for all the tests that need it."""

    def value(embeddings, labels, where):
        return loss(embeddings, labels, where=where, distance=distance, tile=tile)

    return jax.jit(jax.value_and_grad(value))


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
