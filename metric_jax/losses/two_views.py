"""Losses of two views: row i of x and row i of y are one item, and any other two rows are of two.

The views may be two augmentations of an image, or an image and its caption. x and y then come from encoders of their
own, and are never compared with themselves, only with each other: every row of x has one positive, and all other rows
of y, on all devices, are its negatives.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metric_jax.anchors import Batch
from metric_jax.collectives import places
from metric_jax.distances import Distance, as_rows, cosine_similarity
from metric_jax.interface import TWO_VIEWS, publish
from metric_jax.limits import POSITIVE, Limits
from metric_jax.losses.softmax import against
from metric_jax.pairs import check_views, compare
from metric_jax.reductions import Reduction, Terms, reduce, terms
from metric_jax.types import AxisName


def two_views(
    body: Callable[..., Terms] | None = None,
    *,
    static: Sequence[str] = (),
    within: Mapping[str, Limits] | None = None,
) -> Callable[..., Any]:
    """From ``body(x among y, y among x, *, own)``, which gives every item's terms, to a public loss of x and y."""
    if body is None:
        return functools.partial(two_views, static=static, within=within)

    def run(
        *,
        x: Array,
        y: Array,
        similarity: Distance,
        where: Array | None,
        reduction: Reduction,
        tile: int | str,
        axis_name: AxisName,
        **own: Any,
    ) -> Array:
        x, y = as_rows(x, "x"), as_rows(y, "y")
        check_views(x, y)
        items = places(len(x), axis_name)

        def among(rows: Array, others: Array) -> Batch:
            compared = compare(
                rows,
                items,
                references=others,
                reference_labels=items,
                where=where,
                reference_where=where,
                axis_name=axis_name,
            )
            return Batch(compared, similarity, tile=tile, axis_name=axis_name)

        return reduce(body(among(x, y), among(y, x), **own), reduction, axis_name)

    return publish(
        run,
        body,
        shared=TWO_VIEWS,
        measure="similarity",
        default=cosine_similarity,
        static=static,
        within=within,
    )


@two_views(static=("symmetric",), within={"temperature": POSITIVE})
def infonce_loss(
    x_among_y: Batch, y_among_x: Batch, *, temperature: float | Array = 0.07, symmetric: bool = True
) -> Terms:
    """InfoNCE of two views, CLIP's loss: find each row's other view among all.

    ``L(i) = [l(x_i, y) + l(y_i, x)] / 2`` with ``l(x_i, y) = -log( exp(s(x_i, y_i) / τ) / Σ_j exp(s(x_i, y_j) / τ) )``;
    its terms are the items.

    Args:
        temperature: τ, in units of the similarity. CLIP learns it, from 0.07 on.
        symmetric: Whether y is looked up among x too; if not, ``L(i) = l(x_i, y)``.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> images = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> captions = jnp.array([[1.0, 0.0], [1.0, 0.0]])
        >>> losses = mj.infonce_loss(
        ...     images, captions, temperature=1 / jnp.log(2), symmetric=False, reduction="none"
        ... )
        >>> jnp.round(jnp.exp(losses), 4)  # exp(s / τ) is 2 for equal rows, 1 for orthogonal ones
        Array([2., 2.], dtype=float32)

    References:
        van den Oord, Li, Vinyals (2018), Representation Learning with Contrastive Predictive Coding.
        https://arxiv.org/abs/1807.03748
        Radford et al. (2021), Learning Transferable Visual Models From Natural Language Supervision.
        https://arxiv.org/abs/2103.00020
    """

    def of_item(similarities: Array, positives: Array, negatives: Array) -> Array:
        logits = similarities / temperature
        return against(jnp.sum(logits, where=positives), logits, negatives)

    losses = x_among_y.over_anchors(of_item)
    if symmetric:
        losses = (losses + y_among_x.over_anchors(of_item)) / 2.0
    return jax.vmap(terms)(losses, x_among_y.comparison.where)


@two_views(within={"temperature": POSITIVE, "bias": Limits()})
def siglip_loss(
    x_among_y: Batch, y_among_x: Batch, *, temperature: float | Array = 0.1, bias: float | Array = -10.0
) -> Terms:
    """Sigmoid loss for language-image pre-training (SigLIP): is this pair one item, yes or no?

    ``L(i) = Σ_j softplus(-z_ij (s(x_i, y_j) / τ + b))`` with ``z_ii = 1`` and all other z -1; its terms are the items,
    so that the mean divides the sum over all pairs by the number of rows, as in the paper. No pair needs the others, as
    it does in a softmax.

    Args:
        temperature: τ, which divides, as in every softmax of this library; the paper multiplies by ``t = 1 / τ``. It
            learns ``log t``, from ``log 10`` on.
        bias: b, learned too; at its start, -10, hardly any pair is thought to be one item, and hardly any is.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> images = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> losses = mj.siglip_loss(images, images[::-1], temperature=1 / jnp.log(3), bias=0.0, reduction="none")
        >>> jnp.round(jnp.exp(losses), 4)  # 2 of the positive pair, 1 + 3 of the negative
        Array([8., 8.], dtype=float32)

    References:
        Zhai, Mustafa, Kolesnikov, Beyer (2023), Sigmoid Loss for Language Image Pre-Training.
        https://arxiv.org/abs/2303.15343
    """
    del y_among_x  # the same pairs again

    def of_item(similarities: Array, positives: Array, negatives: Array) -> Array:
        logits = similarities / temperature + bias
        costs = jax.nn.softplus(jnp.where(positives, -logits, logits))
        return jnp.sum(costs, where=positives | negatives)

    losses = x_among_y.over_anchors(of_item)
    return jax.vmap(terms)(losses, x_among_y.comparison.where)
