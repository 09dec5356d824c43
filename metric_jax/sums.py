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

Term = Callable[..., Any]


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


def sum_where(where: Array, term: Term, constants: Any, *operands: Any) -> Any:
    """``Σ_{i: where[i]} term(i, constants, *operands)``, differentiable in the operands.

    Args:
        where: ``[n]`` booleans: the indices to sum over.
        term: Returns a pytree of floats. It must not close over traced arrays: these are constants or operands.
        constants: A pytree of arrays without a gradient (masks, indices).
        *operands: Pytrees of numbers; integers are taken as floats.

    Returns:
        The sum, a pytree as ``term`` returns it; zeros if nothing is selected.
    """
    return _sum(term, where, constants, jax.tree.map(_as_float, operands))


def _as_float(x: Any) -> Array:
    """A margin may be an integer; its cotangent may not."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum(term: Term, where: Array, constants: Any, operands: tuple[Any, ...]) -> Any:
    return _loop(where, lambda i: term(i, constants, *operands))


def _forward(term: Term, where: Array, constants: Any, operands: tuple[Any, ...]) -> tuple[Any, Any]:
    return _sum(term, where, constants, operands), (where, constants, operands)


def _backward(term: Term, saved: Any, cotangent: Any) -> tuple[None, None, Any]:
    where, constants, operands = saved

    def gradient(i: Array) -> Any:
        return jax.vjp(lambda *floats: term(i, constants, *floats), *operands)[1](cotangent)

    return None, None, _loop(where, gradient)


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
