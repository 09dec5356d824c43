"""Triplet loss: an anchor should be closer to a positive than to a negative, by a margin.

For the distances d(a,p) and d(a,n) of an anchor to a positive and to a negative, Schroff, Kalenichenko and Philbin
(2015) charge

    max(0, d(a,p) - d(a,n) + m)

Only relative distance counts: the pull on the positive ends once the order is right, and the negative is pushed as
long as the order is wrong.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from metric_jax.distances import Distance, euclidean

Penalty = Callable[[Array], Array]


def triplet_loss(
    anchor: Float[Array, "*batch dim"],
    positive: Float[Array, "*batch dim"],
    negative: Float[Array, "*batch dim"],
    *,
    margin: float | Array = 0.2,
    distance: Distance = euclidean,
    penalty: Penalty = jax.nn.relu,
) -> Float[Array, "*batch"]:
    """Triplet loss of explicit triplets.

    ``L(a, p, n) = penalty(d(a, p) - d(a, n) + margin)``; with the default penalty the hinge ``max(0, ·)``, with
    ``penalty=jax.nn.softplus, margin=0`` the soft margin ``log(1 + exp(d(a, p) - d(a, n)))``.

    Args:
        anchor: ``[..., dim]``.
        positive: ``[..., dim]``, of the anchor's class.
        negative: ``[..., dim]``, of another class.
        margin: By how much the negative should be farther than the positive, in units of the distance.
        distance: The distance from the anchor to either.
        penalty: What a violation costs: ``jax.nn.relu`` or ``jax.nn.softplus``.

    Returns:
        The loss of each triplet, ``[...]``.

    Raises:
        TypeError: An input is not floating.
        ValueError: The shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> a, p, n = jnp.zeros((2, 1)), jnp.array([[1.0], [1.0]]), jnp.array([[0.5], [3.0]])
        >>> mj.triplet_loss(a, p, n)
        Array([0.7, 0. ], dtype=float32)

    References:
        Schroff, Kalenichenko, Philbin (2015), FaceNet: A Unified Embedding for Face Recognition and Clustering.
        https://arxiv.org/abs/1503.03832
        Hermans, Beyer, Leibe (2017), In Defense of the Triplet Loss for Person Re-Identification (the soft margin).
        https://arxiv.org/abs/1703.07737
    """
    return penalty(distance(anchor, positive) - distance(anchor, negative) + margin)
