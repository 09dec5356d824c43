"""Contrastive loss: pull positive pairs together, push negative pairs out to a margin.

For a pair at distance d, Hadsell, Chopra and LeCun (2006) charge, but for a factor of 1/2,

    d²                  if the two are the same      (a positive pair)
    max(0, m - d)²      if they are different        (a negative pair)

Each pair is judged alone. That is the loss's weakness: a positive pair pays until it is a single point, and a negative
pair beyond the margin m gets a gradient of exactly zero, whatever the positives around it need.
`metric_jax.losses.triplet` mends this by looking at three points at once.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from metric_jax.anchors import per_anchor
from metric_jax.distances import Distance, check_measure, euclidean
from metric_jax.limits import NOT_NEGATIVE, as_margin
from metric_jax.pairs import outside
from metric_jax.reductions import Terms, terms


def contrastive_loss(
    x: Float[Array, "*batch dim"],
    y: Float[Array, "*batch dim"],
    is_same: Bool[Array, "*batch"] | Int[Array, "*batch"],
    *,
    margin: float | Array = 1.0,
    distance: Distance = euclidean,
) -> Float[Array, "*batch"]:
    """Contrastive loss of explicit pairs.

    ``L(x, y) = d²`` for a positive pair and ``max(0, margin - d)²`` for a negative one, with ``d = distance(x, y)``.

    Args:
        x: First of each pair, ``[..., dim]``.
        y: Second of each pair, ``[..., dim]``.
        is_same: ``[...]``, boolean or 0/1 integers: whether the pair is positive.
        margin: How far apart negative pairs should be, in units of the distance.
        distance: The distance between the two.

    Returns:
        The loss of each pair, ``[...]``.

    Raises:
        TypeError: x or y is not floating, is_same is neither boolean nor integer, a distance that is none, a margin
            that is no number.
        ValueError: The shapes do not match, is_same holds other integers than 0 and 1, a similarity in place of the
            distance, a negative margin.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> x, y = jnp.zeros((2, 2)), jnp.array([[0.6, 0.8], [0.3, 0.4]])
        >>> mj.contrastive_loss(x, y, jnp.array([True, False]))
        Array([1.  , 0.25], dtype=float32)

    References:
        Hadsell, Chopra, LeCun (2006), Dimensionality Reduction by Learning an Invariant Mapping.
        http://yann.lecun.com/exdb/publis/pdf/hadsell-chopra-lecun-06.pdf
    """
    check_measure(distance, "distance")
    d = distance(x, y)
    margin = as_margin("contrastive_loss", margin, d.shape)
    is_same = jnp.asarray(is_same)
    if not (jnp.issubdtype(is_same.dtype, jnp.integer) or is_same.dtype == bool):
        raise TypeError(f"is_same must be boolean or 0/1 integers, got {is_same.dtype}")
    chex.assert_shape(
        is_same, d.shape, custom_message="is_same needs one entry for each pair", exception_type=ValueError
    )
    for code in outside(is_same, jnp.ones(is_same.shape, bool), 2)[:1]:
        raise ValueError(f"is_same must be 1 for a positive pair and 0 for a negative one, got {code}")
    return pair_loss(d, is_same.astype(bool), margin)


@per_anchor(distance=euclidean, within={"margin": NOT_NEGATIVE})
def batch_contrastive_loss(
    distances: Array, positives: Array, negatives: Array, *, margin: float | Array = 1.0
) -> Terms:
    """Contrastive loss of all pairs of a batch.

    ``L(a) = Σ_p d(a, p)² + Σ_n max(0, margin - d(a, n))²``; its terms are all pairs of an anchor and a reference.

    Args:
        margin: How far apart negative pairs should be, in units of the distance.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[0.0], [0.5], [0.75]])
        >>> mj.batch_contrastive_loss(embeddings, jnp.array([0, 0, 1]), reduction="none")
        Array([0.3125, 0.8125, 0.625 ], dtype=float32)

        Pairs of your own, here (0, 1), which belong together, and (0, 2), which do not:

        >>> mine = mj.Pairs(anchor=[0, 0], reference=[1, 2], is_positive=[True, False], valid=[True, True])
        >>> mj.batch_contrastive_loss(embeddings, None, pairs=mine, reduction="none")
        Array([0.3125, 0.    , 0.    ], dtype=float32)

    References:
        Hadsell, Chopra, LeCun (2006), Dimensionality Reduction by Learning an Invariant Mapping.
        http://yann.lecun.com/exdb/publis/pdf/hadsell-chopra-lecun-06.pdf
    """
    return terms(pair_loss(distances, positives, margin), where=positives | negatives)


def pair_loss(distances: Array, is_same: Array, margin: float | Array) -> Array:
    """Hadsell's formula at given distances: ``d²`` of positives, ``max(0, margin - d)²`` of negatives."""
    return jnp.where(is_same, distances, jax.nn.relu(margin - distances)) ** 2
