"""What the loss of a batch costs each of several devices, as the compiled program says: docs/scale.md explains it.

    python experiments/scale.py     # seconds; one CPU stands in for 1, 2, 4 and 8 devices

Nothing runs. For every number of devices the loss and its gradient are compiled as the training step computes them, the
batch spread over the devices. Read off are the bytes that a device receives in collectives, the memory it needs for
intermediate results, and its floating-point operations. Two tables: a global batch that stays as it is, and one that
grows with the devices.
"""

import inspect
import math
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 " + os.environ.get("XLA_FLAGS", "")
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a script sees its own folder alone

import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import metric_jax as mj
from experiments import command
from metric_jax.data.errors import unknown
from metric_jax.training import RunError

BATCH = flags.DEFINE_integer(
    "batch", 4096, "The global batch of the first table, of eight devices in the second."
)
DIM = flags.DEFINE_integer("dim", 128, "Of the embeddings.")
LOSSES = flags.DEFINE_list("losses", ["batch_hard_triplet_loss", "supcon_loss"], "Names of batch losses.")

DEVICES = (1, 2, 4, 8)
ITEM_BYTES = {"f32": 4, "s32": 4, "pred": 1}


class Cost(NamedTuple):
    """What one device does in one step: bytes it receives, bytes of intermediates, operations."""

    received: float
    temporaries: float
    operations: float


def cost(loss: Callable[..., Any], *, batch: int, dim: int, devices: int) -> Cost:
    """The cost of a loss and its gradient with respect to the embeddings.

    Args:
        loss: A batch loss.
        batch: The global batch.
        dim: Of the embeddings.
        devices: How many share it.
    """
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])
    rows = PartitionSpec("data")

    def compiled(**options: Any) -> Any:
        def part(embeddings: Any, labels: Any) -> Any:
            return loss(embeddings, labels, axis_name="data", **options)

        whole = jax.shard_map(part, mesh=mesh, in_specs=(rows, rows), out_specs=PartitionSpec())
        shapes = ((batch, dim), jnp.float32), ((batch,), jnp.int32)
        arguments = [
            jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, rows)) for shape, dtype in shapes
        ]
        return jax.jit(jax.value_and_grad(whole)).lower(*arguments).compile()

    program = compiled()
    operations = compiled(tile=batch // devices).cost_analysis()["flops"]  # of a loop it would count one turn
    return Cost(
        received(program.as_text(), devices), program.memory_analysis().temp_size_in_bytes, operations
    )


def received(program: str, devices: int) -> float:
    """The bytes that a device receives in the collectives of a program.

    In a ring of n devices each receives (n - 1)/n of what is gathered or scattered; of what is reduced for all, twice
    that.
    """
    total = 0.0
    for shapes, kind in re.findall(r"= (.+?) (all-gather|all-reduce|reduce-scatter)\(", program):
        size = sum(
            ITEM_BYTES[kind] * math.prod(int(n) for n in dims.split(",") if n)
            for kind, dims in re.findall(r"(f32|s32|pred)\[([\d,]*)\]", shapes)
        )
        whole = {"all-gather": size, "all-reduce": 2 * size, "reduce-scatter": size * devices}[kind]
        total += whole * (devices - 1) / devices
    return total


def of_labels() -> list[str]:
    """The names of the losses that take embeddings and labels, and nothing else that has no default."""
    needed = {
        name: [key for key, each in inspect.signature(loss).parameters.items() if each.default is each.empty]
        for name, loss in vars(mj).items()
        if name.endswith("_loss")
    }
    return [name for name, keys in needed.items() if keys == ["embeddings", "labels"]]


def main() -> None:
    """Prints the tables."""
    if BATCH.value < 8 or BATCH.value % 8 or DIM.value < 1:
        raise RunError(
            f"--batch must be a positive multiple of 8, and --dim positive, got {BATCH.value} and {DIM.value}"
        )
    for name in LOSSES.value:
        if name not in of_labels():
            raise RunError(unknown("--losses", name, of_labels()))
    for name in LOSSES.value:
        for title, batch_of in (
            ("the same global batch", lambda devices: BATCH.value),
            ("a global batch that grows with the devices", lambda devices: BATCH.value * devices // 8),
        ):
            print(f"\n{name}, {title}, dim {DIM.value}; each device:\n")
            print("| devices | global batch | received, MB | intermediates, MB | Gflop |")
            print("| ---: | ---: | ---: | ---: | ---: |")
            for devices in DEVICES:
                batch = batch_of(devices)
                found = cost(getattr(mj, name), batch=batch, dim=DIM.value, devices=devices)
                numbers = found.received / 1e6, found.temporaries / 1e6, found.operations / 1e9
                print(f"| {devices} | {batch:,} | " + " | ".join(f"{x:,.2f}" for x in numbers) + " |")


if __name__ == "__main__":
    command.start("scale", main, usage=__doc__)
