"""The ranks of a query's relevant items, by counting instead of sorting.

``rank_i``, the rank of the i-th nearest relevant item, is i plus the number of irrelevant items that are not farther.
Items come sorted by label, so the relevant ones of a query are a slice, and what is left is counting.

Most metrics ask only for ranks up to a limit, and then a few items decide. The irrelevant items are cut into blocks. If
more than ``limit - i`` blocks have a minimum that is not farther than the i-th relevant item, its rank is beyond the
limit. All other relevant items are decided by the blocks whose minima are not farther than the last of them, fewer than
``limit`` in number, and only these are looked into.

A column holds the distances of one query, so that queries stand side by side in vector registers.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from metric_jax.distances import Distance

ROUNDING_UNITS = 8
BLOCK = 16  # items: smaller blocks have more minima, of larger ones more has to be looked into


class Queries(NamedTuple):
    """Prepared rows ``[queries, dim]`` and, of each, which of the sorted items are relevant.

    Attributes:
        rows: The rows.
        start: The first relevant item.
        end: The one behind the last.
        own: The item that is the query itself, and so is neither relevant nor irrelevant; -1 if none is.
        reach: The distance of each row from the center, on which its rounding depends.
    """

    rows: Float[Array, "queries dim"]
    start: Int[Array, "queries"]
    end: Int[Array, "queries"]
    own: Int[Array, "queries"]
    reach: Float[Array, "queries"]


# Distances of the relevant items of each query, ascending, infinite where there is none.
Near = Float[Array, "slots queries"]


def compare(queries: Queries, items: Array, distance: Distance) -> Array:
    """The distances ``[items, queries]``."""
    return jax.vmap(lambda row: distance.against(row, items, distance.precision), out_axes=1)(queries.rows)


def relevant(distances: Array, queries: Queries, *, slots: int, keep: int) -> Near:
    """The nearest ``keep`` of the relevant items, of which no query has more than ``slots`` here."""
    items, count = distances.shape
    place = queries.start[None] + jnp.arange(slots)[:, None]
    found = distances[jnp.minimum(place, items - 1), jnp.arange(count)[None]]
    is_one = (place < queries.end[None]) & (place != queries.own[None])
    return _smallest(jnp.where(is_one, found, jnp.inf), keep)


def merge(near: Near, more: Near) -> Near:
    """The relevant items of two parts of the gallery as those of one."""
    return _smallest(jnp.concatenate([near, more]), len(near))


def from_center(rows: Array, distance: Distance) -> Array:
    """``[rows]``: the distance of prepared rows from the center, which they have as their origin."""
    origin = jnp.zeros((1, rows.shape[1]), rows.dtype)
    return jax.vmap(lambda row: distance.against(row, origin, distance.precision)[0])(rows)


def resolved(near: Near, reach: Array) -> Array:
    """The relevant distances and as much more as rounding may make of an item that is just as far.

    The error of a product, ``|x|² + |y|² - 2 x·y``, grows with both norms, and that of y is at most ``|x| + d``.
    """
    slack = reach + (jnp.sqrt(reach) + jnp.sqrt(jnp.maximum(near, 0.0))) ** 2
    return near + ROUNDING_UNITS * jnp.finfo(near.dtype).eps * slack


def _smallest(values: Array, count: int) -> Array:
    """The smallest values of each column, ascending; infinite where there are not so many."""
    if count == 1:
        return jnp.min(values, axis=0, keepdims=True)
    values = jnp.sort(values, axis=0)[:count]
    return jnp.pad(values, ((0, count - len(values)), (0, 0)), constant_values=jnp.inf)


def irrelevant_before(
    distances: Array, queries: Queries, near: Near, *, items: int | Array, limit: int, first_is_exact: bool
) -> Int[Array, "slots queries"]:
    """How many irrelevant items are not farther than each relevant one.

    Exact where that and the relevant items up to this one are no more than ``limit``; more than that, where not.

    Args:
        distances: ``[padded items, queries]``.
        queries: The queries.
        near: Their relevant items, those of other parts of the gallery included.
        items: How many items there are without the padding.
        limit: The largest rank that matters.
        first_is_exact: Whether the rank of the nearest relevant item matters however large it is.
    """
    index = jnp.arange(len(distances))[:, None]
    is_candidate = (index < queries.start[None]) | (index >= queries.end[None])
    candidates = jnp.where(is_candidate & (index < items), distances, jnp.inf)
    bounds = jnp.where(jnp.isinf(near), -jnp.inf, resolved(near, queries.reach[None]))
    if limit * BLOCK >= len(distances):
        return _count(candidates, bounds)
    in_blocks = functools.partial(_count_in_blocks, limit=limit)
    counts = lax.platform_dependent(candidates, bounds, cpu=in_blocks, default=_count)
    return counts.at[:1].set(_count(candidates, bounds[:1])) if first_is_exact else counts


def _count(values: Array, bounds: Array) -> Array:
    """How many of the values ``[items, queries]`` of each query are at most each of its bounds ``[slots, queries]``."""

    def by_item(values: Array, bounds: Array) -> Array:
        # XLA compiles the sum below to scalar code on CPU; this is vector code, 20 times as fast.
        counts = jnp.zeros_like(bounds, jnp.int32)  # not jnp.zeros: shard_map asks for one type
        return lax.scan(lambda counts, row: (counts + (row[None] <= bounds), None), counts, values)[0]

    def at_once(values: Array, bounds: Array) -> Array:
        return jnp.sum(values[:, None] <= bounds[None], axis=0, dtype=jnp.int32)

    return lax.platform_dependent(values, bounds, cpu=by_item, default=at_once)


def _count_in_blocks(values: Array, bounds: Array, *, limit: int) -> Array:
    """The same up to a limit: see the head of the module."""
    items, count = values.shape
    columns, order = jnp.arange(count)[None], jnp.arange(1, len(bounds) + 1)[:, None]
    minima = jnp.min(values.reshape(-1, BLOCK, count), axis=1)
    may_count = _count(minima, bounds) + order <= limit
    farthest = jnp.max(bounds, axis=0, where=may_count, initial=-jnp.inf)
    is_needed = minima <= farthest[None]
    needed, place = lax.scan(lambda n, row: (n + row, n), jnp.zeros_like(minima[0], jnp.int32), is_needed)
    index = jnp.broadcast_to(jnp.arange(len(minima), dtype=jnp.int32)[:, None], minima.shape)
    blocks = jnp.zeros((limit, count), jnp.int32)
    blocks = blocks.at[jnp.where(is_needed, place, limit), columns].set(index, mode="drop")

    def look_into(slot: Array, counts: Array) -> Array:
        block = blocks[slot][None] * BLOCK + jnp.arange(BLOCK)[:, None]
        found = jnp.where(slot < needed[None], values[block, columns], jnp.inf)
        for row in found:
            counts = counts + (row[None] <= bounds)
        return counts

    counts = lax.fori_loop(0, jnp.max(needed), look_into, jnp.zeros_like(bounds, jnp.int32))
    return jnp.where(may_count, counts, items)
