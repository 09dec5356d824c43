"""Who is compared with whom: anchors, their references, and which of these are positives and negatives."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jaxtyping import Array

from metric_jax.collectives import gathered, places
from metric_jax.distances import as_rows, check_same_dim
from metric_jax.types import AxisName, Match, Pairs, Triplets

NOT_THERE = -1

Sided = tuple[Array, Array, Array]  # rows, their labels, which of them count


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
        pairs: The only pairs that count, each array ``[pairs]`` or ``[batch, slots]``; None where labels say who is
            paired.
    """

    anchors: Array
    labels: Array
    where: Array
    position: Array
    references: Array
    reference_labels: Array
    reference_where: Array
    pairs: Pairs | None = None


def compare(
    embeddings: Array,
    labels: Array | None,
    *,
    references: Array | None = None,
    reference_labels: Array | None = None,
    reference_where: Array | None = None,
    with_batch: bool = False,
    where: Array | None = None,
    match: Match | None = None,
    pairs: Pairs | None = None,
    axis_name: AxisName = None,
) -> Comparison:
    """Checks the inputs and lines anchors up with their references, gathered over the devices of ``axis_name``."""
    if labels is None:
        if pairs is None:
            raise TypeError(
                "labels must be an array of integers, got None: only a loss that is given pairs= needs none"
            )
        like = jnp.zeros(0, jnp.int32) if reference_labels is None else reference_labels
        labels = jnp.zeros((*embeddings.shape[:1], *like.shape[1:]), like.dtype)
    if pairs is not None and references is not None and reference_labels is None:
        reference_labels = jnp.zeros((*references.shape[:1], *labels.shape[1:]), labels.dtype)
    anchors, where = checked_rows(embeddings, where, "embeddings", "where")
    _check_labels(labels, match, anchors, "labels", "embeddings")
    own = (anchors, labels, where)
    position = places(len(anchors), axis_name)
    if references is None:
        if reference_labels is not None or reference_where is not None or with_batch:
            raise ValueError(
                "reference_labels, reference_where and with_batch go with references: pass references too"
            )
        return Comparison(anchors, labels, where, position, *gathered(own, axis_name), pairs=pairs)
    if reference_labels is None:
        raise ValueError("references need their labels: pass reference_labels too")
    rows, reference_where = checked_rows(references, reference_where, "references", "reference_where")
    _check_labels(reference_labels, match, rows, "reference_labels", "references")
    check_same_dim(anchors, rows, "embeddings", "references")
    if match is None and _is_signed(labels) != _is_signed(reference_labels):
        raise TypeError(
            f"labels are {labels.dtype} and reference_labels {reference_labels.dtype}: make them one type, or a "
            "negative class and a large one may become equal"
        )
    others = gathered((rows, reference_labels, reference_where), axis_name)
    if not with_batch:
        return Comparison(anchors, labels, where, jnp.full_like(position, NOT_THERE), *others, pairs=pairs)
    both: Sided = jax.tree.map(lambda *x: jnp.concatenate(x), gathered(own, axis_name), others)
    return Comparison(anchors, labels, where, position, *both, pairs=pairs)


def _is_signed(labels: Array) -> bool:
    return jnp.issubdtype(labels.dtype, jnp.signedinteger)


def of_anchor(
    index: Array,
    label: Array,
    where: Array,
    position: Array,
    pairs: Pairs | None,
    comparison: Comparison,
    match: Match | None,
) -> tuple[Array, Array]:
    """Which references are positives and which are negatives of one anchor: two masks ``[references]``.

    An anchor is neither to itself, and an anchor that does not count has none of either. Given ``pairs``, all of them
    or the anchor's own, no others count.
    """
    count = len(comparison.reference_where)
    candidates = comparison.reference_where & (jnp.arange(count) != position) & where
    if pairs is not None:
        same, other = _explicit(index, pairs, count)
        return same & candidates, other & ~same & candidates
    same = jax.vmap(match or same_label, in_axes=(None, 0))(label, comparison.reference_labels)
    if same.dtype != bool or same.ndim != 1:
        raise TypeError(
            f"match must return one boolean for two labels, got {same.dtype}{list(same.shape[1:])}"
        )
    return same & candidates, ~same & candidates


