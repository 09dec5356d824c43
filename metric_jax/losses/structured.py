"""Losses of the structure of a batch: a positive pair is judged by more than one anchor's row.

Lifted structure looks at the negatives of both ends of a pair, the angular loss at the angle under which a negative
sees the pair, and the histogram loss at the share of all negative pairs of the batch that are more similar than it.
Each is a few passes over the rows of the batch, whose results are handed to the next, so that memory stays linear.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from metric_jax.anchors import Batch, batch_loss, per_anchor
from metric_jax.collectives import gathered, sum_over
from metric_jax.distances import center, cosine_similarity, dot_product, euclidean
from metric_jax.limits import NOT_NEGATIVE, Limits, check_count
from metric_jax.losses.positives import sum_over_positives
from metric_jax.pairs import NOT_THERE, Comparison, same_label
from metric_jax.reductions import Terms, terms
from metric_jax.sums import log_sum_exp
from metric_jax.types import Pairs


@batch_loss(distance=euclidean, within={"margin": NOT_NEGATIVE})
def lifted_structure_loss(batch: Batch, *, margin: float | Array = 1.0) -> Terms:
    """Lifted structured loss: every positive pair against all negatives of both of its ends.

    ``L(a) = 1/2 Σ_p max(0, d(a, p) + log(Σ_n exp(m - d(a, n)) + Σ_l exp(m - d(p, l))))²`` with n the negatives of a and
    l those of p, which are the anchors that p is a negative of; its terms are the positive pairs of which either end
    has a negative. The paper counts a pair once, so that its mean is the same.

    Args:
        margin: m, how far negatives should be, in units of the distance.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[0.0], [2.0], [1.0]])
        >>> mj.lifted_structure_loss(embeddings, jnp.array([0, 0, 1]), reduction="none").round(3)  # (2 + log 2)² / 2
        Array([3.627, 3.627, 0.   ], dtype=float32)

    References:
        Oh Song, Xiang, Jegelka, Savarese (2016), Deep Metric Learning via Lifted Structured Feature Embedding.
        https://arxiv.org/abs/1511.06452
    """

    def of_negatives(distances: Array, positives: Array, negatives: Array) -> Array:
        return log_sum_exp(margin - distances, negatives)

    of_anchors = batch.over_anchors(of_negatives)
    of_references = gathered(_from_the_other_side(batch).over_anchors(of_negatives), batch.axis_name)

    def of_pairs(distances: Array, positives: Array, negatives: Array, of_anchor: Array) -> Terms:
        nothing = (of_anchor == -jnp.inf) & (of_references == -jnp.inf)
        # As good as -inf, but finite: the difference of two infinities has no slope.
        lowest = jnp.finfo(distances.dtype).min / 4
        both = jnp.logaddexp(jnp.maximum(of_anchor, lowest), jnp.maximum(of_references, lowest))
        return terms(jax.nn.relu(distances + both) ** 2 / 2, where=positives & ~nothing)

    return batch.over_anchors(of_pairs, of_anchors)


def _from_the_other_side(batch: Batch) -> Batch:
    """The same pairs with the references as anchors, on every device an equal share of them."""
    compared = batch.comparison
    anchors, labels, where, position = gathered(
        (compared.anchors, compared.labels, compared.where, compared.position), batch.axis_name
    )
    device = jnp.zeros((), jnp.int32) if batch.axis_name is None else lax.axis_index(batch.axis_name)
    count = len(compared.references)
    share = count * len(compared.anchors) // len(anchors)
    first = device * share

    def shared(x: Array) -> Array:
        return lax.dynamic_slice_in_dim(x, first, share)

    # Where an anchor stands among the references, turned into where a reference stands among the anchors.
    stands = jnp.where(position == NOT_THERE, count, position)
    back = jnp.full(count, NOT_THERE).at[stands].set(jnp.arange(len(anchors)), mode="drop")
    pairs = compared.pairs
    if pairs is not None:
        pairs = Pairs(*(column.reshape(-1) for column in pairs))
        pairs = pairs._replace(anchor=pairs.anchor + device * len(compared.anchors))
        pairs = gathered(pairs, batch.axis_name)
        pairs = pairs._replace(anchor=pairs.reference - first, reference=pairs.anchor)
    match = batch.match or same_label
    return dataclasses.replace(
        batch,
        comparison=Comparison(
            anchors=shared(compared.references),
            labels=shared(compared.reference_labels),
            where=shared(compared.reference_where),
            position=shared(back),
            references=anchors,
            reference_labels=labels,
            reference_where=where,
            pairs=pairs,
        ),
        match=lambda reference, anchor: match(anchor, reference),
    )


@per_anchor(distance=euclidean, within={"margin": NOT_NEGATIVE})
def generalized_lifted_structure_loss(
    distances: Array, positives: Array, negatives: Array, *, margin: float | Array = 1.0
) -> Terms:
    """Generalized lifted structured loss: all positives of an anchor against all its negatives.

    ``L(a) = max(0, log Σ_p exp(d(a, p)) + log Σ_n exp(m - d(a, n)))``; its terms are the anchors that have both a
    positive and a negative.

    Args:
        margin: m, how far negatives should be, in units of the distance.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[0.0], [2.0], [1.5]])
        >>> mj.generalized_lifted_structure_loss(embeddings, jnp.array([0, 0, 1]), reduction="none")
        Array([1.5, 2.5, 0. ], dtype=float32)

    References:
        Hermans, Beyer, Leibe (2017), In Defense of the Triplet Loss for Person Re-Identification.
        https://arxiv.org/abs/1703.07737
    """
    both = log_sum_exp(distances, positives) + log_sum_exp(margin - distances, negatives)
    return terms(jax.nn.relu(both), where=positives.any() & negatives.any())


@batch_loss(similarity=cosine_similarity, static=("bins",))
def histogram_loss(batch: Batch, *, bins: int = 100) -> Terms:
    """Histogram loss: how probable it is that a negative pair is more similar than a positive one.

    ``L(a) = Σ_p Φ(s(a, p))``, where ``Φ(t_q) = Σ_{r ≥ q} h_r`` at the nodes ``t_r`` that divide [-1, 1] into bins, and
    linear between them; ``h_r`` is the share of all negative pairs of the batch at the node r, when each counts for the
    two nodes around it in linear interpolation. Its terms are the positive pairs: their mean is the paper's
    ``Σ_r h⁻_r Σ_{q ≤ r} h⁺_q``, summed by positive pairs first.

    Args:
        bins: Into how many to divide [-1, 1]; a similarity beyond an end counts as that end.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> mj.histogram_loss(embeddings, jnp.array([0, 0, 1]), bins=4, reduction="none").round(3)
        Array([0.46, 0.46, 0.  ], dtype=float32)

    References:
        Ustinova, Lempitsky (2016), Learning Deep Embeddings with Histogram Loss. https://arxiv.org/abs/1611.00822
    """
    check_count("histogram_loss", "bins", bins)

    def places(similarities: Array) -> tuple[Array, Array]:
        """The node below each, and how far it is from there to the next."""
        position = jnp.clip((similarities + 1.0) * (bins / 2), 0.0, bins)
        # NaN goes to the last node, which every sum from above begins with: it must not vanish.
        lower = jnp.where(jnp.isnan(position), bins, jnp.floor(position))
        lower = jnp.minimum(lower, bins - 1).astype(jnp.int32)
        return lower, position - lower

    def histogram(similarities: Array, positives: Array, negatives: Array) -> tuple[Array, Array]:
        lower, beyond = places(similarities)
        below, above = (jnp.where(negatives, share, 0.0) for share in (1.0 - beyond, beyond))
        nodes = jnp.zeros(bins + 1, similarities.dtype).at[lower].add(below).at[lower + 1].add(above)
        return nodes, jnp.sum(negatives, dtype=similarities.dtype)

    of_anchors = jax.tree.map(lambda x: jnp.sum(x, axis=0), batch.over_anchors(histogram))
    nodes, number = sum_over(of_anchors, batch.axis_name)
    from_above = jnp.cumsum(nodes[::-1])[::-1] / jnp.maximum(number, 1.0)

    def of_pairs(similarities: Array, positives: Array, negatives: Array) -> Terms:
        lower, beyond = places(similarities)
        share = from_above[lower] * (1.0 - beyond) + from_above[lower + 1] * beyond
        return terms(share, where=positives)

    return batch.over_anchors(of_pairs)


@batch_loss(
    similarity=cosine_similarity,
    within={"alpha": Limits(0.0, math.pi / 2, excludes=(0.0, math.pi / 2))},
)
def angular_loss(batch: Batch, *, alpha: float | Array = math.pi / 4) -> Terms:
    """Angular loss: no negative should see a positive pair under a larger angle than α.

    ``L(a) = Σ_p log(1 + Σ_n exp(4 tan²α (a + p)·n - 2 (1 + tan²α) a·p))`` with a, p and n the embeddings, scaled to
    length 1; its terms are the positive pairs of anchors that have a negative. It has first derivatives, in reverse
    mode, and no others. Time is O(batch² * positives of an anchor).

    Args:
        alpha: α, an angle in radians between 0 and π/2; the paper takes 45° for birds and cars and 36° for products.
            ``similarity=mj.dot_product`` takes the embeddings as they are.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> mj.angular_loss(embeddings, jnp.array([0, 0, 1]), reduction="none")  # log(1 + exp(-4)): (a + p)·n = -1
        Array([0.01814993, 0.01814993, 0.        ], dtype=float32)

    References:
        Wang, Zhou, Wen, Liu, Lin (2017), Deep Metric Learning with Angular Loss. https://arxiv.org/abs/1708.01682
    """
    compared = batch.comparison
    middle = center(compared.references, compared.reference_where)
    anchors, references = (
        batch.distance.prepare(rows, middle) for rows in (compared.anchors, compared.references)
    )
    # From here on the rows are as the similarity wants them, and what is left of it is a product.
    product = dataclasses.replace(dot_product, precision=batch.distance.precision)
    prepared = dataclasses.replace(
        batch, comparison=compared._replace(anchors=anchors, references=references), distance=product
    )

    def of_positive(index: Array, valid: Array) -> Terms:
        tangent = jnp.tan(alpha) ** 2
        positive = references[index]
        offset = 2.0 * (1.0 + tangent) * product(anchors, positive)

        def one_anchor(
            products: Array, positives: Array, negatives: Array, offset: Array, valid: Array
        ) -> Terms:
            value = jax.nn.softplus(log_sum_exp(4.0 * tangent * products - offset, negatives))
            return terms(value, where=valid & negatives.any())

        return prepared.over_anchors(one_anchor, offset, valid, rows=anchors + positive)

    return sum_over_positives(prepared, of_positive)
