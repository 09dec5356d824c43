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
DISTANCES = (mj.euclidean, mj.squared_euclidean, mj.manhattan, mj.cosine)
PENALTIES = {jax.nn.relu: references.relu, jax.nn.softplus: references.softplus}


def reference_options(options: dict[str, Any]) -> dict[str, Any]:
    """The same options in the words of the references: distances by name, penalties by their scalar twins."""
    options = {"distance": mj.euclidean, **options}
    options["distance"] = references.DISTANCES[options["distance"].name]
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
        return references.batch_loss(self.terms, embeddings, labels, own=own, **reference_options(options))

    @functools.cache
    def batch(self, distance=mj.euclidean):
        """Embeddings of `LABELS` at which the loss is smooth, float64 but exact in float32."""
        margin = self.own.get("margin", 0.2)
        return references.smooth_batch(
            LABELS, DIM, distance=references.DISTANCES[distance.name], margin=margin
        )

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
        return self.reference(embeddings, labels, **self.own, **reference_options(options))


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
    Miner("semi_hard_2", mj.mining.batch_semi_hard, references.mine_semi_hard, {"max_positives": 2}),
)

every_loss = pytest.mark.parametrize("loss", LOSSES, ids=[loss.name for loss in LOSSES])
every_miner = pytest.mark.parametrize("miner", MINERS, ids=[miner.name for miner in MINERS])
every_distance = pytest.mark.parametrize("distance", DISTANCES, ids=[distance.name for distance in DISTANCES])


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
    scale = np.max(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=0, atol=tolerance * scale)


def assert_same_triplets(actual, expected):
    """The same valid triplets; a miner's own anchor column is dropped where only three columns are expected."""
    actual = tuple(actual)[-len(expected) :]
    for name, ours, theirs in zip(
        ("anchor", "positive", "negative", "valid")[-len(expected) :], actual, expected, strict=True
    ):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs), err_msg=name)