def _explicit(index: Array, pairs: Pairs, count: int) -> tuple[Array, Array]:
    """The masks ``[count]`` of the positives and negatives that the pairs give the anchor of that index."""
    none = jnp.zeros(count, bool)
    of_index = pairs.valid & (pairs.anchor == index)

    def marked(which: Array) -> Array:
        is_one = of_index & which & (pairs.reference >= 0)
        return none.at[jnp.where(is_one, pairs.reference, count)].set(True, mode="drop")

    return marked(pairs.is_positive), marked(~pairs.is_positive)


def as_pairs(pairs: Any, name: str) -> Pairs:
    """Pairs, ``[pairs]`` or ``[batch, slots]``; of triplets, those of the anchor with its positive and its negative."""
    if not isinstance(pairs, Pairs | Triplets):
        raise TypeError(f"{name} must be mj.Pairs or mj.Triplets, got {type(pairs).__name__}")
    columns = _columns(pairs, name)
    if columns["anchor"].ndim != 2:
        columns = {key: column.reshape(-1) for key, column in columns.items()}
    if isinstance(pairs, Pairs):
        return Pairs(**columns)

    def both(first: Array, second: Array) -> Array:
        return jnp.concatenate([first, second], axis=-1)

    anchor, valid = columns["anchor"], columns["valid"]
    is_positive = both(jnp.ones_like(valid), jnp.zeros_like(valid))
    reference = both(columns["positive"], columns["negative"])
    return Pairs(both(anchor, anchor), reference, is_positive, both(valid, valid))


def as_triplets(triplets: Any, name: str) -> Triplets:
    """Triplets of arrays of one shape."""
    if not isinstance(triplets, Triplets):
        raise TypeError(f"{name} must be mj.Triplets, got {type(triplets).__name__}")
    return Triplets(**_columns(triplets, name))


def _columns(tuples: Pairs | Triplets, name: str) -> dict[str, Array]:
    """The columns of pairs or triplets as arrays, after every check of their types and shapes."""
    masks = ("is_positive", "valid")

    def column_of(key: str, value: Any) -> Array:
        column = as_array(value, f"{name}.{key}")
        is_empty_list = isinstance(value, list | tuple) and column.size == 0  # which has no type of its own
        return column.astype(bool if key in masks else int) if is_empty_list else column

    columns = {key: column_of(key, value) for key, value in tuples._asdict().items()}
    for key, column in columns.items():
        is_index = key not in masks
        if not (jnp.issubdtype(column.dtype, jnp.integer) if is_index else column.dtype == bool):
            raise TypeError(
                f"{name}.{key} must be {'integers' if is_index else 'boolean'}, got {column.dtype}"
            )
        if column.shape != columns["anchor"].shape:
            raise ValueError(
                f"{name}.{key} has shape {column.shape} and {name}.anchor {columns['anchor'].shape}: one of each a pair"
            )
    return columns


def check_pairs(
    *,
    pairs: Pairs | None,
    embeddings: Array,
    references: Array | None,
    with_batch: bool,
    axis_name: AxisName,
    **_: Any,
) -> None:
    """Raises a ValueError if pairs ``[batch, slots]`` are not, or known indices are not those of rows."""
    if pairs is None or embeddings.ndim == 0:
        return
    if pairs.anchor.ndim == 2:
        message = (
            "pairs of two axes hold anchor i's in row i: flatten others with jax.tree.map(jnp.ravel, pairs)"
        )
        if len(pairs.anchor) != len(embeddings):
            raise ValueError(f"{message}; they have {len(pairs.anchor)} rows for {len(embeddings)} anchors")
        if outside(pairs.anchor - jnp.arange(len(embeddings))[:, None], pairs.valid, 1).size:
            raise ValueError(message)
    if axis_name is not None:
        return  # references are those of all devices
    others = [references] if references is not None else [embeddings]
    if with_batch:
        others.append(embeddings)
    check_indices(pairs.anchor, pairs.valid, len(embeddings), "pairs.anchor")
    check_indices(pairs.reference, pairs.valid, sum(len(x) for x in others), "pairs.reference")
    _check_signs(pairs)


