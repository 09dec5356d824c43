"""The ranks of a query's relevant items, by counting instead of sorting.

``rank_i``, the rank of the i-th nearest relevant item, is i plus the number of irrelevant items that are not farther:
all items that are not farther, less the relevant ones among them. Items come sorted by label, so the relevant ones of a
query are a slice, and what is left is counting.

Items are ordered by a score, a distance less what is the same for all items of a query; where the distance has factors,
scores are one bare matrix product.

Most metrics ask only for ranks up to a limit, and then a few items decide. The items are cut into blocks, and of each
block the minimum is taken. Every block whose minimum is not farther than the i-th relevant item holds an item that is
not farther, and all but a few of these blocks hold none that is relevant: so if there are many, the rank is beyond the
limit. The last relevant item for which there are not decides which blocks are looked into, and only those are.

A column holds the scores of one query, so that queries stand side by side in vector registers.
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
INSERTED = 200  # numbers to keep of a column: of more, sorting is faster than insertion
COMPARED = 128  # bounds: among more, looking up a value's place is faster than comparing it with each


class Queries(NamedTuple):
    """Rows and, of each, which of the sorted items are relevant.

    Attributes:
        rows: The prepared rows; their left factors where the distance has some.
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


# Scores of the relevant items of each query, ascending, infinite where there is none.
Near = Float[Array, "slots queries"]


def from_center(rows: Array, distance: Distance) -> Array:
    """``[rows]``: the distance of prepared rows from the center, which they have as their origin."""
    origin = jnp.zeros((1, rows.shape[1]), rows.dtype)
    return jax.vmap(lambda row: distance.against(row, origin, distance.precision)[0])(rows)


def score(queries: Queries, items: Array, count: int | Array, distance: Distance) -> Array:
    """The scores ``[padded items, queries]``, those of the padding infinite: it is part of the last block."""
    if distance.factors is None:
        found = jax.vmap(lambda row: distance.against(row, items, distance.precision), out_axes=1)(
            queries.rows
        )
        found = found - queries.reach[None]
    else:
        found = lax.dot_general(items, queries.rows, (((1,), (1,)), ((), ())), precision=distance.precision)
    is_item = jnp.arange(len(items) - BLOCK, len(items)) < count
    return found.at[-BLOCK:].set(jnp.where(is_item[:, None], found[-BLOCK:], jnp.inf))


def relevant(scores: Array, queries: Queries, *, slots: int, keep: int) -> Near:
    """The nearest ``keep`` of the relevant items, of which no query has more than ``slots`` here, itself included."""
    place, of_class = _of_class(scores, queries, slots)
    return _smallest(jnp.where(place == queries.own[None], jnp.inf, of_class), keep)


def _of_class(scores: Array, queries: Queries, slots: int) -> tuple[Array, Array]:
    """``[slots, queries]``: the places of a query's class, itself included, and the scores; infinite beyond its end."""
    items, count = scores.shape
    place = queries.start[None] + jnp.arange(slots)[:, None]
    found = scores[jnp.minimum(place, items - 1), jnp.arange(count)[None]]
    return place, jnp.where(place < queries.end[None], found, jnp.inf)


def merge(near: Near, more: Near) -> Near:
    """The relevant items of two parts of the gallery as those of one."""
    return _smallest(jnp.concatenate([near, more]), len(near))


def resolved(near: Near, reach: Array) -> Array:
    """The relevant scores and as much more as rounding may make of an item that is just as far.

    The error of a product, ``|x|² + |y|² - 2 x·y``, grows with both norms, and that of y is at most ``|x| + d``.
    """
    slack = reach + (jnp.sqrt(reach) + jnp.sqrt(jnp.maximum(near + reach, 0.0))) ** 2
    return near + ROUNDING_UNITS * jnp.finfo(near.dtype).eps * slack


def _smallest(values: Array, count: int) -> Array:
    """The smallest values of each column, ascending; infinite where there are not so many."""
    if count == 1:
        return jnp.min(values, axis=0, keepdims=True)
    values = jnp.pad(values, ((0, max(0, count - len(values))), (0, 0)), constant_values=jnp.inf)

    def by_insertion(values: Array) -> Array:
        # XLA sorts columns one number at a time on CPU; this is vector code, 4 times as fast for a class of 100.
        def insert(found: Array, row: Array) -> tuple[Array, None]:
            before = jnp.concatenate([jnp.full_like(found[:1], -jnp.inf), found[:-1]])
            return jnp.minimum(found, jnp.maximum(before, row[None])), None

        return lax.scan(insert, jnp.full_like(values[:count], jnp.inf), values)[0]

    def by_sorting_bits(values: Array) -> Array:
        # XLA sorts integers 4 times as fast on CPU, for it orders floats with NaN in mind.
        return _other_bits(jnp.sort(_other_bits(values), axis=0)[:count])

    def by_sorting(values: Array) -> Array:
        return jnp.sort(values, axis=0)[:count]

    on_cpu = by_insertion if count <= INSERTED else by_sorting_bits
    return lax.platform_dependent(values, cpu=on_cpu, default=by_sorting)


