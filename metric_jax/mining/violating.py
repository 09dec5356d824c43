"""Triplets that violate something, however many of them an anchor has: a margin, or an angle."""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array

from metric_jax.anchors import Batch, miner
from metric_jax.distances import Distance, center, cosine, squared_euclidean
from metric_jax.limits import Limits
from metric_jax.mining.search import anchor_indices, hardest_triplets, slots_from
from metric_jax.types import Triplets

KINDS = ("all", "hard", "semi_hard", "easy")


@miner(static=("kind", "max_triplets"), within={"margin": Limits()})
def triplet_margin(
    batch: Batch, *, margin: float | Array = 0.2, kind: str = "all", max_triplets: int | None = 64
) -> Triplets:
    """For every anchor its triplets that violate a margin, the hardest first.

    ``d(a, n) - d(a, p) <= margin``, ordered by ``d(a, p) - d(a, n)``; the lowest index of a positive, then of a
    negative, comes first at ties. The triplets are gone through one positive at a time and never listed.

    Args:
        margin: By how much a negative should be farther than a positive, in units of the distance.
        kind: ``"all"`` that violate the margin; of these ``"hard"``, whose negative is no farther than the positive, or
            ``"semi_hard"``, whose negative is; or ``"easy"``, those that keep the margin.
        max_triplets: How many triplets of an anchor to keep. None keeps all, which costs O(batch * references²) memory:
            it is for small batches.

    Returns:
        `Triplets`, each array ``[batch, max_triplets]``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings, labels = jnp.array([[0.0], [1.0], [3.0], [2.0]]), jnp.array([0, 0, 0, 1])
        >>> mined = mj.mining.triplet_margin(embeddings, labels, max_triplets=2)
        >>> mined.positive
        Array([[2, 0],
               [2, 0],
               [0, 1],
               [0, 0]], dtype=int32)

        The mined triplets are the terms of a loss, which measures them again.

        >>> mj.batch_contrastive_loss(embeddings, None, pairs=mined, margin=2.0)
        Array(3.625, dtype=float32)

    References:
        Schroff, Kalenichenko, Philbin (2015), FaceNet: A Unified Embedding for Face Recognition and Clustering.
        https://arxiv.org/abs/1503.03832
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    slots = _triplet_slots(max_triplets, batch)

    def one_anchor(distances: Array, positives: Array, negatives: Array) -> tuple[Array, Array, Array]:
        def negatives_of(positive: Array) -> tuple[Array, Array]:
            violation = distances[positive] - distances
            # Each is written as what leaves a triplet out, which NaN never does: it must reach the loss.
            out = {
                "all": violation < -margin,
                "hard": (violation < -margin) | (violation < 0.0),
                "semi_hard": (violation < -margin) | (violation >= 0.0),
                "easy": violation >= -margin,
            }[kind]
            return violation, negatives & ~out

        return hardest_triplets(positives, negatives_of, slots)

    positive, negative, valid = batch.over_anchors(one_anchor)
    return Triplets(anchor_indices(valid), positive, negative, valid)


@miner(static=("max_triplets",), within={"angle": Limits(0.0, math.pi / 2)})
def angular(batch: Batch, *, angle: float | Array = math.pi / 9, max_triplets: int | None = 64) -> Triplets:
    """For every anchor its triplets with too wide an angle at the negative, the widest first.

    ``atan(|a - p| / (2 |n - c|)) > angle`` with ``c = (a + p) / 2``: half the angle under which the circle through the
    anchor and the positive is seen from the negative. The lowest index of a positive, then of a negative, comes first
    at ties. Each pair of an anchor and a positive costs a product of its center with all references.

    Args:
        angle: The widest angle that is left out, in radians.
        max_triplets: How many triplets of an anchor to keep. None keeps all, which costs O(batch * references²) memory:
            it is for small batches.

    Returns:
        `Triplets`, each array ``[batch, max_triplets]``. The distance says what a triangle is made of: the rows as they
        are (``mj.euclidean``), or scaled to length 1 (``mj.cosine``).

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.0], [1.0, 9.0]])
        >>> mj.mining.angular(embeddings, jnp.array([0, 0, 1, 2]), max_triplets=1).negative
        Array([[2],
               [2],
               [0],
               [0]], dtype=int32)

    References:
        Wang, Zhou, Wen, Liu, Lin (2017), Deep Metric Learning with Angular Loss. https://arxiv.org/abs/1708.01682
    """
    slots = _triplet_slots(max_triplets, batch)
    chord, compared = squared_chord(batch.distance, "angular"), batch.comparison
    middle = center(compared.references, compared.reference_where)
    references = chord.prepare(compared.references, middle)

    def one_anchor(squared: Array, positives: Array, negatives: Array, row: Array) -> tuple[Array, ...]:
        def negatives_of(positive: Array) -> tuple[Array, Array]:
            of_center = chord.against((row + references[positive]) / 2.0, references, chord.precision)
            found = jnp.arctan2(jnp.sqrt(squared[positive]), 2.0 * jnp.sqrt(of_center))
            return found, negatives & ~(found <= angle)  # NaN counts: it must not vanish

        return hardest_triplets(positives, negatives_of, slots)

    rows = chord.prepare(compared.anchors, middle)
    positive, negative, valid = batch.over_anchors(one_anchor, rows, distance=chord)
    return Triplets(anchor_indices(valid), positive, negative, valid)


def _triplet_slots(max_triplets: int | None, batch: Batch) -> int:
    """As many as are asked for; by default as many as an anchor can have, half of the references being positives."""
    references = len(batch.comparison.references)
    return slots_from(max_triplets, "max_triplets", None) or (references // 2) * (
        references - references // 2
    )


def squared_chord(distance: Distance, owner: str) -> Distance:
    """``|x - y|²`` of the rows that a distance compares: as they are, or scaled to length 1."""
    chords = {
        "euclidean": squared_euclidean,
        "squared_euclidean": squared_euclidean,
        "cosine": dataclasses.replace(squared_euclidean, prepare=cosine.prepare),
    }
    if distance.name not in chords:
        raise ValueError(
            f"{owner} is about Euclidean geometry: distance must be {', '.join(chords)}, got {distance.name}"
        )
    return dataclasses.replace(chords[distance.name], precision=distance.precision)