def _check_signs(pairs: Pairs) -> None:
    """Raises a ValueError if a known pair is both a positive and a negative one."""
    if not _are_known(*pairs):
        return
    anchor, reference, is_positive, valid = (np.asarray(x).ravel() for x in pairs)
    known = np.stack([anchor, reference], axis=1)
    both = [np.unique(known[valid & which], axis=0) for which in (is_positive, ~is_positive)]
    found, times = np.unique(np.concatenate(both), axis=0, return_counts=True)
    for i, j in found[times > 1][:1].tolist():
        raise ValueError(
            f"pairs hold anchor {i} with reference {j} as a positive and as a negative, and it can be one "
            "of them: batch_triplet_loss takes triplets as they are"
        )


def check_indices(indices: Array, valid: Array, count: int, name: str) -> None:
    """Raises a ValueError if a valid index is not within ``[0, count)``; of traced ones through checkify, as limits."""
    if isinstance(indices, jax.core.Tracer) or isinstance(valid, jax.core.Tracer):
        is_outside = valid & ((indices < 0) | (indices >= count))
        checkify.debug_check(~is_outside.any(), f"{name} holds an index that is not of one of {count} rows")
    for index in outside(indices, valid, count)[:1]:
        raise ValueError(f"{name} holds {index}, and there are only {count} rows to index")


def outside(indices: Array, valid: Array, count: int) -> np.ndarray:
    """The valid indices that are known and not within ``[0, count)``; none of an array that is traced or elsewhere."""
    if not _are_known(indices, valid):
        return np.zeros(0, int)
    used = np.asarray(indices)[np.asarray(valid)]
    return used[(used < 0) | (used >= count)]


def _are_known(*arrays: Array) -> bool:
    """Whether the numbers are here: not traced, nor on devices of another process."""
    return not any(isinstance(x, jax.core.Tracer) or not x.is_fully_addressable for x in arrays)


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
    if host.dtype.kind == "f" and (narrow := jax.dtypes.canonicalize_dtype(host.dtype)) != host.dtype:
        whole = host[np.floor(host) == host]
        with np.errstate(over="ignore"):
            merged = len(np.unique(whole.astype(narrow))) < len(np.unique(whole))
        if merged:
            raise ValueError(
                f"{name} hold whole numbers that {narrow} cannot tell apart: subtract the smallest, or number classes "
                f"with np.unique({name}, return_inverse=True)[1]"
            )
    return jnp.asarray(host)


def checked_rows(rows: Array, where: Array | None, name: str, where_name: str) -> tuple[Array, Array]:
    """The rows in float32 at least and zero where masked out, and the mask, after every check of the two."""
    chex.assert_rank(rows, 2, custom_message=f"{name} must be [rows, dim]", exception_type=ValueError)
    if len(rows) == 0:
        raise ValueError(f"{name} are empty: a batch needs at least one row")
    rows = as_rows(rows, name)
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


def check_views(x: Array, y: Array) -> None:
    """Raises a ValueError unless x and y are two views of the same items."""
    chex.assert_rank(x, 2, custom_message="x must be [batch, dim]", exception_type=ValueError)
    chex.assert_equal_shape(
        (x, y), custom_message="x and y are two views of the same items", exception_type=ValueError
    )


def _check_labels(labels: Array, match: Match | None, rows: Array, name: str, rows_name: str) -> None:
    """Raises unless there is one label a row, an integer if no ``match`` says what else it may be."""
    if match is None:
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise TypeError(
                f"{name} must be integers, got {labels.dtype}; other labels need a match= function"
            )
        chex.assert_rank(
            labels,
            1,
            custom_message=f"{name} must be [rows]; others need match=",
            exception_type=ValueError,
        )
    if labels.shape[:1] != rows.shape[:1]:
        raise ValueError(
            f"{name} has shape {labels.shape} for {len(rows)} rows of {rows_name}: one label a row"
        )
