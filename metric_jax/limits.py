"""What a hyperparameter may be.

A temperature of 0 divides by it, and a margin of 40 that was meant as an angle in degrees trains without a word. Values
that are known when a loss is called are checked there. A traced value, a temperature that is learned, is known only on
the device: that check costs nothing until the caller asks for it with `jax.experimental.checkify.checkify`.
"""

import dataclasses
import math
from collections.abc import Mapping
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
        """Whether every number of an array lies in the range; NaN does not."""
        inside = (value >= self.low) & (value <= self.high)
        for end in self.excludes:
            inside &= value != end
        return inside.all()

    def __str__(self) -> str:
        if self == POSITIVE:
            return "positive"
        if self.high == math.inf:
            return f"at least {self.low:g}"
        opening, closing = ("(" if end in self.excludes else "[" for end in (self.low, self.high))
        return f"in {opening}{self.low:g}, {self.high:g}{')' if closing == '(' else ']'}"


POSITIVE = Limits(0.0, excludes=(0.0,))
NOT_NEGATIVE = Limits(0.0)
FRACTION = Limits(0.0, 1.0)


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
