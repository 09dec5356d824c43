"""Data parallel: the batch lies spread over all devices, the state on each of them.

Nothing else has to be said. The step is written for one device and plainly jitted; XLA sees how its arguments lie and
adds the communication. So the loss is that of the global batch, every anchor is compared with all of it, and the
numbers are those of one device.
"""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def mesh(batch_size: int) -> Mesh:
    """A mesh of one axis over as many of the devices present as divide the batch.

    Example:
        >>> mesh(12).size, mesh(7).size  # of 8 devices
        (6, 7)
    """
    count = max(n for n in range(1, jax.device_count() + 1) if batch_size % n == 0)
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


def replicated(mesh: Mesh) -> NamedSharding:
    """All of an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def spread(mesh: Mesh) -> NamedSharding:
    """Equal parts of an array's first axis on the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def place(batch: Any, mesh: Mesh) -> Any:
    """A batch, an array or a pytree of them, spread over the devices."""
    return jax.device_put(batch, spread(mesh))
