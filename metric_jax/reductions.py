"""From one anchor's terms to one number, exactly, over anchors, tiles and devices.

A mean over a batch must not be a mean of means. So an anchor hands over its *terms* (pairs, triplets, or itself) as
three sums, and what is divided at the end are sums of these over all anchors of all devices.
"""

from typing import Literal, NamedTuple, get_args

import chex
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from metric_jax.collectives import sum_over
from metric_jax.types import AxisName

Reduction = Literal["mean", "mean_active", "sum", "none"]


class Terms(NamedTuple):
    """What one anchor contributes: the sum of its terms, how many there are, and how many of them are not zero.

    Counts are floats: batch-all's, of order batch³, would overflow int32. No gradient flows through them.
    """

    total: Array
    number: Array
    active: Array


# A loss of several parts (positive pairs, negative pairs) takes the mean of each on its own and adds these.
Parts = Terms | tuple[Terms, ...]


def terms(values: Float[Array, "*terms"], where: Bool[Array, "*terms"]) -> Terms:
    """The terms of one anchor: the values that ``where`` selects.

    Args:
        values: The loss of each candidate term, any shape; a scalar is one term.
        where: Which of them are terms; the same shape.

    Returns:
        Their sum, their number, and the number of those that are not zero (NaN is not zero: it must not vanish).

    Raises:
        TypeError: A mask that is not boolean.
        ValueError: Shapes that differ.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> mj.terms(jnp.array([3.0, 0.0, 7.0]), where=jnp.array([True, True, False])).total
        Array(3., dtype=float32)
    """
    values, where = jnp.asarray(values), jnp.asarray(where)
    chex.assert_equal_shape(
        (values, where),
        custom_message="terms needs one entry of where for each value: a scalar mask is for a scalar term",
        exception_type=ValueError,
    )
    if where.dtype != bool:
        raise TypeError(f"where must be boolean, got {where.dtype}")
    values = jnp.where(where, values, 0.0).astype(jnp.promote_types(values.dtype, jnp.float32))
    return Terms(
        total=jnp.sum(values),
        number=jnp.sum(where, dtype=values.dtype),
        active=jnp.sum(values != 0.0, dtype=values.dtype),
    )


def reduce(per_anchor: Parts, reduction: Reduction, axis_name: AxisName) -> Array:
    """Reduces the terms of all anchors, each leaf ``[batch]``; the results of several parts are added up.

    ``"mean"`` divides by the number of terms, ``"mean_active"`` by the number of terms that are not zero, both giving
    0 when there are none; ``"sum"`` adds the terms up; ``"none"`` keeps one value per anchor, the total of its terms.
    """
    if not isinstance(per_anchor, Terms):
        return sum(
            (reduce(part, reduction, axis_name) for part in per_anchor[1:]),
            reduce(per_anchor[0], reduction, axis_name),
        )
    if reduction == "none":
        return per_anchor.total
    summed = sum_over(Terms(*(jnp.sum(leaf) for leaf in per_anchor)), axis_name)
    if reduction == "sum":
        return summed.total
    # Terms of one's own may count by the embeddings: tiles give counts no gradient, so one tile may not either.
    counted = jnp.maximum(summed.number if reduction == "mean" else summed.active, 1.0)
    return summed.total / lax.stop_gradient(counted)


def check_reduction(reduction: str) -> None:
    """Raises a ValueError unless ``reduction`` is one of the four."""
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction must be one of {', '.join(get_args(Reduction))}, got {reduction!r}")
