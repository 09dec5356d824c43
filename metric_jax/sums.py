"""Sums over what a mask selects: of exponentials, and with as many terms as the data says.

An anchor has few positives among many references, and how many is not known when its row is compiled. Looping over
exactly these, instead of over a batch² square of pairs, is what makes exact batch-all and semi-hard losses cheap. JAX
does not differentiate a loop of unknown length in reverse, since it would have to store each step; but here it need
not: the gradient of a sum is the sum of the gradients, which is another such loop. That second loop is not
differentiated again: these sums have a first derivative, in reverse mode, and no more.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from metric_jax.tiles import join, opened, split


def log_sum_exp(values: Array, where: Array) -> Array:
    """``log Σ_{i: where[i]} exp(values[i])`` of a row; -inf, without a gradient, if nothing is selected.

    Exact at any scale: the largest value is taken out before the exponential, and nothing is divided by it.
    """
    values = jnp.where(where, values, 0.0)
    shift = largest(values, where)
    total = jnp.sum(jnp.exp(values - shift), where=where)
    empty = ~jnp.any(where)
    return jnp.where(empty, -jnp.inf, shift + jnp.log(jnp.where(empty, 1.0, total)))


def largest(values: Array, where: Array) -> Array:
    """The largest selected value of a row, to be taken out before an exponential; 0 if that is not finite."""
    found = lax.stop_gradient(jnp.max(values, where=where, initial=-jnp.inf))
    return jnp.where(jnp.isfinite(found), found, 0.0)


def sum_where(where: Array, term: Callable[[Array], Any]) -> Any:
    """``Σ_{i: where[i]} term(i)``, differentiable in the floats that ``term`` closes over.

    Args:
        where: ``[n]`` booleans: the indices to sum over.
        term: Returns a pytree of floats. It may close over traced arrays.

    Returns:
        The sum, a pytree as ``term`` returns it; zeros if nothing is selected.
    """
    some = jnp.argmax(where)  # an index, which inside `shard_map` varies over devices as the mask does
    of, closure = opened(term, some)
    return _sum(lambda i, floats, others: of(join(floats, others), i), where, *split(closure))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum(of_index: Callable[..., Any], where: Array, floats: Any, others: Any) -> Any:
    return _loop(where, lambda i: of_index(i, floats, others))


def _forward(of_index: Callable[..., Any], where: Array, floats: Any, others: Any) -> tuple[Any, Any]:
    return _sum(of_index, where, floats, others), (where, floats, others)


def _backward(of_index: Callable[..., Any], saved: Any, cotangent: Any) -> tuple[None, Any, None]:
    where, floats, others = saved

    def gradient(i: Array) -> Any:
        return jax.vjp(lambda floats: of_index(i, floats, others), floats)[1](cotangent)[0]

    return None, _loop(where, gradient), None


_sum.defvjp(_forward, _backward)


def _loop(where: Array, fn: Callable[[Array], Any]) -> Any:
    """``Σ fn(i)`` over the indices that ``where`` selects, in ascending order."""
    indices = jnp.arange(len(where))

    def following(i: Array | int) -> Array:
        return jnp.min(indices, where=where & (indices > i), initial=len(where))

    def step(state: tuple[Array, Any]) -> tuple[Array, Any]:
        i, total = state
        return following(i), jax.tree.map(jnp.add, total, fn(i))

    first = following(-1)
    zeros = jax.tree.map(jnp.zeros_like, fn(jnp.zeros_like(first)))
    return lax.while_loop(lambda state: state[0] < len(where), step, (first, zeros))[1]
