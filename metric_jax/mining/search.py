"""What miners look for in an anchor's row: its smallest value, its largest ones, the next index that a mask holds.

A row that holds NaN must not hide it: NaN counts as the best of all, so that it is mined and reaches the loss.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from metric_jax.limits import is_count

# Of a row in which a minimum is searched; measured on CPU, 64 to 256 do equally well.
ARGMIN_BLOCK = 128


def first_argmin(values: Array, where: Array) -> Array:
    """Index of the smallest value that ``where`` selects, the lowest at ties; ``len(values)`` if it selects none.

    NaN counts as the smallest, so that it is chosen and reaches the loss.
    """
    best, index = first_min(jnp.where(where, rankable(values), jnp.inf))
    return jnp.where(best == jnp.inf, len(values), index)


def first_min(candidates: Array) -> tuple[Array, Array]:
    """The smallest value of a row without NaN, and the lowest index of it.

    XLA compiles an argmin on CPU to scalar code, and a plain search for the minimum would read the row a second time.
    So the row is cut into blocks, whose minima come as cheap as the row's own, and only the first block that holds the
    minimum is searched.
    """
    length = min(ARGMIN_BLOCK, len(candidates))
    padding = -len(candidates) % length
    blocks = jnp.pad(candidates, (0, padding), constant_values=jnp.inf).reshape(-1, length)
    minima = jnp.min(blocks, axis=1)
    best = jnp.min(minima)
    block = _first(minima == best)
    return best, block * length + _first(blocks[block] == best)


def rankable(values: Array) -> Array:
    """The values with NaN as the smallest of all, and finite otherwise, so that infinity can stand for no value.

    XLA's minimum may lose a NaN on CPU, so it is never to see one.
    """
    limit = jnp.finfo(values.dtype).max
    return jnp.where(jnp.isnan(values), -jnp.inf, jnp.clip(values, -limit, limit))


def first_argmax(values: Array, where: Array) -> Array:
    """Index of the largest of the values that ``where`` selects; otherwise as `first_argmin`."""
    return first_argmin(-values, where)


def _first(mask: Array) -> Array:
    """The lowest index at which the mask holds; it must hold somewhere."""
    return jnp.min(jnp.arange(len(mask), dtype=jnp.int32), where=mask, initial=len(mask) - 1)


def next_true(mask: Array, after: Array | int) -> Array:
    """The first index behind ``after`` at which the mask holds; its length if there is none."""
    indices = jnp.arange(len(mask), dtype=jnp.int32)
    return jnp.min(indices, where=mask & (indices > after), initial=len(mask))


def largest(values: Array, where: Array, slots: int | None) -> tuple[Array, Array]:
    """The indices of the ``slots`` largest values that ``where`` selects, largest first, and which slots are filled.

    The lowest index comes first at ties. With None, slot j stands for index j and nothing is sorted.
    """
    if slots is None:
        return jnp.where(where, jnp.arange(len(where), dtype=jnp.int32), 0), where
    best, indices = lax.top_k(_rankable(values, where), min(slots, len(values)))
    found = best > -jnp.inf
    return jnp.where(found, indices, 0), found


def is_among_largest(values: Array, where: Array, count: int) -> Array:
    """A mask of the ``count`` largest values that ``where`` selects."""
    indices, found = largest(values, where, count)
    return jnp.zeros_like(where).at[jnp.where(found, indices, len(where))].set(True, mode="drop")


def _rankable(values: Array, where: Array) -> Array:
    """The values with NaN as the largest of all, and -inf, which is no longer among them, where not selected."""
    return jnp.where(where, -rankable(-values), -jnp.inf)


def one_negative_each(
    positives: Array, choose: Callable[[Array], Array], slots: int
) -> tuple[Array, Array, Array]:
    """Of each of the first ``slots`` positives, by index, the negative that ``choose(positive)`` finds.

    Returns the positives, the negatives and which slots are filled; a slot is not where ``choose`` finds nothing and
    returns the length of the row. Only as many steps run as there are positives.
    """

    def fill(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        slot, positive, p, n = state
        return (
            slot + 1,
            next_true(positives, positive),
            p.at[slot].set(positive),
            n.at[slot].set(choose(positive)),
        )

    empty = _slots_of(positives, slots, len(positives))
    start = (jnp.zeros_like(empty[0]), next_true(positives, -1), empty, empty)
    _, _, p, n = lax.while_loop(lambda s: (s[0] < slots) & (s[1] < len(positives)), fill, start)
    filled = n < len(positives)
    return jnp.where(filled, p, 0), jnp.where(filled, n, 0), filled


def hardest_triplets(
    positives: Array, negatives_of: Callable[[Array], tuple[Array, Array]], slots: int
) -> tuple[Array, Array, Array]:
    """The ``slots`` hardest triplets of an anchor, hardest first, the lowest indices at ties.

    ``negatives_of(positive)`` gives a row of how hard each negative is and which of them make a triplet. One such row
    is merged into the slots at a time, so that the square of positives and negatives is never held.

    Returns the positives, the negatives and which slots are filled.
    """
    length = len(positives)

    def merge(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        positive, hardness, p, n = state
        row = _rankable(*negatives_of(positive))
        hardness, chosen = lax.top_k(jnp.concatenate([hardness, row.astype(hardness.dtype)]), slots)
        p = jnp.concatenate([p, jnp.full_like(positives, positive, dtype=jnp.int32)])[chosen]
        n = jnp.concatenate([n, jnp.arange(length, dtype=jnp.int32)])[chosen]
        return next_true(positives, positive), hardness, p, n

    first, empty = next_true(positives, -1), _slots_of(positives, slots, 0)
    hardness = jnp.full_like(empty, -jnp.inf, dtype=negatives_of(jnp.zeros_like(first))[0].dtype)
    _, hardness, p, n = lax.while_loop(lambda s: s[0] < length, merge, (first, hardness, empty, empty))
    filled = hardness > -jnp.inf
    return jnp.where(filled, p, 0), jnp.where(filled, n, 0), filled


def _slots_of(row: Array, slots: int, value: int) -> Array:
    """``[slots]`` of an index, of the row's own type: under shard_map, a loop's state may not change its own."""
    return jnp.broadcast_to(jnp.full_like(row[0], value, dtype=jnp.int32), (slots,))


def anchor_indices(valid: Array) -> Array:
    """The index of each anchor, in the shape of what was mined for it; 0 where that is not valid."""
    anchors = jnp.arange(len(valid), dtype=jnp.int32).reshape(-1, *[1] * (valid.ndim - 1))
    return jnp.where(valid, jnp.broadcast_to(anchors, valid.shape), 0)


def slots_from(given: int | None, name: str, default: int | None) -> int | None:
    """How many slots an argument asks for, after its check; None asks for the default."""
    if given is None:
        return default
    if not is_count(given):
        raise ValueError(f"{name} must be at least 1 or None, got {given}")
    return given
