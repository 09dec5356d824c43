"""Who is compared with whom: anchors, their references, and which of these are positives and negatives."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from metric_jax.distances import as_rows, check_same_dim
from metric_jax.types import AxisName, Match

NOT_THERE = -1


def same_label(a: Array, b: Array) -> Array:
    """The default match: two labels are positives of each other when they are equal."""
    return a == b


class Comparison(NamedTuple):
    """A batch of anchors, and the references that each of them is compared with.

    Rows that the masks leave out are zero here, so that nothing in them, not even NaN, reaches a value or a gradient.

    Attributes:
        anchors: ``[batch, dim]``.
        labels: ``[batch, ...]``.
        where: ``[batch]``, which anchors count.
        position: ``[batch]``, where each anchor stands among the references; ``NOT_THERE`` if they are something else.
        references: ``[references, dim]``.
        reference_labels: ``[references, ...]``.
        reference_where: ``[references]``, which references count.
    """

    anchors: Array
    labels: Array
    where: Array
    position: Array
    references: Array
    reference_labels: Array
    reference_where: Array


def compare(
    embeddings: Array,
    labels: Array,
    *,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_where: Array | None = None,
    where: Array | None = None,
    match: Match | None = None,
    axis_name: AxisName = None,
) -> Comparison:
    """Checks the inputs and lines anchors up with their references, gathered over the devices of ``axis_name``."""
    anchors, where = _checked_rows(embeddings, labels, where, match, "embeddings", "labels", "where")
    position = jnp.arange(len(anchors))
    if references is None:
        if reference_labels is not None or reference_where is not None:
            raise ValueError("reference_labels and reference_where describe references: pass references too")
        compared = (anchors, labels, where)
        if axis_name is not None:
            position = position + lax.axis_index(axis_name) * len(anchors)
    else:
        if reference_labels is None:
            raise ValueError("references need their labels: pass reference_labels too")
        rows, reference_where = _checked_rows(
            references,
            reference_labels,
            reference_where,
            match,
            "references",
            "reference_labels",
            "reference_where",
        )
        check_same_dim(anchors, rows, "embeddings", "references")
        if match is None and _is_signed(labels) != _is_signed(reference_labels):
            raise TypeError(
                f"labels are {labels.dtype} and reference_labels {reference_labels.dtype}: make them one type, or a "
                "negative class and a large one may become equal"
            )
        compared = (rows, reference_labels, reference_where)
        position = jnp.full_like(position, NOT_THERE)
    if axis_name is not None:
        compared = jax.tree.map(lambda x: lax.all_gather(x, axis_name, tiled=True), compared)
    return Comparison(anchors, labels, where, position, *compared)


def _is_signed(labels: Array) -> bool:
    return jnp.issubdtype(labels.dtype, jnp.signedinteger)


def of_anchor(
    label: Array, where: Array, position: Array, comparison: Comparison, match: Match | None
) -> tuple[Array, Array]:
    """Which references are positives and which are negatives of one anchor: two masks ``[references]``.

    An anchor is neither to itself, and an anchor that does not count has none of either.
    """
    same = jax.vmap(match or same_label, in_axes=(None, 0))(label, comparison.reference_labels)
    if same.dtype != bool or same.ndim != 1:
        raise TypeError(
            f"match must return one boolean for two labels, got {same.dtype}{list(same.shape[1:])}"
        )
    candidates = comparison.reference_where & (jnp.arange(len(same)) != position) & where
    return same & candidates, ~same & candidates


def as_array(x: Any, name: str) -> Array:
    """An array, or what can be made one, before jit takes a list for a pytree of scalars."""
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be an array, got {type(x).__name__}") from None


def as_labels(labels: Any, name: str) -> Array:
    """Labels as an array, before jit silently cuts 64-bit integers down to 32 bits and merges classes."""
    if isinstance(labels, jax.Array):
        return labels
    host = np.asarray(labels)
    if host.dtype.kind not in "biufV":
        raise TypeError(
            f"{name} must be an array of integers, got {host.dtype} ({type(labels).__name__}): number the classes with "
            f"np.unique({name}, return_inverse=True)[1]"
        )
    if host.dtype.kind in "iu" and host.size:
        kept = jnp.iinfo(jax.dtypes.canonicalize_dtype(host.dtype))
        if host.min() < kept.min or host.max() > kept.max:
            raise ValueError(
                f"{name} do not fit {kept.dtype}: number the classes with np.unique({name}, return_inverse=True)[1]"
            )
    return jnp.asarray(host)


def _checked_rows(
    rows: Array,
    labels: Array,
    where: Array | None,
    match: Match | None,
    name: str,
    labels_name: str,
    where_name: str,
) -> tuple[Array, Array]:
    """The rows in float32 at least and zero where masked out, and the mask, after every check of the three."""
    chex.assert_rank(rows, 2, custom_message=f"{name} must be [rows, dim]", exception_type=ValueError)
    if len(rows) == 0:
        raise ValueError(f"{name} are empty: a batch needs at least one row")
    rows = as_rows(rows, name)
    if match is None:
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise TypeError(
                f"{labels_name} must be integers, got {labels.dtype}; other labels need a match= function"
            )
        chex.assert_rank(
            labels,
            1,
            custom_message=f"{labels_name} must be [rows]; others need match=",
            exception_type=ValueError,
        )
    if labels.shape[:1] != rows.shape[:1]:
        raise ValueError(
            f"{labels_name} has shape {labels.shape} for {len(rows)} rows of {name}: one label a row"
        )
    if where is None:
        return rows, jnp.ones(len(rows), bool)
    if where.dtype != bool:
        raise TypeError(f"{where_name} must be boolean, got {where.dtype}: pass {where_name}.astype(bool)")
    chex.assert_shape(
        where,
        (len(rows),),
        custom_message=f"{where_name} needs one entry a row of {name}",
        exception_type=ValueError,
    )
    return jnp.where(where[:, None], rows, 0.0), where
