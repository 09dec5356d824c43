"""Checkpoints as they lie on disk: which there are, and what one of them holds."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp

from metric_jax.training import folders
from metric_jax.training.errors import RunError

STATE, NOTES = "state", "notes.json"


def steps(folder: pathlib.Path) -> list[int]:
    """The steps of the checkpoints in a folder, in ascending order."""
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal())


def best_step(folder: pathlib.Path) -> int | None:
    """The step of the best checkpoint, as the newest one knows it; None without a metric by which one is best."""
    newest = folder / str(steps(folder)[-1])
    return folders.read_json(newest / NOTES).get("best")


def load(path: pathlib.Path, wanted: Any) -> Any:
    """The state of a checkpoint that was verified, or raises a RunError if it is not of these shapes and types."""
    found, expected = describe(ocp.metadata(path, STATE).metadata), describe(wanted)
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            raise RunError(
                f"{path} is of another state: {key} is {found.get(key, 'not in it')}, and this config has "
                f"{expected.get(key, 'none')}"
            )
    return ocp.load(path, wanted, checkpointable_name=STATE)


def describe(tree: Any) -> dict[str, str]:
    """Shapes and types of the arrays of a tree, by their keys joined with dots; random keys as the numbers they are."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): _kind(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _kind(leaf: Any) -> str:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    return f"{list(leaf.shape)} {np.dtype(leaf.dtype)}"
