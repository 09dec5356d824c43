"""Partial FC: a softmax over so many classes that a step looks at some of them only.

Every class needs a proxy, and with millions of them the logits of a batch no longer fit. Spread over devices
(`class_axis`) each holds a share; and of these a step may take the classes of the batch and a random tenth of the
others, which trains about as well: what a row needs is its own class, and enough others to be told apart from.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from metric_jax.collectives import devices_of, gathered
from metric_jax.limits import check_count
from metric_jax.pairs import as_array, as_labels
from metric_jax.proxies import check_classes, label_type
from metric_jax.types import AxisName


class SampledClasses(NamedTuple):
    """Some of the classes, in ascending order.

    Attributes:
        rows: ``[count]``, where their proxies stand among those of the device.
        labels: ``[count]``, the classes themselves; the same, unless classes are spread over devices.
    """

    rows: Int[Array, "count"]
    labels: Int[Array, "count"]


def sample_classes(
    key: Array,
    labels: Int[Array, "batch"],
    *,
    classes: int,
    count: int,
    where: Array | None = None,
    axis_name: AxisName = None,
    class_axis: str | None = None,
) -> SampledClasses:
    """The classes of a batch and random others, to compare the batch with these alone (Partial FC).

    Give a head ``proxies[sampled.rows]`` and ``proxy_labels=sampled.labels``: the other proxies get no gradient in
    this step. With ``count`` of all classes it is the head over all.

    Args:
        key: A random key, the same on all devices.
        labels: ``[batch]`` integers from 0 to ``classes - 1``.
        classes: How many there are, on all devices together.
        count: How many to keep, on each device if ``class_axis`` spreads them: at least as many as the batch can hold.
        where: ``[batch]`` booleans: False leaves a row out.
        axis_name: Inside ``jax.shard_map``, the mesh axis (or axes) over which the batch is spread.
        class_axis: Inside ``jax.shard_map``, the mesh axis over which the classes are spread, in order.

    Returns:
        `SampledClasses`; each device of ``class_axis`` samples from its own.

    Raises:
        TypeError: Labels that are not integers.
        ValueError: Labels beyond the classes, if they are known; a count below the classes that the batch can hold, or
            above those that there are; classes that do not divide into as many for each device.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> sampled = mj.sample_classes(jax.random.key(0), jnp.array([7, 2, 7]), classes=10, count=5)
        >>> jnp.isin(jnp.array([7, 2]), sampled.rows).all(), len(sampled.rows)
        (Array(True, dtype=bool), 5)

    References:
        An et al. (2022), Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs by
        Partial FC. https://arxiv.org/abs/2203.15565
    """
    check_count("sample_classes", "classes", classes)
    check_count("sample_classes", "count", count)
    labels = as_labels(labels, "labels")
    chex.assert_rank(labels, 1, custom_message="labels must be [batch]", exception_type=ValueError)
    devices = devices_of(class_axis)
    if classes % devices:
        raise ValueError(f"{classes} classes do not divide over the {devices} devices of {class_axis}")
    mine = classes // devices
    batch = len(labels) * devices_of(axis_name)
    if not min(mine, batch) <= count <= mine:
        raise ValueError(
            f"count must be from {min(mine, batch)} to {mine}: {batch} rows may be of as many classes, and there are "
            f"{mine} on a device; got {count}"
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    where = jnp.ones(labels.shape, bool) if where is None else as_array(where, "where")
    if where.dtype != bool or where.shape != labels.shape:
        raise ValueError(
            f"where must be boolean and of the shape of labels, got {where.dtype}{list(where.shape)}"
        )
    check_classes("sample_classes", labels, classes, where)
    labels, where = gathered((labels, where), axis_name)
    start: Array | int = 0
    if class_axis is not None:
        device = lax.axis_index(class_axis)
        start, key = device * mine, jax.random.fold_in(key, device)
    position = labels.astype(label_type(labels)) - jnp.asarray(start, label_type(labels))
    is_here = where & (position >= 0) & (position < mine)
    wanted = jax.random.uniform(key, (mine,)).at[jnp.where(is_here, position, mine)].set(2.0, mode="drop")
    kept = jnp.sort(lax.top_k(wanted, count)[1])
    return SampledClasses(kept, (kept + start).astype(label_type(labels)))
