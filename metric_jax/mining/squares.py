"""The farthest positive and the nearest negative of every anchor, square by square of the matrix of distances.

A row of distances to a large batch outgrows the cache, and a few rows at a time make a slow matrix product; a square
does neither. And where a batch is compared with itself, by a distance that is the same from either end, a square
serves its columns as well as its rows, so that those on the other side of the diagonal need no computing.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from metric_jax import pairs
from metric_jax.anchors import Batch, tile_size
from metric_jax.distances import center
from metric_jax.mining.search import first_min, rankable
from metric_jax.tiles import alike

SIDE = 512  # measured on CPU: 256 is slower from batch 4096 on, 1024 no faster up to 16,384


class _Block(NamedTuple):
    """Anchors or references: arrays ``[side, ...]``, or ``[blocks, side, ...]`` of all of them."""

    rows: Array
    labels: Array
    where: Array
    position: Array


class _Best(NamedTuple):
    """Of every anchor, ``[blocks, side]``: the smallest value so far, infinity if there is none, and its reference.

    The value is the distance of a negative, that of a positive with the sign changed.
    """

    value: Array
    place: Array


_Both = tuple[_Best, _Best]  # of the positives and of the negatives


def farthest_and_nearest(batch: Batch) -> tuple[Array, Array, Array]:
    """Of every anchor the index of its farthest positive, that of its nearest negative, and whether it has both.

    The lowest index wins a tie, and NaN is farther and nearer than any number. Of an anchor that lacks one, both are 0.
    """
    compared, distance = batch.comparison, batch.distance.ranking
    is_half = batch.is_own and distance.is_symmetric and batch.tile == "auto"  # other tiles are no squares
    anchors, references = _blocks(batch)
    height, width = anchors.where.shape[1], references.where.shape[1]

    def measured(of: _Block, among: _Block) -> Array:
        """Distances ``[anchors, references]``."""
        return jax.vmap(lambda row: distance.against(row, among.rows, distance.precision))(of.rows)

    def masks(of: _Block, among: _Block) -> tuple[Array, Array]:
        """Positives and negatives, ``[anchors, references]``."""
        others = compared._replace(reference_labels=among.labels, reference_where=among.where)

        def of_anchor(label: Array, where: Array, position: Array) -> tuple[Array, Array]:
            here = position - among.position[0]  # where the anchor stands in this block, if it does
            return pairs.of_anchor(here, label, where, here, None, others, batch.match)

        return jax.vmap(of_anchor)(of.labels, of.where, of.position)

    def after_square(i: Array, j: Array, best: _Both, *, with_columns: bool) -> _Both:
        of, among = _entry(anchors, i), _entry(references, j)
        distances = lax.optimization_barrier(
            measured(of, among)
        )  # or each of the searches computes them anew
        best = _updated(best, i, distances, masks(of, among), j * width, axis=1)
        if not with_columns:
            return best
        # The columns are the anchors now: a match need not be the same from either end.
        of_columns = jax.tree.map(jnp.transpose, masks(among, of))
        return _updated(best, j, distances, of_columns, i * height, axis=0)

    def after_row(i: Array, best: _Both) -> _Both:
        # A block meets its references in their order, so that the lowest of those that tie comes first: as columns
        # of the rows before its own, on the diagonal, in its row.
        if is_half:
            best = after_square(i, i, best, with_columns=False)
        square = functools.partial(after_square, i, with_columns=is_half)
        return lax.fori_loop(i + 1 if is_half else 0, len(references.rows), square, best)

    first = _entry(anchors, 0), _entry(references, 0)
    nothing = _nothing(anchors, measured(*first), masks(*first))
    if len(anchors.rows) == len(references.rows) == 1:
        positive, negative = after_square(jnp.int32(0), jnp.int32(0), nothing, with_columns=False)
    else:
        positive, negative = lax.fori_loop(0, len(anchors.rows), after_row, nothing)
    has_both = (positive.value < jnp.inf) & (negative.value < jnp.inf)
    found = (jnp.where(has_both, positive.place, 0), jnp.where(has_both, negative.place, 0), has_both)
    return jax.tree.map(lambda x: x.reshape(-1)[: len(compared.anchors)], found)


def _blocks(batch: Batch) -> tuple[_Block, _Block]:
    """All anchors and all references, prepared for their distances, in blocks of equal length."""
    compared, distance = batch.comparison, batch.distance.ranking
    count, others = len(compared.anchors), len(compared.references)
    if batch.tile == "auto":
        side = SIDE if distance.has_product else max(1, math.isqrt(SIDE**2 // compared.anchors.shape[1]))
        height, width = (-(-n // -(-n // side)) for n in (count, others))
    else:
        height, width = min(count, tile_size(count, others, batch.tile)), others
    middle = center(compared.references, compared.reference_where)
    anchors = _Block(
        distance.prepare(compared.anchors, middle), compared.labels, compared.where, compared.position
    )
    references = _Block(
        distance.prepare(compared.references, middle),
        compared.reference_labels,
        compared.reference_where,
        jnp.arange(others),
    )
    return alike((_cut(anchors, height), _cut(references, width)))


def _cut(side: _Block, length: int) -> _Block:
    """``[n, ...]`` as ``[blocks, length, ...]``, the last one filled up with what does not count."""

    def blocks(x: Array) -> Array:
        padding = [(0, -len(x) % length)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(-1, length, *x.shape[1:])

    return jax.tree.map(blocks, side)


def _entry(blocks: _Block, index: Array | int) -> _Block:
    return jax.tree.map(lambda x: x[index], blocks)


def _nothing(anchors: _Block, distances: Array, masks: tuple[Array, Array]) -> _Both:
    """What is found before the first square: of the type of its distances, and varying over devices as it does."""
    value = jnp.full(anchors.where.shape, jnp.inf, distances.dtype)
    none = _Best(value, jnp.zeros_like(value, jnp.int32))
    return alike(((none, none), anchors, distances, masks))[0]


def _updated(
    best: _Both, block: Array, distances: Array, masks: tuple[Array, Array], first: Array, *, axis: int
) -> _Both:
    """The best of a block of anchors, given a square whose references, from that index on, lie along an axis."""
    (positive, negative), (positives, negatives) = best, masks
    return (
        _better(positive, block, -distances, positives, first, axis),
        _better(negative, block, distances, negatives, first, axis),
    )


def _better(best: _Best, block: Array, values: Array, where: Array, first: Array, axis: int) -> _Best:
    candidates = jnp.where(where, rankable(values), jnp.inf)
    if axis == 1:
        value, place = jax.vmap(first_min)(candidates)
    else:  # whose blocks would be columns, a search of which reads scattered memory
        value = jnp.min(candidates, axis=0)
        rows = lax.broadcasted_iota(jnp.int32, candidates.shape, 0)
        place = jnp.min(rows, axis=0, where=candidates == value[None], initial=len(candidates))
    place += jnp.asarray(first, jnp.int32)
    is_better = value < best.value[block]
    return _Best(
        best.value.at[block].set(jnp.where(is_better, value, best.value[block])),
        best.place.at[block].set(jnp.where(is_better, place, best.place[block])),
    )
