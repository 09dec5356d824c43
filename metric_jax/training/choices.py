"""What a config names, looked up: losses, distances, models.

A name that does not exist is an error with a suggestion, raised before any data is read.
"""

import functools
import importlib
import inspect
import math
import os
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from metric_jax import diagnostics, distances, losses, models
from metric_jax import memory as memories
from metric_jax.data import Images, augment, samplers
from metric_jax.data.errors import unknown
from metric_jax.distances import Distance
from metric_jax.interface import BATCH, PROXY
from metric_jax.limits import Limits
from metric_jax.training.errors import RunError
from metric_jax.training.objective import Learned, Objective

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
    return _losses_of("embeddings", "labels")


def proxy_losses() -> dict[str, Callable[..., Array]]:
    """The losses that take embeddings, labels and proxies, by their public names."""
    return _losses_of("embeddings", "labels", "proxies")


def _losses_of(*required: str) -> dict[str, Callable[..., Array]]:
    found = {}
    for family in pkgutil.iter_modules(losses.__path__, f"{losses.__name__}."):
        for name, value in vars(importlib.import_module(family.name)).items():
            if name.endswith("_loss") and callable(value) and not name.startswith("_"):
                parameters = inspect.signature(value).parameters.values()
                if [p.name for p in parameters if p.default is p.empty] == list(required):
                    found[name] = value
    return found


def hyperparameters(name: str) -> dict[str, Any]:
    """What a loss has of its own, its distance or similarity included, and the defaults."""
    shared = {*BATCH, *PROXY}
    parameters = inspect.signature(_loss_called("loss.name", name)).parameters
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
    """The margin to diagnose with: the loss's, given or by default, if it has one of distances; else a triplet's."""
    own = hyperparameters(loss)
    if "distance" not in own:
        value = None  # of what has similarities, or angles
    elif value is None:
        value = own.get("margin")
    if not isinstance(value, int | float):
        value = inspect.signature(diagnostics.summary).parameters["margin"].default
    return float(value)


def loss(
    name: str,
    *,
    reduction: str = "mean",
    trainable: Sequence[str] = (),
    centers: int | None = None,
    before: str = "",
    before_steps: int = 0,
    memory_size: int = 0,
    memory_start: int = 0,
    **options: Any,
) -> Objective:
    """A loss of embeddings and labels, and proxies if it takes any, with its options filled in.

    Args:
        name: Its public name, ``"batch_hard_triplet_loss"``.
        reduction: ``"mean"``, ``"mean_active"`` or ``"sum"``.
        trainable: Those of its numbers that are learned, from the chosen value or the default on.
        centers: Proxies of a class, of a loss that takes several.
        before: The name of another batch loss, for the first steps, with the same options as far as it has them.
        before_steps: How many steps these are.
        memory_size: Embeddings of earlier batches to compare with; 0: none.
        memory_start: The first step to do so.
        **options: The loss's own: its margin, its temperature; its distance, similarity or penalty (``"relu"``, the
            hinge, or ``"softplus"``, the soft margin) by name. None leaves an option at the loss's default. A distance
            that a loss of similarities has no use for is left to the evaluation.

    Returns:
        The objective; tried out on shapes alone, so that a wrong option shows before there is any data.

    Raises:
        RunError: An unknown name, or an option that this loss refuses or does not have.
    """
    function, known = _loss_called("loss.name", name), hyperparameters(name)
    chosen = _options(known, options)
    for key in chosen:
        if key not in known:
            raise RunError(
                f"{name} has no {key} to choose: leave loss.{key} alone; it has {', '.join(known)}"
            )
    has_proxies = name in proxy_losses()
    if memory_size and has_proxies:
        raise RunError(f"{name} compares with proxies and not with a memory: set memory.size=0")
    if bool(before) != bool(before_steps):
        raise RunError(f"loss.before={before!r} and loss.before_steps={before_steps}: set both or neither")
    if before == name:
        raise RunError(
            f"loss.before={before!r} is loss.name itself: name another, as batch_semi_hard_triplet_loss"
        )
    learned = {key: _learned(name, key, {**known, **chosen}.get(key)) for key in trainable}
    objective = Objective(
        loss=functools.partial(function, reduction=reduction, **chosen),
        learned=learned,
        proxies=_centers(name, centers) if has_proxies or centers is not None else None,
        memory_start=memory_start,
        before=_before(before, options, reduction) if before else None,
        before_steps=before_steps,
    )
    try:
        tried = jax.eval_shape(functools.partial(_trial, objective, memory_size))
    except (TypeError, ValueError) as error:
        raise RunError(f"{name} refuses its options: {error}") from error
    if tried.shape:
        raise RunError(f"loss.reduction={reduction!r} leaves no scalar to minimise: choose 'mean'")
    return objective


