"""What training changes, and a checkpoint holds: one plain pytree."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array

from metric_jax.data.errors import unknown
from metric_jax.memory import Memory
from metric_jax.training.errors import RunError
from metric_jax.whitening import Whitening

Path = tuple[Any, ...]


class TrainState(NamedTuple):
    """The state between two steps.

    Attributes:
        step: How many steps were taken, an int32 scalar.
        params: What the optimizer changes: under ``"model"`` nested dicts of arrays, under ``"loss"`` what the loss
            learns, as in `Objective.init`.
        rest: What else the model computes with: what it changes itself, such as BatchNorm's running means, and
            parameters that are frozen; nested dicts of arrays.
        opt_state: The optimizer's.
        memory: Embeddings of the batches before, or None.
        average: Moving averages of ``params["model"]`` and ``rest``, under ``"params"`` and ``"rest"``, or None.
        centres: Where the embeddings of every class lie, ``[C, dim]``, for a sampler of hard classes; zeros until they
            were looked at, and None if nobody asks.
        whitening: Of the embeddings, as of the last evaluation or checkpoint; before, none at all. None if nobody asks.
        key: The run's PRNG key. It stays; a step folds its number in.
    """

    step: Array
    params: dict[str, Any]
    rest: Any
    opt_state: Any
    memory: Memory | None
    average: dict[str, Any] | None
    centres: Array | None
    whitening: Whitening | None
    key: Array

    @property
    def evaluated(self) -> tuple[Any, Any]:
        """The model's (params, rest) to evaluate with: the averages, if there are any."""
        if self.average is None:
            return self.params["model"], self.rest
        return self.average["params"], self.average["rest"]


def create(
    model: nnx.Module,
    optimizer: optax.GradientTransformation,
    key: Array,
    *,
    loss_params: dict[str, Array] | None = None,
    memory: Memory | None = None,
    frozen: Sequence[str] = (),
    averages: bool = False,
    centres: Array | None = None,
    whitening: Whitening | None = None,
) -> tuple[nnx.GraphDef, TrainState]:
    """Parts a model into what it computes and the state it computes with.

    Args:
        model: A new model.
        optimizer: Will change its parameters, but for the frozen ones.
        key: The run's PRNG key.
        loss_params: What the loss learns, from `Objective.init`.
        memory: An empty memory, if there is to be one.
        frozen: As in `part`.
        averages: Whether to keep moving averages.
        centres: Those of the classes before anything was embedded, if there are to be any.
        whitening: One that changes nothing, if embeddings are to be whitened.

    Returns:
        (graphdef, state) such that `assemble(graphdef, *state.evaluated)` is the model again.
    """
    graphdef, params, rest = part(model, frozen)
    trained = {"model": params, "loss": loss_params or {}}
    # Arrays of their own: a step updates its state in place, and cannot do so to one array that is in two places.
    average = jax.tree.map(jnp.copy, {"params": params, "rest": rest}) if averages else None
    step = jnp.zeros((), jnp.int32)
    opt_state = optimizer.init(trained)
    return graphdef, TrainState(step, trained, rest, opt_state, memory, average, centres, whitening, key)


def part(model: nnx.Module, frozen: Sequence[str] = ()) -> tuple[nnx.GraphDef, Any, Any]:
    """(graphdef, the parameters to train, the rest) of a model.

    Args:
        model: The model.
        frozen: Parts whose parameters count among the rest, by their paths: ``"stem"``, ``"blocks.0"``.

    Raises:
        RunError: There is no such part, or nothing is left to train.
    """
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    prefixes = {tuple(map(str, path[:length])) for path in paths for length in range(1, len(path) + 1)}
    stems = [tuple(str(name).split(".")) for name in frozen]
    for name, stem in zip(frozen, stems, strict=True):
        if stem not in prefixes:
            raise RunError(
                unknown("optimizer.freeze", str(name), [".".join(p) for p in prefixes if len(p) < 3])
            )

    def is_frozen(path: Path) -> bool:
        return any(tuple(map(str, path[: len(stem)])) == stem for stem in stems)

    trained = {path for path in paths if not is_frozen(path)}
    if not trained:
        raise RunError(f"optimizer.freeze={tuple(frozen)} leaves nothing of the model to train: freeze less")
    graphdef, *states = nnx.split(model, lambda path, _: path in trained, ...)
    params, rest = (nnx.to_pure_dict(each) for each in states)
    return graphdef, params, rest


def assemble(graphdef: nnx.GraphDef, params: Any, rest: Any) -> nnx.Module:
    """The model with these arrays."""
    return nnx.merge(graphdef, params, rest)


def rest_of(model: nnx.Module, params: Any) -> Any:
    """All of a model but those parameters, after it ran: as in `TrainState.rest`."""
    trained = {tuple(key.key for key in path) for path, _ in jax.tree.leaves_with_path(params)}
    return nnx.to_pure_dict(nnx.state(model, lambda path, _: path not in trained))


def moved(average: Any, now: Any, *, share: Array) -> Any:
    """A moving average a step later: ``average + share (now - average)``; what is no real number is as it is now."""

    def one(average: Array, now: Array) -> Array:
        real = jnp.issubdtype(now.dtype, jnp.floating)
        return average + share.astype(now.dtype) * (now - average) if real else now

    return jax.tree.map(one, average, now)


def like(state: TrainState) -> TrainState:
    """Shapes, types and shardings of a state, without its arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
