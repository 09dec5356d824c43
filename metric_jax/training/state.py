"""What training changes, and a checkpoint holds: one plain pytree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array


class TrainState(NamedTuple):
    """The state between two steps.

    Attributes:
        step: How many steps were taken, an int32 scalar.
        params: What the optimizer changes: nested dicts of arrays.
        rest: What the model itself changes, such as BatchNorm's running means: nested dicts of arrays.
        opt_state: The optimizer's.
        key: The run's PRNG key. It stays; a step folds its number in.
    """

    step: Array
    params: Any
    rest: Any
    opt_state: Any
    key: Array


def create(
    model: nnx.Module, optimizer: optax.GradientTransformation, key: Array
) -> tuple[nnx.GraphDef, TrainState]:
    """Parts a model into what it computes and the state it computes with.

    Args:
        model: A new model.
        optimizer: Will change its parameters.
        key: The run's PRNG key.

    Returns:
        (graphdef, state) such that `assemble(graphdef, state.params, state.rest)` is the model again.
    """
    graphdef, *states = nnx.split(model, nnx.Param, ...)
    params, rest = (nnx.to_pure_dict(each) for each in states)
    return graphdef, TrainState(jnp.zeros((), jnp.int32), params, rest, optimizer.init(params), key)


def assemble(graphdef: nnx.GraphDef, params: Any, rest: Any) -> nnx.Module:
    """The model with these arrays."""
    return nnx.merge(graphdef, params, rest)


def rest_of(model: nnx.Module) -> Any:
    """What a model changed of itself while it ran, as in `TrainState.rest`."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))


def like(state: TrainState) -> TrainState:
    """Shapes, types and shardings of a state, without its arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