def _options(known: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given to a loss that has those hyperparameters: what names stand for, whole numbers as integers."""
    chosen = {key: value for key, value in given.items() if value is not None}
    for key in chosen.keys() & NAMED.keys():
        chosen[key] = _choose(f"loss.{key}", chosen[key], NAMED[key])
    if "similarity" in known:
        chosen.pop("distance", None)
    for key in chosen.keys() & known.keys():
        if type(known[key]) is int and float(chosen[key]).is_integer():
            chosen[key] = int(chosen[key])
    return chosen


def _learned(loss: str, name: str, start: Any) -> Learned:
    """The number of a loss that is to be learned; raises a RunError if it is none."""
    numbers = [key for key, default in hyperparameters(loss).items() if isinstance(default, float)]
    if name not in numbers:
        has = f"it has {', '.join(numbers)}" if numbers else "it has none"
        raise RunError(f"{loss} has no number {name!r} to learn: mend loss.trainable; {has}")
    limits = _loss_called("loss.name", loss).within.get(name, Limits())
    learned = Learned(float(start), limits)
    if not math.isfinite(learned.coordinate()):
        raise RunError(
            f"{loss} cannot learn {name} from {start} on, as it must stay {limits}: set loss.{name}"
        )
    return learned


def _centers(loss: str, count: int | None) -> tuple[int, ...]:
    """The shape of the proxies of one class; raises a RunError if the loss takes another number of them."""
    takes_several = getattr(proxy_losses().get(loss), "centers", False)
    if count is None and takes_several:
        raise RunError(f"{loss} has several proxies for every class: say how many by loss.centers")
    if count is None:
        return ()
    if not takes_several:
        raise RunError(f"{loss} has no centers to choose: leave loss.centers alone")
    if count < 1:
        raise RunError(f"loss.centers must be at least 1, got {count}")
    return (count,)


def _before(name: str, options: Mapping[str, Any], reduction: str) -> Callable[..., Array]:
    """The loss of the first steps."""
    function = _choose("loss.before", name, batch_losses())
    known = hyperparameters(name)
    chosen = {key: value for key, value in _options(known, options).items() if key in known}
    return functools.partial(function, reduction=reduction, **chosen)


def _trial(objective: Objective, memory_size: int) -> Array:
    """The loss of four embeddings, for its shape."""
    embeddings, labels = jnp.zeros((4, 2)), jnp.zeros(4, jnp.int32)
    memory = memories.create(memory_size, 2) if memory_size else None
    params = objective.init(jax.random.key(0), classes=4, dim=2)
    return objective(embeddings, labels, params, step=jnp.int32(0), memory=memory)


def _loss_called(key: str, name: str) -> Any:
    return _choose(key, name, {**batch_losses(), **proxy_losses()})


def sampler(train: Images, *, seed: int, chunk: int, **drawn: Any) -> samplers.PKSampler:
    """The sampler that a config's batch describes; the chunk in it is one of a step, and not of what is drawn."""
    return samplers.choose(train, **drawn, seed=seed)


def augmentation(**amounts: Any) -> Augment | None:
    """`augment.random` with these amounts, checked; None if all are 0.

    Raises:
        DataError: An amount out of range.
    """
    if not any(amounts.values()):
        return None
    bound = functools.partial(augment.random, **amounts)
    jax.eval_shape(bound, jax.ShapeDtypeStruct((1, 2, 2, 3), jnp.float32), jax.random.key(0))
    return bound


def check_model(name: str, *, pretrained: str = "", **options: Any) -> None:
    """Raises a RunError for an unknown model, an option that it does not have, or weights that are not there."""
    _choose("model.name", name, models.MODELS)
    known = models.options(name)
    for key, value in options.items():
        if value is not None and key not in known:
            raise RunError(
                f"model {name!r} refuses its options: it has no {key}, so leave model.{key} alone; it has "
                f"{', '.join(known)}"
            )
    if pretrained and not os.path.isfile(os.path.expanduser(pretrained)):
        raise RunError(f"model.pretrained: there is no file {pretrained}")


def model(
    name: str, image_shape: tuple[int, ...], *, key: Array, pretrained: str = "", **options: Any
) -> nnx.Module:
    """A new model of that name for images of that shape.

    Args:
        name: What `metric_jax.models.MODELS` calls it.
        image_shape: (height, width, channels).
        key: Where its parameters are drawn from.
        pretrained: A file of weights for `metric_jax.models.load_pretrained`; none if empty.
        options: The model's own. None leaves an option at the model's default.

    Returns:
        The model.

    Raises:
        RunError: An unknown name, options that the model refuses, or weights that are not its own.
    """
    check_model(name, pretrained=pretrained, **options)
    chosen = {option: value for option, value in options.items() if value is not None}
    try:
        made = models.MODELS[name](image_shape, rngs=nnx.Rngs(key), **chosen)
    except (TypeError, ValueError) as error:
        raise RunError(f"model {name!r} refuses its options: {error}") from error
    if pretrained:
        try:
            models.load_pretrained(made, os.path.expanduser(pretrained))
        except ValueError as error:
            raise RunError(f"model.pretrained: {error}") from error
    return made


def _choose(key: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise RunError(unknown(key, name, known))
    return known[name]
