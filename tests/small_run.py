"""A training run small enough for a test, on real images."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
from PIL import Image

from configs import digits

BATCH = 16
DIGITS = "configs/digits.py"
# What scripts that train may be given by --set: the least there is to train.
SMALL = ["steps=2", "eval_every=2", "checkpoint_every=2", "model.width=4", "model.dim=4", "model.blocks=2"]


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


def folder_of_classes(root: pathlib.Path, classes: int = 12):
    """Fills a folder with ten images of each class, brighter from class to class, and names it for --set.

    The classes are as large as each other: what is compiled for some of them serves others.
    """
    generator = np.random.default_rng(0)
    for label in range(classes):
        folder = root / str(label)
        folder.mkdir(parents=True)
        for number, pixels in enumerate(generator.normal(20 * label, 30, (10, 8, 8)).clip(0, 255)):
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return ["data.source=folder", f"data.root={root}"]


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
