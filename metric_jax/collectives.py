"""What devices do together, and one device alone: without an ``axis_name`` each of these is about its own rows."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from metric_jax.types import AxisName

Tree = TypeVar("Tree")


def sum_over(values: Tree, axis_name: AxisName) -> Tree:
    """A pytree summed over the devices of an axis."""
    return values if axis_name is None else lax.psum(values, axis_name)


def max_over(values: Tree, axis_name: AxisName) -> Tree:
    """A pytree's largest values over the devices of an axis."""
    return values if axis_name is None else lax.pmax(values, axis_name)


def gathered(rows: Tree, axis_name: AxisName) -> Tree:
    """A pytree of ``[batch, ...]`` with the rows of all devices, in their order."""
    if axis_name is None:
        return rows
    return jax.tree.map(lambda x: lax.all_gather(x, axis_name, tiled=True), rows)


def places(count: int, axis_name: AxisName) -> Array:
    """``[count]``: where each of a device's rows stands among those of all."""
    own = jnp.arange(count)
    return own if axis_name is None else own + lax.axis_index(axis_name) * count


def log_sum_exp_over(values: Array, axis_name: AxisName) -> Array:
    """``log Σ exp(values)`` over the devices of an axis, entry by entry; -inf, without a gradient, if all are."""
    largest = max_over(lax.stop_gradient(values), axis_name)
    shift = jnp.where(jnp.isfinite(largest), largest, 0.0)
    total = sum_over(jnp.exp(values - shift), axis_name)
    return jnp.where(total == 0, -jnp.inf, shift + jnp.log(jnp.where(total == 0, 1.0, total)))


def axes_of(axis_name: AxisName) -> tuple[str, ...]:
    """The mesh axes that an ``axis_name`` names, none if it is None."""
    if axis_name is None:
        return ()
    return (axis_name,) if isinstance(axis_name, str) else axis_name


def devices_of(axis_name: AxisName) -> int:
    """How many devices share the rows."""
    return 1 if axis_name is None else lax.axis_size(axes_of(axis_name))
