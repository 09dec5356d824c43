"""Neighbourhood losses: would a neighbour drawn at random, the nearer the likelier, be of the anchor's class?

From an anchor a the reference k is drawn with probability

    p(k | a) = exp(-d²(a, k) / T) / Σ_{l ≠ a} exp(-d²(a, l) / T)

and the loss is ``-log Σ_p p(p | a)``: one close positive is enough, the others may stay where they are. So a class may
have several clusters, where losses that average over all positives pull it into one.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metric_jax.anchors import per_anchor
from metric_jax.distances import squared_euclidean
from metric_jax.limits import POSITIVE
from metric_jax.reductions import Terms, terms
from metric_jax.sums import log_sum_exp


@per_anchor(distance=squared_euclidean)
def nca_loss(distances: Array, positives: Array, negatives: Array) -> Terms:
    """Neighbourhood components analysis: the log-probability that a random neighbour is of the anchor's class.

    ``L(a) = -log( Σ_p exp(-d²(a, p)) / Σ_{k ≠ a} exp(-d²(a, k)) )``, the second of the paper's two objectives; its
    terms are the anchors that have a positive. The scale of the embeddings plays the temperature's part.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[0.0], [1.0], [-1.0]])
        >>> losses = mj.nca_loss(embeddings, jnp.array([0, 0, 1]), reduction="none")
        >>> jnp.round(jnp.exp(losses[0]), 4)  # the positive and the negative are equally likely
        Array(2., dtype=float32)

    References:
        Goldberger, Roweis, Hinton, Salakhutdinov (2004), Neighbourhood Components Analysis.
        https://papers.nips.cc/paper/2566-neighbourhood-components-analysis
    """
    return _drawn_positive(-distances, positives, negatives)


@per_anchor(distance=squared_euclidean, within={"temperature": POSITIVE})
def soft_nearest_neighbor_loss(
    distances: Array, positives: Array, negatives: Array, *, temperature: float | Array = 1.0
) -> Terms:
    """Soft nearest neighbour loss: neighbourhood components analysis at a temperature, which may be learned.

    ``L(a) = -log( Σ_p exp(-d²(a, p) / T) / Σ_{k ≠ a} exp(-d²(a, k) / T) )``; its terms are the anchors that have a
    positive. The paper also maximises it, to entangle the classes in hidden layers, and takes the temperature that
    makes it least.

    Args:
        temperature: T, in units of the distance. May be learned.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[0.0], [1.0], [-1.0]])
        >>> losses = mj.soft_nearest_neighbor_loss(
        ...     embeddings, jnp.array([0, 0, 1]), temperature=1 / jnp.log(2), reduction="none"
        ... )
        >>> jnp.round(jnp.exp(losses), 4)  # weights 2 ** -d²
        Array([2.   , 1.125, 1.   ], dtype=float32)

    References:
        Frosst, Papernot, Hinton (2019), Analyzing and Improving Representations with the Soft Nearest Neighbor Loss.
        https://arxiv.org/abs/1902.01889
        Salakhutdinov, Hinton (2007), Learning a Nonlinear Embedding by Preserving Class Neighbourhood Structure.
        https://proceedings.mlr.press/v2/salakhutdinov07a.html
    """
    return _drawn_positive(-distances / temperature, positives, negatives)


def _drawn_positive(logits: Array, positives: Array, negatives: Array) -> Terms:
    """``-log( Σ_p exp(z_p) / (Σ_p exp(z_p) + Σ_n exp(z_n)) )``, if there is a positive."""
    has_positive = jnp.any(positives)
    of_positives = jnp.where(has_positive, log_sum_exp(logits, positives), 0.0)
    return terms(jax.nn.softplus(log_sum_exp(logits, negatives) - of_positives), where=has_positive)
