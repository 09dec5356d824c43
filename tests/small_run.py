"""A training run small enough for a test, on real images."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp

from configs import digits

BATCH = 16


def config(**changes):
    """The digits' config, shrunk: 12 steps of 16 images. Changes name keys with ``__`` for the dots."""
    small = digits.get_config()
    small.update_from_flattened_dict(
        {
            "steps": 12,
            "log_every": 2,
            "eval_every": 6,
            "checkpoint_every": 4,
            "eval_batch": 128,
            "batch.classes": 4,
            "batch.samples": 4,
            "model.width": 8,
            "model.dim": 8,
            "model.blocks": 2,
        }
    )
    small.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return small


def lines(workdir: pathlib.Path):
    """metrics.jsonl, parsed."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def everything(folder: pathlib.Path):
    """Every file below a folder with its bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def arrays(workdir: pathlib.Path, step: int):
    """All that a checkpoint holds, by the names of the arrays."""
    path = (workdir / "checkpoints" / str(step)).absolute()
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), ocp.metadata(path, "state").metadata
    )
    return {
        jax.tree_util.keystr(key): np.asarray(
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        )
        for key, leaf in jax.tree_util.tree_leaves_with_path(
            ocp.load(path, wanted, checkpointable_name="state")
        )
    }
