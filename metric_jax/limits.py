"""What a hyperparameter may be.

A temperature of 0 divides by it, and a margin of 40 that was meant as an angle in degrees trains without a word. Values
that are known when a loss is called are checked there. A traced value, a temperature that is learned, is known only on
the device: that check costs nothing until the caller asks for it with `jax.experimental.checkify.checkify`. It
refuses a loop under vmap, and so whatever loops over an anchor's positives: batch-all, semi-hard and ranking losses.
"""

import dataclasses
import inspect
import math
import operator
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify


@dataclasses.dataclass(frozen=True)
class Limits:
    """A range of numbers; ``excludes`` are ends that do not belong to it."""

    low: float = -math.inf
    high: float = math.inf
    excludes: tuple[float, ...] = ()

    def holds(self, value: Any) -> Any:
        """Whether every number of an array lies in the range; NaN and the infinities do not."""
        inside = (value >= self.low) & (value <= self.high) & (abs(value) < math.inf)
        for end in self.excludes:
            inside &= value != end
        return inside.all()

    def __str__(self) -> str:
        if self == POSITIVE:
            return "positive"
        if self == Limits():
            return "finite"
        if self.high == math.inf:
            return f"at least {self.low:g}"
        opening, closing = ("(" if end in self.excludes else "[" for end in (self.low, self.high))
        return f"in {opening}{self.low:g}, {self.high:g}{')' if closing == '(' else ']'}"


POSITIVE = Limits(0.0, excludes=(0.0,))
NOT_NEGATIVE = Limits(0.0)
FRACTION = Limits(0.0, 1.0)
COSINE_GAP = Limits(0.0, 2.0)  # of two cosines


def check(owner: str, given: Mapping[str, Any], limits: Mapping[str, Limits]) -> None:
    """Raises unless the arguments in ``given`` are numbers within ``limits``; ``owner`` is whose they are."""
    for name, limit in limits.items():
        value = given[name]
        if value is None:
            continue
        message = f"{owner}: {name} must be {limit}"
        if isinstance(value, jax.core.Tracer):
            checkify.debug_check(limit.holds(value), message + ", got {value}", value=jnp.asarray(value))
            continue
        number = np.asarray(value)
        if number.dtype.kind not in "biuf" and number.dtype != jnp.bfloat16:
            raise TypeError(f"{owner}: {name} must be a number, got {value!r}")
        if not limit.holds(number.astype(np.float64)):
            raise ValueError(f"{message}, got {value}")


def joined(value: Any) -> Any:
    """A list of numbers, known or traced, as an array; anything else as it is."""
    return jnp.asarray(value) if isinstance(value, list | tuple) else value


def check_kinds(
    owner: str, given: Mapping[str, Any], own: Sequence[inspect.Parameter], vectors: Sequence[str]
) -> None:
    """Raises unless an argument whose default is a number, or a boolean, is one.

    An array in place of a margin would be one margin a reference to one loss, and one an anchor to another: so only
    the ``vectors`` may be arrays with axes.
    """
    for parameter in own:
        name, default = parameter.name, parameter.default
        if given[name] is None and type(None) in typing.get_args(parameter.annotation):
            continue
        value = given[name]
        if isinstance(default, bool):
            check_flag(owner, name, value)
        elif isinstance(default, int | float) or float in typing.get_args(parameter.annotation):
            value = joined(value)
            if (
                value is None
                or isinstance(value, str)
                or not jnp.issubdtype(jnp.result_type(value), jnp.number)
            ):
                raise TypeError(f"{owner}: {name} must be a number, got {value!r}")
            if jnp.ndim(value) and name not in vectors:
                raise ValueError(f"{owner}: {name} must be one number, got shape {jnp.shape(value)}")


def as_margin(owner: str, margin: Any, shape: tuple[int, ...] = ()) -> Any:
    """A margin that is a number, not negative, or an array of such, one for each loss of a shape; raises for others."""
    if margin is None:
        raise TypeError(f"{owner}: margin must be a number, got None")
    margin = joined(margin)
    check(owner, {"margin": margin}, {"margin": NOT_NEGATIVE})
    if jnp.ndim(margin) and jnp.shape(margin) != shape:
        each = f", or one for each of {list(shape)} losses" if shape else ""
        raise ValueError(f"{owner}: margin must be one number{each}, got shape {list(jnp.shape(margin))}")
    return margin


def check_penalty(penalty: Any) -> None:
    """Raises a TypeError unless the penalty can be called."""
    if not callable(penalty):
        raise TypeError(f"penalty must be a function such as jax.nn.softplus, got {penalty!r}")


def check_flag(owner: str, name: str, value: Any) -> None:
    """Raises a TypeError unless the value is a boolean."""
    if not isinstance(value, bool):
        raise TypeError(f"{owner}: {name} must be True or False, got {value!r}")


def is_count(value: Any) -> bool:
    """Whether the value is a positive integer, of any integer type but bool."""
    return not isinstance(value, bool) and hasattr(value, "__index__") and operator.index(value) >= 1


def check_count(owner: str, name: str, value: Any) -> None:
    """Raises unless the value is a positive integer, as what decides shapes must be."""
    if not is_count(value):
        raise ValueError(f"{owner}: {name} must be a positive integer, got {value!r}")
