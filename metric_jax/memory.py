"""Cross-batch memory: compare a batch with the embeddings of the batches before it.

A network drifts slowly: what it made of an image some steps ago is nearly what it would make of it now. So past
embeddings are kept, and a loss meets thousands of negatives at the price of one batch:

    memory = mj.memory.create(size=8192, dim=128)
    ...
    loss(embeddings, labels, **mj.memory.references(memory), with_batch=True)
    memory = mj.memory.push(memory, embeddings, labels)

A memory is a plain pytree of arrays: part of the training state, saved with it, and spread over devices like it. When
to start using it, once the network has calmed down, and whether a slower copy of the network fills it, the caller says.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from metric_jax.distances import as_rows
from metric_jax.limits import check_count
from metric_jax.pairs import as_array, as_labels


class Memory(NamedTuple):
    """A ring of embeddings: once it is full, a new one takes the place of the oldest.

    Every array has a leading axis that devices can share: under ``jax.shard_map`` each keeps a ring of its own.

    Attributes:
        embeddings: ``[size, dim]``.
        labels: ``[size, ...]``.
        where: ``[size]``, which places are taken.
        following: ``[rings]``, the place in its ring where the next row goes.
    """

    embeddings: Float[Array, "size dim"]
    labels: Int[Array, "size *label"]
    where: Bool[Array, "size"]
    following: Int[Array, "rings"]


def create(
    size: int,
    dim: int,
    *,
    dtype: Any = jnp.float32,
    label_dtype: Any = int,
    label_shape: tuple[int, ...] = (),
    rings: int = 1,
) -> Memory:
    """An empty memory.

    Args:
        size: How many rows it holds, those of all rings together.
        dim: The dimension of the embeddings.
        dtype: The type they are kept in; a loss computes in float32 at least.
        label_dtype: The type of labels.
        label_shape: The shape of one label, if a ``match`` function takes others than integers.
        rings: On how many devices it is spread: each of these keeps ``size / rings`` rows.

    Returns:
        The memory.

    Raises:
        TypeError: A type that is not floating.
        ValueError: A size, a dimension or a number of rings that is no positive integer, or rings that do not divide
            the size.

    Example:
        >>> import metric_jax as mj
        >>> mj.memory.create(size=4, dim=2).embeddings.shape
        (4, 2)
    """
    for name, value in (("size", size), ("dim", dim), ("rings", rings)):
        check_count("memory", name, value)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"memory: dtype must be floating, as embeddings are, got {dtype}")
    if size % rings:
        raise ValueError(f"{rings} rings cannot share {size} rows evenly: make size a multiple of rings")
    return Memory(
        jnp.zeros((size, dim), dtype),
        jnp.zeros((size, *label_shape), label_dtype),
        jnp.zeros(size, bool),
        jnp.zeros(rings, jnp.int32),
    )


def push(
    memory: Memory,
    embeddings: Float[Array, "batch dim"],
    labels: Int[Array, "batch *label"],
    where: Bool[Array, "batch"] | None = None,
) -> Memory:
    """The memory with a batch put in, in place of the oldest rows; no gradient flows into it.

    Args:
        memory: A memory; under ``jax.shard_map``, the part of this device.
        embeddings: ``[batch, dim]``, floating. Of a batch larger than the memory the last rows stay.
        labels: ``[batch, ...]``.
        where: ``[batch]`` booleans: False rows are not stored.

    Returns:
        The new memory. Give the old one away (``donate_argnums``) and it is written in place.

    Raises:
        TypeError: Embeddings that are not floating, labels that the memory's type does not hold, a mask that is not
            boolean.
        ValueError: Shapes that do not match, or a memory of several rings outside ``jax.shard_map``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> memory = mj.memory.create(size=3, dim=1)
        >>> memory = mj.memory.push(memory, jnp.array([[1.0], [2.0]]), jnp.array([7, 8]))
        >>> memory = mj.memory.push(memory, jnp.array([[3.0], [4.0]]), jnp.array([7, 9]))
        >>> memory.labels
        Array([9, 8, 7], dtype=int32)
    """
    embeddings, labels = as_array(embeddings, "embeddings"), as_labels(labels, "labels")
    where = jnp.ones(embeddings.shape[:1], bool) if where is None else as_array(where, "where")
    _check(memory, as_rows(embeddings, "embeddings"), labels, where)
    return _pushed(memory, embeddings, labels, where)


def _check(memory: Memory, embeddings: Array, labels: Array, where: Array) -> None:
    """Raises unless the batch fits the memory."""
    if memory.following.size != 1:
        raise ValueError(
            f"this memory has {memory.following.size} rings: push inside jax.shard_map, where a device sees its own"
        )
    if embeddings.ndim != 2 or embeddings.shape[1] != memory.embeddings.shape[1]:
        raise ValueError(
            f"embeddings have shape {embeddings.shape} and the memory has dimension {memory.embeddings.shape[1]}: "
            "they must agree"
        )
    expected = (len(embeddings), *memory.labels.shape[1:])
    if labels.shape != expected:
        raise ValueError(f"labels have shape {labels.shape}, not {expected}: one label a row")
    if not np.can_cast(labels.dtype, memory.labels.dtype):
        raise TypeError(
            f"labels are {labels.dtype} and the memory's {memory.labels.dtype}, which may merge classes"
        )
    if where.dtype != bool:
        raise TypeError(f"where must be boolean, got {where.dtype}: pass where.astype(bool)")
    if where.shape != (len(embeddings),):
        raise ValueError(f"where has shape {where.shape} for {len(embeddings)} rows: one entry a row")


@jax.jit
def _pushed(memory: Memory, embeddings: Array, labels: Array, where: Array) -> Memory:
    size = len(memory.where)
    order = jnp.cumsum(where, dtype=jnp.int32) - 1
    stored = order[-1] + 1 if len(where) else jnp.int32(0)
    # Of more rows than there are places the last stay: no place may be written twice, or either could win.
    stays = where & (order >= stored - size)
    place = jnp.where(stays, (memory.following[0] + order) % size, size)
    put = functools.partial(_put, place)
    return lax.stop_gradient(
        Memory(
            put(memory.embeddings, embeddings),
            put(memory.labels, labels),
            put(memory.where, where),
            (memory.following + stored) % size,
        )
    )


def _put(place: Array, ring: Array, rows: Array) -> Array:
    """The ring with rows written to their places; those whose place is its size are written nowhere."""
    return ring.at[place].set(rows.astype(ring.dtype), mode="drop")


def references(memory: Memory) -> dict[str, Array]:
    """What a loss or a miner takes to compare its anchors with a memory.

    ``loss(embeddings, labels, **mj.memory.references(memory), with_batch=True)``; with ``axis_name``, the rings of all
    devices are compared with.

    Args:
        memory: A memory; under ``jax.shard_map``, the part of this device.

    Returns:
        ``references [size, dim]``, ``reference_labels [size, ...]`` and ``reference_where [size]``, through which no
        gradient flows. Places that are still empty are left out by the last.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> memory = mj.memory.create(size=3, dim=1)
        >>> memory = mj.memory.push(memory, jnp.array([[0.5], [2.0]]), jnp.array([0, 1]))
        >>> embeddings, labels = jnp.array([[0.0], [9.0]]), jnp.array([0, 2])
        >>> mj.batch_contrastive_loss(embeddings, labels, **mj.memory.references(memory))
        Array(0.0625, dtype=float32)
        >>> mj.batch_contrastive_loss(
        ...     embeddings, labels, **mj.memory.references(memory), with_batch=True, reduction="sum"
        ... )
        Array(0.25, dtype=float32)
    """
    embeddings, labels, where, _ = lax.stop_gradient(memory)
    return {"references": embeddings, "reference_labels": labels, "reference_where": where}