def _other_bits(x: Array) -> Array:
    """Floats as integers of the same order, and these as the floats that they were; NaN is beyond infinity."""
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    bits = lax.bitcast_convert_type(x, f"int{8 * x.dtype.itemsize}") if floating else x
    bits = jnp.where(bits < 0, bits ^ jnp.iinfo(bits.dtype).max, bits)
    return bits if floating else lax.bitcast_convert_type(bits, f"float{8 * x.dtype.itemsize}")


def irrelevant_before(
    scores: Array, queries: Queries, near: Near, *, slots: int, limit: int, first_is_exact: bool
) -> Int[Array, "slots queries"]:
    """How many irrelevant items are not farther than each relevant one.

    Exact where that and the relevant items up to this one are no more than ``limit``; more than that, where not.

    Args:
        scores: ``[padded items, queries]``.
        queries: The queries.
        near: Their relevant items, those of other parts of the gallery included.
        slots: The largest number of items of one class here.
        limit: The largest rank that matters.
        first_is_exact: Whether the rank of the nearest relevant item matters however large it is.
    """
    bounds = resolved(near, queries.reach[None])
    of_class = _count(_of_class(scores, queries, slots)[1], bounds)
    mixed = (slots - 2) // BLOCK + 2  # so many blocks may hold items of the class
    if (limit + mixed) * BLOCK >= len(scores):
        return _count(scores, bounds) - of_class
    in_blocks = functools.partial(_count_in_blocks, limit=limit + mixed)
    counts = lax.platform_dependent(scores, bounds, cpu=in_blocks, default=_count)
    if first_is_exact:
        counts = counts.at[:1].set(_count(scores, bounds[:1]))
    return counts - of_class


def _count(values: Array, bounds: Array) -> Array:
    """How many of the values ``[items, queries]`` of each query are at most each of its bounds ``[slots, queries]``.

    The bounds of a query ascend.
    """

    def by_item(values: Array, bounds: Array) -> Array:
        # XLA compiles the sum below to scalar code on CPU; this is vector code, 20 times as fast.
        counts = jnp.zeros_like(bounds, jnp.int32)  # not jnp.zeros: shard_map asks for one type
        return lax.scan(lambda counts, row: (counts + (row[None] <= bounds), None), counts, values)[0]

    def by_place(values: Array, bounds: Array) -> Array:
        def of_query(values: Array, bounds: Array) -> Array:
            place = jnp.searchsorted(bounds, values, method="scan")  # of the first bound that is as large
            return jnp.cumsum(jnp.zeros(len(bounds) + 1, jnp.int32).at[place].add(1))[:-1]

        return jax.vmap(of_query, in_axes=1, out_axes=1)(values, bounds)

    def at_once(values: Array, bounds: Array) -> Array:
        return jnp.sum(values[:, None] <= bounds[None], axis=0, dtype=jnp.int32)

    on_cpu = by_item if len(bounds) <= COMPARED else by_place
    return lax.platform_dependent(values, bounds, cpu=on_cpu, default=at_once)


def _count_in_blocks(values: Array, bounds: Array, *, limit: int) -> Array:
    """The same for each bound, of which the i-th has at most ``limit - i`` blocks up to it; else their number."""
    items, count = values.shape
    columns, blocks = jnp.arange(count)[None], items // BLOCK
    minima = jnp.min(values.reshape(blocks, BLOCK, count), axis=1)
    is_decided = jnp.arange(len(bounds))[:, None] < _last_within(minima, bounds, limit)
    farthest = jnp.max(bounds, axis=0, where=is_decided, initial=-jnp.inf)
    needed = _places(minima <= farthest[None], limit)

    def look_into(slot: Array, counts: Array) -> Array:
        block = needed[slot][None]
        found = values[jnp.minimum(block, blocks - 1) * BLOCK + jnp.arange(BLOCK)[:, None], columns]
        for row in jnp.where(block < blocks, found, jnp.inf):
            counts = counts + (row[None] <= bounds)
        return counts

    most = jnp.max(jnp.sum(needed < blocks, axis=0))
    counts = lax.fori_loop(0, most, look_into, jnp.zeros_like(bounds, jnp.int32))
    return jnp.where(is_decided, counts, items)


def _last_within(minima: Array, bounds: Array, limit: int) -> Array:
    """``[1, queries]``: how many of the ascending bounds have few minima up to them, the i-th ``limit - i`` at most."""
    found = jnp.zeros_like(bounds[:1], jnp.int32)
    for bit in reversed(range(len(bounds).bit_length())):
        more = found + 2**bit
        bound = jnp.take_along_axis(bounds, jnp.minimum(more, len(bounds)) - 1, axis=0)
        is_within = (more <= len(bounds)) & (_count(minima, bound) + more <= limit)
        found = jnp.where(is_within, more, found)
    return found


def _places(mask: Array, count: int) -> Array:
    """``[count, queries]``: where each column of the mask holds, ascending; its length where it does no more."""
    start = jnp.zeros_like(mask[0], jnp.int32)
    number = lax.scan(lambda before, row: (before + row,) * 2, start, mask)[1]
    search = functools.partial(jnp.searchsorted, method="scan")
    return jax.vmap(search, in_axes=(1, None), out_axes=1)(number, jnp.arange(1, count + 1))
