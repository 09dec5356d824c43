"""Losses of (N+1)-tuplets: one anchor, one positive, and a negative of every other class at once.

A triplet compares with a single negative, so that the anchor may run from one wrong class into the next. A tuplet
compares with all of them, by a softmax without a temperature of its own. N-pairs takes the dot product, whose size the
lengths of the embeddings set; the tuplet margin loss takes the cosine, scaled, and an angular margin to go with it.
"""

import math

from jaxtyping import Array

from metric_jax.anchors import per_anchor
from metric_jax.distances import cosine_similarity, dot_product
from metric_jax.limits import POSITIVE, Limits
from metric_jax.losses.angles import cos_of_shifted
from metric_jax.losses.softmax import against
from metric_jax.reductions import Terms, terms


@per_anchor(similarity=dot_product)
def npairs_loss(similarities: Array, positives: Array, negatives: Array) -> Terms:
    """N-pairs loss: each positive against all negatives, by their dot products.

    ``L(a) = Σ_p log(1 + Σ_n exp(a·n - a·p))``; its terms are the positive pairs. Nothing is normalised: the paper
    keeps the embeddings short by a penalty on their squared lengths, which is to be added.

    The paper's batch has one pair of every class, and an anchor meets only the positives of the other pairs: pass the
    anchors as embeddings and the positives as references. On a plain batch all rows of other classes are negatives.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        Two pairs, the paper's way: each anchor's own positive, and that of the other.

        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> anchors, positives = jnp.array([[0.0, 1.0], [0.0, 2.0]]), jnp.array([[3.0, 0.0], [5.0, 0.0]])
        >>> classes = jnp.array([0, 1])
        >>> losses = mj.npairs_loss(
        ...     anchors, classes, references=positives, reference_labels=classes, reduction="none"
        ... )
        >>> jnp.round(jnp.exp(losses), 4)
        Array([2., 2.], dtype=float32)

    References:
        Sohn (2016), Improved Deep Metric Learning with Multi-class N-pair Loss Objective.
        https://papers.nips.cc/paper/6200-improved-deep-metric-learning-with-multi-class-n-pair-loss-objective
    """
    return terms(against(similarities, similarities, negatives), where=positives)


@per_anchor(similarity=cosine_similarity, within={"margin": Limits(0.0, math.pi), "scale": POSITIVE})
def tuplet_margin_loss(
    similarities: Array,
    positives: Array,
    negatives: Array,
    *,
    margin: float | Array = 0.1,
    scale: float | Array = 64.0,
) -> Terms:
    """Tuplet margin loss: each positive, a margin of slack granted to its angle, against all negatives.

    ``L(a) = Σ_p log(1 + Σ_n exp(s (cos θ(a, n) - cos(θ(a, p) - β))))`` with the angle θ between two embeddings; its
    terms are the positive pairs. The slack β spares the hardest triplets, which are often mislabelled.

    Args:
        margin: β in radians: 0.1 is 5.73 degrees.
        scale: s, an inverse temperature.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> losses = mj.tuplet_margin_loss(
        ...     embeddings, jnp.array([0, 0, 1]), margin=jnp.pi / 2, scale=jnp.log(2), reduction="none"
        ... )
        >>> jnp.round(jnp.exp(losses), 4)  # cos θ is 0 for the positive, 1 with its slack; -1 or 0 for the negative
        Array([1.5 , 1.25, 1.  ], dtype=float32)

    References:
        Yu, Tao (2019), Deep Metric Learning with Tuplet Margin Loss.
        https://openaccess.thecvf.com/content_ICCV_2019/html/Yu_Deep_Metric_Learning_With_Tuplet_Margin_Loss_ICCV_2019_paper.html
    """
    of_positives = scale * cos_of_shifted(similarities, -margin)
    return terms(against(of_positives, scale * similarities, negatives), where=positives)
