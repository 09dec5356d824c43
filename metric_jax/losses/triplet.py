"""Triplet loss: an anchor should be closer to a positive than to a negative, by a margin.

For the distances d(a,p) and d(a,n) of an anchor to a positive and to a negative, Schroff, Kalenichenko and Philbin
(2015) charge

    max(0, d(a,p) - d(a,n) + m)

with squared distances of unit rows, which `mj.squared_euclidean` gives; the default here is the distance itself, as
Hermans et al. (2017) prefer.

Only relative distance counts: the pull on the positive ends once the order is right, and the negative is pushed as
long as the order is wrong.

A batch holds of the order of batch³ triplets. The batch losses differ in which of them they charge: the hardest one of
each anchor, the semi-hard one of each positive pair, or all. None of them ever lists the triplets; those of your own
are for `metric_jax.losses.explicit`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metric_jax import mining
from metric_jax.anchors import Batch, batch_loss, per_anchor
from metric_jax.distances import Distance, check_measure, euclidean
from metric_jax.limits import NOT_NEGATIVE, as_margin, check_flag, check_penalty
from metric_jax.losses.positives import sum_over_positives
from metric_jax.reductions import Terms, terms
from metric_jax.sums import sum_where

Penalty = Callable[[Array], Array]


def triplet_loss(
    anchor: Float[Array, "*batch dim"],
    positive: Float[Array, "*batch dim"],
    negative: Float[Array, "*batch dim"],
    *,
    margin: float | Array = 0.2,
    distance: Distance = euclidean,
    penalty: Penalty = jax.nn.relu,
    swap: bool = False,
) -> Float[Array, "*batch"]:
    """Triplet loss of explicit triplets.

    ``L(a, p, n) = penalty(d(a, p) - d(a, n) + margin)``; with the default penalty the hinge ``max(0, ·)``, with
    ``penalty=jax.nn.softplus, margin=0`` the soft margin ``log(1 + exp(d(a, p) - d(a, n)))``. With ``swap=True``,
    d(a, n) becomes ``min(d(a, n), d(p, n))``.

    Args:
        anchor: ``[..., dim]``.
        positive: ``[..., dim]``, of the anchor's class.
        negative: ``[..., dim]``, of another class.
        margin: By how much the negative should be farther than the positive, in units of the distance.
        distance: The distance from the anchor to either.
        penalty: What a violation costs: ``jax.nn.relu`` or ``jax.nn.softplus``.
        swap: Whether the negative is measured from the anchor or the positive, whichever it is nearer to.

    Returns:
        The loss of each triplet, ``[...]``.

    Raises:
        TypeError: An input is not floating, a distance or penalty that is none, a margin that is no number.
        ValueError: The shapes differ, a similarity in place of the distance, a negative margin.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> a, p, n = jnp.zeros((2, 1)), jnp.array([[1.0], [1.0]]), jnp.array([[0.5], [3.0]])
        >>> mj.triplet_loss(a, p, n)
        Array([0.7, 0. ], dtype=float32)
        >>> mj.triplet_loss(a, p, 1.5 * p, swap=True)  # the negative is 1.5 from the anchor, and 0.5 from the positive
        Array([0.7, 0.7], dtype=float32)

    References:
        Schroff, Kalenichenko, Philbin (2015), FaceNet: A Unified Embedding for Face Recognition and Clustering.
        https://arxiv.org/abs/1503.03832
        Hermans, Beyer, Leibe (2017), In Defense of the Triplet Loss for Person Re-Identification (the soft margin).
        https://arxiv.org/abs/1703.07737
        Balntas, Riba, Ponsa, Mikolajczyk (2016), Learning Local Feature Descriptors with Triplets and Shallow
        Convolutional Neural Networks (the swap). https://doi.org/10.5244/C.30.119
    """
    check_measure(distance, "distance")
    check_penalty(penalty)
    check_flag("triplet_loss", "swap", swap)
    to_negative = distance(anchor, negative)
    margin = as_margin("triplet_loss", margin, to_negative.shape)
    if swap:
        to_negative = jnp.minimum(to_negative, distance(positive, negative))
    return penalty(distance(anchor, positive) - to_negative + margin)


@batch_loss(static=("penalty", "swap"), within={"margin": NOT_NEGATIVE})
def batch_hard_triplet_loss(
    batch: Batch, *, margin: float | Array = 0.2, penalty: Penalty = jax.nn.relu, swap: bool = False
) -> Terms:
    """Triplet loss of every anchor with its farthest positive and its nearest negative.

    ``L(a) = penalty(max_p d(a, p) - min_n d(a, n) + margin)``; its terms are the anchors that have both a positive
    and a negative.

    Args:
        margin: By how much the nearest negative should be farther than the farthest positive, in units of the distance.
        penalty: What a violation costs: ``jax.nn.relu`` or ``jax.nn.softplus``.
        swap: Whether the negative is measured from the anchor or the positive, whichever it is nearer to.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[0.0], [1.0], [5.0], [2.0]])
        >>> mj.batch_hard_triplet_loss(embeddings, jnp.array([0, 0, 1, 1]), reduction="none")
        Array([0. , 0.2, 0. , 2.2], dtype=float32)

    References:
        Hermans, Beyer, Leibe (2017), In Defense of the Triplet Loss for Person Re-Identification.
        https://arxiv.org/abs/1703.07737
    """
    mined, compared = mining.hardest(batch), batch.comparison
    values = triplet_loss(
        compared.anchors,
        compared.references[mined.positive],
        compared.references[mined.negative],
        margin=margin,
        distance=batch.distance,
        penalty=penalty,
        swap=swap,
    )
    return jax.vmap(terms)(values, mined.valid)


@batch_loss(static=("penalty", "swap", "otherwise"), within={"margin": NOT_NEGATIVE})
def batch_semi_hard_triplet_loss(
    batch: Batch,
    *,
    margin: float | Array = 0.2,
    penalty: Penalty = jax.nn.relu,
    swap: bool = False,
    otherwise: str = "farthest",
) -> Terms:
    """Triplet loss of every positive pair with its semi-hard negative.

    ``L(a) = Σ_p penalty(d(a, p) - d(a, n*) + margin)`` with ``n*`` the nearest negative strictly farther than p, or the
    farthest negative where none is farther; its terms are the positive pairs of anchors that have a negative, or with
    ``otherwise="drop"`` those that have a farther one. It has first derivatives, in reverse mode, and no others. The
    choice of n* is TensorFlow Addons' rule; the paper takes any negative farther than p by less than the margin.

    Args:
        margin: By how much the negative should be farther than the positive, in units of the distance.
        penalty: What a violation costs: ``jax.nn.relu`` or ``jax.nn.softplus``.
        swap: Whether the negative is measured from the anchor or the positive, whichever it is nearer to; it is
            chosen by its distance from the anchor.
        otherwise: What becomes of a positive pair without a farther negative: ``"farthest"``, or ``"drop"`` to leave it
            out.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[0.0], [2.0], [5.0], [2.125]])
        >>> mj.batch_semi_hard_triplet_loss(embeddings, jnp.array([0, 0, 1, 1]), margin=0.25, reduction="none")
        Array([0.125, 0.   , 0.125, 1.   ], dtype=float32)

    References:
        Schroff, Kalenichenko, Philbin (2015), FaceNet: A Unified Embedding for Face Recognition and Clustering.
        https://arxiv.org/abs/1503.03832
    """
    if otherwise not in ("farthest", "drop"):
        raise ValueError(f'otherwise must be "farthest" or "drop", got {otherwise!r}')

    def mined(distances: Array, positive: Array, negatives: Array) -> tuple[Array, Array]:
        negative = mining.semi_hard_negative(distances, positive, negatives)
        is_farther = ~(distances[negative] <= distances[positive])  # NaN counts: it must not vanish
        return negative, negatives.any() & (is_farther if otherwise == "drop" else True)

    def one_anchor(distances: Array, positives: Array, negatives: Array) -> Terms:
        def pair(positive: Array) -> Terms:
            negative, valid = mined(distances, positive, negatives)
            return terms(penalty(distances[positive] - distances[negative] + margin), where=valid)

        return sum_where(positives, pair)

    def of_positive(positive: Array, valid: Array) -> Terms:
        def one_anchor(
            distances: Array, positives: Array, negatives: Array, positive: Array
        ) -> tuple[Array, Array]:
            return mined(distances, positive, negatives)

        negative, has_negative = batch.frozen.over_anchors(
            one_anchor, positive, distance=batch.distance.ranking
        )
        values = triplet_loss(
            batch.comparison.anchors,
            batch.comparison.references[positive],
            batch.comparison.references[negative],
            margin=margin,
            distance=batch.distance,
            penalty=penalty,
            swap=True,
        )
        return jax.vmap(terms)(values, valid & has_negative)

    # The distance of a positive to a negative stands in no anchor's row: the three are gathered, pair after pair.
    return sum_over_positives(batch, of_positive) if swap else batch.over_anchors(one_anchor)


@per_anchor(static=("penalty",), within={"margin": NOT_NEGATIVE})
def batch_all_triplet_loss(
    distances: Array,
    positives: Array,
    negatives: Array,
    *,
    margin: float | Array = 0.2,
    penalty: Penalty = jax.nn.relu,
) -> Terms:
    """Triplet loss of all triplets of a batch.

    ``L(a) = Σ_p Σ_n penalty(d(a, p) - d(a, n) + margin)``; its terms are the triplets. ``reduction="mean_active"``
    is the mean over violating triplets that the paper found better. Time is O(batch² * positives of an anchor). It has
    first derivatives, in reverse mode, and no others.

    Args:
        margin: By how much the negative should be farther than the positive, in units of the distance.
        penalty: What a violation costs: ``jax.nn.relu`` or ``jax.nn.softplus``.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[0.0], [2.0], [1.0]])
        >>> mj.batch_all_triplet_loss(embeddings, jnp.array([0, 0, 1]), margin=0.5, reduction="none")
        Array([1.5, 1.5, 0. ], dtype=float32)

    References:
        Hermans, Beyer, Leibe (2017), In Defense of the Triplet Loss for Person Re-Identification.
        https://arxiv.org/abs/1703.07737
    """

    def pair(positive: Array) -> Terms:
        return terms(penalty(distances[positive] - distances + margin), where=negatives)

    return sum_where(positives, pair)
