"""Sums over many items, tile by tile, with value and gradient from one pass.

Reverse mode goes through a loop of tiles twice: once for the value, and once more for the gradient, since no tile is
kept. But the gradient of a sum is the sum of the gradients: each tile can be differentiated while it is at hand, and
all that is kept are gradients, as small as what they are gradients of. For a loss that saves one matrix product of four
and every second exponential.

Two things are given up. The caller's cotangent must be one number for the whole sum, so this is for means and sums, and
not for one value per anchor. And it is differentiable in reverse mode alone: `jax.hessian` and `jax.jvp` want the
batch in one tile, where nothing of this is used.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def alike(tree: Any) -> Any:
    """The tree with its arrays, inside ``shard_map``, all as varying over devices as any of them.

    Then what is computed of them is so too, and no gradient is summed over devices before its time.
    """
    arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
    nowhere = functools.reduce(jnp.logical_or, (jnp.zeros_like(x, bool, shape=()) for x in arrays))
    return jax.tree.map(
        lambda x: jnp.where(nowhere, jnp.zeros_like(x), x) if isinstance(x, jax.Array) else x, tree
    )


def opened(fn: Callable[[Any], Any], example: Any) -> tuple[Callable[[list[Any], Any], Any], list[Any]]:
    """``(of, closure)`` with ``fn(x) = of(closure, x)`` for x like the example: what fn closes over, as an argument."""
    traced, shape = jax.make_jaxpr(fn, return_shape=True)(example)

    def of(closure: list[Any], x: Any) -> Any:
        found = jax.core.eval_jaxpr(traced.jaxpr, closure, *jax.tree.leaves(x))
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return of, list(traced.consts)


def split(tree: Any) -> tuple[Any, Any]:
    """The tree's floating arrays and the others, each with None in the place of the rest."""
    is_float = jax.tree.map(lambda x: jnp.issubdtype(jnp.result_type(x), jnp.inexact), tree)
    floats = jax.tree.map(lambda x, has: x if has else None, tree, is_float)
    return floats, jax.tree.map(lambda x, has: None if has else x, tree, is_float)


def join(floats: Any, others: Any) -> Any:
    """The tree that was `split`."""
    return jax.tree.map(lambda a, b: b if a is None else a, floats, others, is_leaf=lambda x: x is None)


def sum_in_tiles(fn: Callable[[Any], tuple[Array, Any]], items: Any, tile: int) -> tuple[Array, Any]:
    """``(Σ_i value_i, Σ_i counts_i)`` of ``fn(items[i]) = (value_i, counts_i)``; counts have no gradient.

    Args:
        fn: What to add up. It may close over traced arrays: these have their gradient too.
        items: A pytree of arrays ``[items, ...]``. Inside ``shard_map`` these and what fn closes over are `alike`.
        tile: How many items to take at a time.

    Returns:
        The sums, as fn returns them.
    """
    of_item, shared = opened(fn, jax.tree.map(lambda x: x[0], items))

    def of_tile(shared: list[Any], tile_items: Any) -> tuple[Array, Any]:
        found = jax.vmap(functools.partial(of_item, shared))(tile_items)
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), found)

    return _sum(of_tile, tile, shared, items)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sum(of_tile: Callable[..., Any], tile: int, shared: list[Any], items: Any) -> Any:
    return _over_tiles(lambda tile_items: (of_tile(shared, tile_items), None), items, tile)[0]


def _forward(of_tile: Callable[..., Any], tile: int, shared: list[Any], items: Any) -> tuple[Any, Any]:
    floats, others = split(shared)

    def step(tile_items: Any) -> tuple[Any, Any]:
        of_items, rest = split(tile_items)

        def value(floats: Any, of_items: Any) -> tuple[Array, Any]:
            return of_tile(join(floats, others), join(of_items, rest))

        found, pull_back, counts = jax.vjp(value, floats, of_items, has_aux=True)
        of_shared, of_items = pull_back(jnp.ones_like(found))
        return ((found, counts), of_shared), of_items

    (found, of_shared), of_items = _over_tiles(step, items, tile)
    return found, (of_shared, of_items)


def _backward(of_tile: Callable[..., Any], tile: int, slopes: Any, cotangents: tuple[Array, Any]) -> Any:
    del of_tile, tile
    return jax.tree.map(lambda slope: (cotangents[0] * slope).astype(slope.dtype), slopes)


_sum.defvjp(_forward, _backward)


def _over_tiles(step: Callable[[Any], tuple[Any, Any]], items: Any, tile: int) -> tuple[Any, Any]:
    """Of ``step(tile of items) = (to add up, [tile, ...] to keep)``: the sum, and what is kept of all items."""
    end = len(jax.tree.leaves(items)[0]) // tile * tile
    tiles = jax.tree.map(lambda x: x[:end].reshape(-1, tile, *x.shape[1:]), items)
    rest = jax.tree.map(lambda x: x[end:], items)

    def add(total: Any, tile_items: Any) -> tuple[Any, Any]:
        found, kept = step(tile_items)
        return jax.tree.map(jnp.add, total, found), kept

    kinds = jax.eval_shape(step, jax.tree.map(lambda x: x[0], tiles))[0]
    zeros = jax.tree.map(lambda kind: jnp.zeros(kind.shape, kind.dtype), kinds)
    total, kept = lax.scan(add, alike((zeros, items))[0], tiles)
    kept = jax.tree.map(lambda x: x.reshape(end, *x.shape[2:]), kept)
    if not len(jax.tree.leaves(rest)[0]):
        return total, kept
    total, last = add(total, rest)
    return total, jax.tree.map(lambda *parts: jnp.concatenate(parts), kept, last)
