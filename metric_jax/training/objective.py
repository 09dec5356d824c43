"""What a step minimises: a loss of the batch, with what the loss itself learns.

A loss may have parameters of its own: proxies, a point or a few for every class; a temperature or a margin that is
learned rather than chosen. They are parameters like those of the network and trained by the same optimizer.

A number that has to stay within limits is learned in a coordinate that has none: what is positive as its logarithm,
what lies between two ends as the logit of how far it is from one to the other. So no step leaves the limits.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from metric_jax import memory as memories
from metric_jax.limits import Limits
from metric_jax.memory import Memory
from metric_jax.types import AxisName


class Learned(NamedTuple):
    """A number that is learned: where it starts, and the limits that it stays within."""

    start: float
    limits: Limits

    def coordinate(self) -> float:
        """Where it starts, in the coordinate that has no limits; infinite or NaN if that is no inner point of them."""
        low, high = self.limits.low, self.limits.high
        if low == -math.inf:
            return self.start
        if not low < self.start < high:
            return math.nan
        above = math.log(self.start - low)
        return above if high == math.inf else above - math.log(high - self.start)

    def value(self, coordinate: Array) -> Array:
        """The number at a coordinate."""
        low, high = self.limits.low, self.limits.high
        if low == -math.inf:
            return coordinate
        return low + (jnp.exp(coordinate) if high == math.inf else (high - low) * jax.nn.sigmoid(coordinate))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """A loss with its options filled in; from `choices.loss`.

    Attributes:
        loss: ``(embeddings, labels, [proxies,] **learned, **references) -> scalar``.
        learned: The numbers among its options that are learned, by their names.
        proxies: None if it has none; else the shape of those of one class, ``()`` or ``(centers,)``, without the dim.
        memory_start: The step from which on a memory is compared with; before, it only fills.
        before: What is minimised in the first ``before_steps`` steps instead, a loss without parameters.
        before_steps: How many these are.
    """

    loss: Callable[..., Array]
    learned: Mapping[str, Learned] = dataclasses.field(default_factory=dict)
    proxies: tuple[int, ...] | None = None
    memory_start: int = 0
    before: Callable[..., Array] | None = None
    before_steps: int = 0

    @property
    def learns(self) -> bool:
        """Whether the loss has parameters."""
        return bool(self.learned) or self.proxies is not None

    def init(self, key: Array, *, classes: int, dim: int) -> dict[str, Array]:
        """The parameters of the loss; none, if it learns nothing.

        Args:
            key: Draws the proxies, normal and on average of length 1.
            classes: Of the training set; its labels are 0, 1, ... below that.
            dim: Of the embeddings.

        Returns:
            A coordinate for every learned number, and ``proxies [classes, dim]`` or ``[classes, centers, dim]``.
        """
        params = {name: jnp.float32(number.coordinate()) for name, number in self.learned.items()}
        if self.proxies is not None:
            params["proxies"] = jax.random.normal(key, (classes, *self.proxies, dim)) / math.sqrt(dim)
        return params

    def values(self, params: Mapping[str, Array]) -> dict[str, Array]:
        """The learned numbers as the loss takes them."""
        return {name: number.value(params[name]) for name, number in self.learned.items()}

    def of_one_point(self, labels: Int[Array, "batch"], *, dim: int) -> tuple[float, float]:
        """What the loss of the first steps, and then the loss itself, is when all embeddings are one point.

        That is without a memory, and with the learned numbers where they start.

        Args:
            labels: Of a batch.
            dim: Of the embeddings.

        Returns:
            Two numbers, the same if there are no other first steps; NaN for a loss with proxies.
        """
        rows = jnp.full((len(labels), dim), 1 / math.sqrt(dim))
        after = math.nan
        if self.proxies is None:
            params = self.init(jax.random.key(0), classes=0, dim=dim)
            after = float(self.loss(rows, labels, **self.values(params)))
        return after if self.before is None else float(self.before(rows, labels)), after

    def __call__(
        self,
        embeddings: Float[Array, "batch dim"],
        labels: Int[Array, "batch"],
        params: Mapping[str, Array],
        *,
        step: Array,
        memory: Memory | None = None,
        mesh: Mesh | None = None,
    ) -> Float[Array, ""]:
        """The loss of a batch, whose anchors meet the memory too, if there is one.

        On several devices each compares its anchors with the whole batch, and with the whole memory, which are gathered
        once; left to itself, XLA would leave the references where they are and exchange results for every tile.

        Args:
            embeddings: ``[batch, dim]``.
            labels: ``[batch]``; with proxies, from 0 to their number.
            params: As from `init`.
            step: How many steps were taken before this one.
            memory: Embeddings of earlier batches.
            mesh: The devices that the batch is spread over; None if it is not.

        Returns:
            A scalar.
        """
        references: dict[str, Array] = {}
        if memory is not None:
            references = memories.references(memory)
            references["reference_where"] &= step >= self.memory_start
        if mesh is None:
            return self._of_part(embeddings, labels, references, params, step, axis_name=None)
        rows, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
        return jax.shard_map(
            functools.partial(self._of_part, axis_name=mesh.axis_names),
            mesh=mesh,
            in_specs=(rows, rows, rows, whole, whole),
            out_specs=whole,
        )(embeddings, labels, jax.tree.map(lambda x: _filled_up(x, mesh.size), references), params, step)

    def _of_part(
        self,
        embeddings: Array,
        labels: Array,
        references: Mapping[str, Array],
        params: Mapping[str, Array],
        step: Array,
        *,
        axis_name: AxisName,
    ) -> Array:
        """The loss of the whole batch and memory, of which a device has these parts."""
        options: dict[str, Any] = {**references, "axis_name": axis_name}
        if references:
            options["with_batch"] = True
        proxies = [] if self.proxies is None else [params["proxies"]]
        loss = functools.partial(self.loss, embeddings, labels, *proxies, **self.values(params), **options)
        if self.before is None:
            return loss()
        before = functools.partial(self.before, embeddings, labels, **options)
        return lax.cond(step < self.before_steps, before, loss)


def _filled_up(array: Array, multiple: int) -> Array:
    """With zeros, False among them, to so many rows that the devices can share them."""
    return jnp.pad(array, [(0, -len(array) % multiple), *[(0, 0)] * (array.ndim - 1)])
