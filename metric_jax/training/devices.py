"""Data parallel: the batch lies spread over all devices, of all processes; the state on each of them, or spread too.

Nothing else has to be said. The step is written for one device and plainly jitted; XLA sees how its arguments lie and
adds the communication. So the loss is that of the global batch, every anchor is compared with all of it, and the
numbers are those of one device.

A state that lies spread (fully sharded data parallel, ZeRO) takes up as much less memory on a device as there are
devices: of every parameter a device keeps a part, with the optimizer's part that belongs to it, and gathers the whole
when a layer needs it.
"""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from metric_jax.training.errors import RunError


def mesh(batch_size: int) -> Mesh:
    """A mesh of one axis over as many of the devices present as divide the batch; over all, with several processes.

    Raises:
        RunError: There are several processes, and all their devices do not divide the batch.

    Example:
        >>> mesh(12).size, mesh(7).size  # of 8 devices
        (6, 7)
    """
    count = max(n for n in range(1, jax.device_count() + 1) if batch_size % n == 0)
    if jax.process_count() > 1 and count < jax.device_count():
        raise RunError(
            f"the {batch_size} images of a batch cannot be shared out among {jax.device_count()} devices of "
            f"{jax.process_count()} processes: choose batch.classes * batch.samples as a multiple of these"
        )
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


def jit(function: Callable[..., Any], **options: Any) -> jax.stages.Wrapped:
    """``jax.jit`` of what runs a network, not to be called by another jitted function.

    On CPU, XLA leaves convolutions to YNNPACK, which takes twice as long for them as its other way (Eigen), and for the
    gradient to a kernel up to eight times. So YNNPACK gets matrix products alone.

    Args:
        function: The function.
        **options: Of ``jax.jit``.
    """
    return jax.jit(function, compiler_options=_compiler_options(), **options)


@functools.cache
def _compiler_options() -> dict[str, str] | None:
    """What `jit` asks of the compiler; None where there is no such option, as it has no name to rely on."""
    options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return None
    return options


def keep_compiled(folder: str) -> None:
    """Keeps compiled programs in a folder, from which later runs of the same shapes take them; nowhere if it is empty.

    Raises:
        RunError: The folder cannot be made.
    """
    if not folder:
        return
    folder = os.path.expanduser(folder)
    try:
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"compiled={folder} cannot be made: {error.strerror}; name another folder") from None
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()  # else it stays where a program was kept first


def replicated(mesh: Mesh) -> NamedSharding:
    """All of an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def spread(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Equal parts of an array along an axis, the first by default, on the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def layout(state: Any, mesh: Mesh, *, sharded: bool) -> Any:
    """Where every array of a state is to lie.

    Args:
        state: A pytree of arrays.
        mesh: The devices.
        sharded: Whether an array is spread along its largest axis that the devices can share equally, if it has one;
            else all of it is on every device.

    Returns:
        Shardings in the places of the arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> found = layout({"kernel": jnp.zeros((3, 16)), "bias": jnp.zeros(5)}, mesh(8), sharded=True)
        >>> tuple(found["kernel"].spec), tuple(found["bias"].spec)
        ((None, 'data'), ())
    """

    def one(x: Any) -> NamedSharding:
        axes = [axis for axis, size in enumerate(x.shape) if size and size % mesh.size == 0]
        if not (sharded and axes):
            return replicated(mesh)
        return spread(mesh, max(axes, key=lambda axis: x.shape[axis]))

    return jax.tree.map(one, state)


def arrange(state: Any, layout: Any) -> Any:
    """A state, the same in every process, as `layout` says."""
    return jax.jit(lambda state: state, out_shardings=layout)(state)


def place(part: Any, mesh: Mesh) -> Any:
    """A batch spread over the devices: an array, or a pytree of them, of which every process has `own_part`."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(spread(mesh), x), part)


def own_part(batch: Any) -> Any:
    """The rows of an array that this process's devices hold once it is placed."""
    size = len(batch) // jax.process_count()
    return batch[jax.process_index() * size :][:size]
