"""Published weights, put into a network: which tensor of a file becomes which array, by rules that a network lists.

Of the network, everything but its head and neck comes from the file; of the file, everything but the classifier goes
into the network. What is left over on either side is an error, and so is a tensor of another shape.
"""

import pathlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from metric_jax.models import safetensors

# How torch's axes are ordered in JAX: those of a convolution (out, in, height, width), of a linear map (out, in).
CONV, LINEAR = (2, 3, 1, 0), (1, 0)
_OWN = ("head", "neck")  # what no file has
_SHOWN = 3


class Rule(NamedTuple):
    """Where a tensor goes.

    Attributes:
        theirs: Its name in the file; ``<1>`` in it is any number, counted from 1.
        ours: The path of the network's array, with ``{}`` for each of these numbers, counted from 0; None leaves the
            tensor out.
        axes: How its axes are ordered in the network, as in ``numpy.transpose``; None as they are.
        resize: What makes it as large as the network's, if its size may differ.
    """

    theirs: str
    ours: str | None
    axes: tuple[int, ...] | None = None
    resize: Callable[[np.ndarray], np.ndarray] | None = None

    def path(self, name: str) -> str | None:
        """The path for the tensor of that name; empty if the tensor is left out, None if it is another's."""
        literal, starts = re.split(r"<\d>", self.theirs), re.findall(r"<(\d)>", self.theirs)
        match = re.fullmatch(r"([0-9]{1,4})".join(map(re.escape, literal)), name)
        if match is None:
            return None
        numbers = [int(number) - int(start) for number, start in zip(match.groups(), starts, strict=True)]
        return (self.ours or "").format(*numbers)


def kernel(theirs: str, ours: str, axes: tuple[int, ...]) -> tuple[Rule, Rule]:
    """The rules for weight and bias of a convolution or a linear map."""
    return Rule(f"{theirs}.weight", f"{ours}.kernel", axes), Rule(f"{theirs}.bias", f"{ours}.bias")


def norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The rules for a LayerNorm or a BatchNorm, whose count of batches is left out."""
    named = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    return (
        *(Rule(f"{theirs}.{torch}", f"{ours}.{flax}") for torch, flax in named.items()),
        Rule(f"{theirs}.num_batches_tracked", None),
    )


def ignored(theirs: str) -> tuple[Rule, Rule]:
    """The rules for a classifier, which embeddings have no use for."""
    return Rule(f"{theirs}.weight", None), Rule(f"{theirs}.bias", None)


def load_pretrained(model: nnx.Module, path: str | pathlib.Path) -> None:
    """Puts weights from a safetensors file into a network; its head and neck stay as they are.

    The file names its tensors as timm or torchvision do: ``safetensors.torch.save_file(model.state_dict(), path)``.

    Args:
        model: A `ResNet`, `ViT` or `ConvNeXt`, of the size that the weights have. If anything is wrong with the file,
            the network stays as it is.
        path: The file.

    Raises:
        ValueError: The file cannot be read, or its tensors are not those of this network; the message names some.
    """
    if not hasattr(model, "names"):
        raise ValueError(f"there are no published weights for {type(model).__name__}: choose another model")
    state = nnx.to_flat_state(nnx.state(model))
    keys = {".".join(map(str, key)): key for key, _ in state if key[0] not in _OWN}
    shapes = {".".join(map(str, key)): variable.shape for key, variable in state}
    rules: Sequence[Rule] = model.names()
    found: dict[str, np.ndarray | None] = {}
    surplus, misshaped = [], []
    for name, tensor in safetensors.read(path).items():
        rule, ours = _place(name, rules)
        if rule is None or (ours and (ours not in keys or ours in found)):
            surplus.append(repr(name))
        elif ours:
            if not jnp.issubdtype(tensor.dtype, jnp.floating):
                raise ValueError(f"{path}: tensor {name!r} is {tensor.dtype}: weights are floating")
            fitted = found[ours] = _fitted(tensor, rule, shapes[ours])
            if fitted is None:
                misshaped.append(f"{name!r} {list(tensor.shape)} for {ours} {list(shapes[ours])}")
            elif not np.isfinite(fitted).all():
                raise ValueError(f"{path}: tensor {name!r} holds NaN or infinity")
    faults = {
        "it lacks": sorted(keys.keys() - found.keys()),
        "no place is there for": surplus,
        "of another size are": misshaped,
    }
    told = "; ".join(f"{kind} {_first(names)}" for kind, names in faults.items() if names)
    if told:
        raise ValueError(f"{path} does not hold this {type(model).__name__}: {told}")
    nnx.update(
        model, nnx.from_flat_state([(keys[ours], jnp.asarray(array)) for ours, array in found.items()])
    )


def _place(name: str, rules: Sequence[Rule]) -> tuple[Rule | None, str]:
    """The rule for a tensor and the path it leads to; None if there is no rule."""
    for rule in rules:
        path = rule.path(name)
        if path is not None:
            return rule, path
    return None, ""


def _fitted(tensor: np.ndarray, rule: Rule, shape: tuple[int, ...]) -> np.ndarray | None:
    """A tensor as the network has it, float32; None if it is of another size.

    Axes of 1 may be more or fewer: torch has them to broadcast by.
    """
    tensor = rule.resize(tensor) if rule.resize else tensor
    axes = rule.axes or tuple(range(len(shape)))
    theirs = tuple(shape[axes.index(axis)] for axis in range(len(axes)))
    if [side for side in tensor.shape if side != 1] != [side for side in theirs if side != 1]:
        return None
    return tensor.reshape(theirs).transpose(axes).astype(np.float32)


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
