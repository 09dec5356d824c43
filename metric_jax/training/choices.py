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

from metric_jax import diagnostics, distances, losses, models
from metric_jax.data import augment
from metric_jax.data.errors import unknown
from metric_jax.distances import Distance
from metric_jax.interface import BATCH, PROXY
from metric_jax.training.errors import RunError

Loss = Callable[[Array, Array], Array]
Augment = Callable[[Array, Array], Array]

PENALTIES = {"relu": jax.nn.relu, "softplus": jax.nn.softplus}
_MEASURES = [value for value in vars(distances).values() if isinstance(value, Distance)]
DISTANCES = {value.name: value for value in _MEASURES if not value.is_similarity}
SIMILARITIES = {value.name: value for value in _MEASURES if value.is_similarity}
# Options that a config gives by name, and what the name stands for.
NAMED: Mapping[str, Mapping[str, Any]] = {
    "distance": DISTANCES,
    "similarity": SIMILARITIES,
    "penalty": PENALTIES,
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


def hyperparameters(name: str) -> dict[str, Any]:
    """What a batch loss has of its own, its distance or similarity included, and the defaults."""
    shared = {*BATCH, *PROXY}
    parameters = inspect.signature(_choose("loss.name", name, batch_losses())).parameters
    return {key: parameter.default for key, parameter in parameters.items() if key not in shared}


def distance(name: str | None, *, loss: str) -> Distance:
    """The distance to evaluate with: the one of that name, or for None that of the loss.

    A loss of cosine similarities is evaluated with the cosine, another one without a distance with the Euclidean.
    """
    if name is not None:
        return _choose("loss.distance", name, DISTANCES)
    own = hyperparameters(loss)
    if own.get("similarity") is distances.cosine_similarity:
        return distances.cosine
    return own.get("distance", distances.euclidean)


def margin(value: float | None, *, loss: str) -> float:
    """The margin to diagnose with, in units of a distance: the given one, else the loss's own, else a triplet's."""
    own = hyperparameters(loss)
    if value is None and "distance" in own:
        value = own.get("margin")
    if not isinstance(value, int | float):
        value = inspect.signature(diagnostics.summary).parameters["margin"].default
    return float(value)


def loss(name: str, *, reduction: str = "mean", **options: Any) -> Loss:
    """A batch loss ``(embeddings, labels) -> scalar`` with its options filled in.

    Args:
        name: Its public name, ``"batch_hard_triplet_loss"``.
        reduction: ``"mean"``, ``"mean_active"`` or ``"sum"``.
        **options: The loss's own: its margin, its temperature; its distance, similarity or penalty (``"relu"``, the
            hinge, or ``"softplus"``, the soft margin) by name. None leaves an option at the loss's default. A distance
            that a loss of similarities has no use for is left to the evaluation.

    Returns:
        The loss; tried out on shapes alone, so that a wrong option shows before there is any data.

    Raises:
        RunError: An unknown name, or an option that this loss refuses or does not have.
    """
    known = hyperparameters(name)
    chosen = {key: value for key, value in options.items() if value is not None}
    for key in chosen.keys() & NAMED.keys():
        chosen[key] = _choose(f"loss.{key}", chosen[key], NAMED[key])
    if "similarity" in known:
        chosen.pop("distance", None)
    for key in chosen:
        if key not in known:
            raise RunError(
                f"{name} has no {key} to choose: leave loss.{key} alone; it has {', '.join(known)}"
            )
    bound = functools.partial(batch_losses()[name], reduction=reduction, **chosen)
    try:
        tried = jax.eval_shape(
            bound, jax.ShapeDtypeStruct((4, 2), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32)
        )
    except (TypeError, ValueError) as error:
        raise RunError(f"{name} refuses its options: {error}") from error
    if tried.shape:
        raise RunError(f"loss.reduction={reduction!r} leaves no scalar to minimise: choose 'mean'")
    return bound


def augmentation(**amounts: float | None) -> Augment | None:
    """`augment.random` with these amounts, checked; None if all are 0.

    Raises:
        DataError: An amount out of range.
    """
    if not any(amounts.values()):
        return None
    bound = functools.partial(augment.random, **amounts)
    jax.eval_shape(bound, jax.ShapeDtypeStruct((1, 2, 2, 3), jnp.float32), jax.random.key(0))
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
