"""What a config names, looked up: losses, distances, models, optimizers, schedules.

A name that does not exist is an error with a suggestion, raised before any data is read.
"""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array

from metric_jax import distances, losses, models
from metric_jax.data import augment
from metric_jax.data.errors import unknown
from metric_jax.distances import Distance
from metric_jax.training.errors import RunError

Loss = Callable[[Array, Array], Array]
Augment = Callable[[Array, Array], Array]

PENALTIES = {"relu": jax.nn.relu, "softplus": jax.nn.softplus}
DISTANCES = {
    name: value
    for name, value in vars(distances).items()
    if isinstance(value, Distance) and not value.is_similarity
}


def batch_losses() -> dict[str, Callable[..., Array]]:
    """The losses that take embeddings and labels and nothing else that has no default, by their public names."""
    found = {}
    for family in pkgutil.iter_modules(losses.__path__, f"{losses.__name__}."):
        for name, value in vars(importlib.import_module(family.name)).items():
            if name.endswith("_loss") and callable(value) and not name.startswith("_"):
                parameters = inspect.signature(value).parameters.values()
                if [p.name for p in parameters if p.default is p.empty] == ["embeddings", "labels"]:
                    found[name] = value
    return found


def distance(name: str) -> Distance:
    """The distance of that name."""
    return _choose("loss.distance", name, DISTANCES)


def loss(
    name: str, *, distance: Distance, margin: float, penalty: str = "relu", reduction: str = "mean"
) -> Loss:
    """A batch loss ``(embeddings, labels) -> scalar`` with its options filled in.

    Args:
        name: Its public name, ``"batch_hard_triplet_loss"``.
        distance: The distance between embeddings.
        margin: Its margin.
        penalty: What a violation costs: ``"relu"``, the hinge, or ``"softplus"``, the soft margin.
        reduction: ``"mean"``, ``"mean_active"`` or ``"sum"``.

    Returns:
        The loss; tried out on shapes alone, so that a wrong option shows before there is any data.

    Raises:
        RunError: An unknown name, or an option that this loss refuses or does not have.
    """
    function = _choose("loss.name", name, batch_losses())
    options = {"distance": distance, "margin": margin, "reduction": reduction}
    chosen = _choose("loss.penalty", penalty, PENALTIES)
    if "penalty" in inspect.signature(function).parameters:
        options["penalty"] = chosen
    elif penalty != "relu":
        raise RunError(f"{name} has no penalty to choose: leave loss.penalty at 'relu'")
    bound = functools.partial(function, **options)
    try:
        tried = jax.eval_shape(
            bound, jax.ShapeDtypeStruct((4, 2), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32)
        )
    except (TypeError, ValueError) as error:
        raise RunError(f"{name} refuses its options: {error}") from error
    if tried.shape:
        raise RunError(f"loss.reduction={reduction!r} leaves no scalar to minimise: choose 'mean'")
    return bound


def augmentation(**amounts: float) -> Augment | None:
    """`augment.affine` with these amounts, checked; None if all are 0.

    Raises:
        DataError: An amount out of range.
    """
    if not any(amounts.values()):
        return None
    bound = functools.partial(augment.affine, **amounts)
    jax.eval_shape(bound, jax.ShapeDtypeStruct((1, 2, 2, 1), jnp.float32), jax.random.key(0))
    return bound


def check_model(name: str) -> None:
    """Raises a RunError for an unknown model."""
    _choose("model.name", name, models.MODELS)


def model(name: str, image_shape: tuple[int, ...], *, key: Array, **options: Any) -> nnx.Module:
    """A new model of that name for images of that shape.

    Args:
        name: What `metric_jax.models.MODELS` calls it.
        image_shape: (height, width, channels).
        key: Where its parameters are drawn from.
        options: The model's own.

    Returns:
        The model.

    Raises:
        RunError: An unknown name, or options that the model refuses.
    """
    constructor = _choose("model.name", name, models.MODELS)
    try:
        return constructor(image_shape, rngs=nnx.Rngs(key), **options)
    except (TypeError, ValueError) as error:
        raise RunError(f"model {name!r} refuses its options: {error}") from error


def schedule(name: str, *, learning_rate: float, warmup: int, steps: int) -> optax.Schedule:
    """The learning rate at every step: constant or a cosine down to 0, after a linear warm-up from 0.

    Args:
        name: ``"constant"`` or ``"cosine"``.
        learning_rate: Its largest value.
        warmup: How many steps it takes to get there.
        steps: How many steps there are in all.

    Returns:
        From the number of a step to its learning rate.

    Raises:
        RunError: An unknown name, or values out of range.
    """
    if not learning_rate > 0:
        raise RunError(f"optimizer.learning_rate must be positive, got {learning_rate}")
    if not 0 <= warmup < steps:
        raise RunError(f"optimizer.warmup={warmup} must be at least 0 and less than steps={steps}")
    after = {
        "constant": optax.constant_schedule(learning_rate),
        "cosine": optax.cosine_decay_schedule(learning_rate, steps - warmup),
    }
    chosen = _choose("optimizer.schedule", name, after)
    if not warmup:
        return chosen
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), chosen], [warmup])


def optimizer(
    name: str, learning_rate: optax.Schedule, *, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """The optimizer of that name.

    Args:
        name: ``"adam"``, ``"adamw"`` or ``"sgd"`` (with momentum 0.9).
        learning_rate: Its schedule.
        weight_decay: Decoupled weight decay, of adamw alone.

    Returns:
        A gradient transformation.

    Raises:
        RunError: An unknown name, or a weight decay that the optimizer does not have.
    """
    known: Mapping[str, Callable[[], optax.GradientTransformation]] = {
        "adam": lambda: optax.adam(learning_rate),
        "adamw": lambda: optax.adamw(learning_rate, weight_decay=weight_decay),
        "sgd": lambda: optax.sgd(learning_rate, momentum=0.9),
    }
    make = _choose("optimizer.name", name, known)
    if weight_decay and name != "adamw":
        raise RunError(f"{name} has no weight decay: set optimizer.name='adamw' or optimizer.weight_decay=0")
    return make()


def _choose(key: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise RunError(unknown(key, name, known))
    return known[name]
