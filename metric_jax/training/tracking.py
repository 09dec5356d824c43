"""Weights & Biases, which a run's metrics go to beside its own files if the config asks for it."""

import importlib.util
import pathlib
import uuid
from collections.abc import Mapping
from typing import Any

from metric_jax.training import folders
from metric_jax.training.errors import RunError

IDENTITY = "wandb_id"  # the file that holds what a run is called there, for a later session to go on with


def check(project: str) -> None:
    """Raises a RunError if there is a project to track in and no package to do it."""
    if project and importlib.util.find_spec("wandb") is None:
        raise RunError(
            f"wandb={project!r} needs the package wandb, which is not installed: pip install wandb, or leave it empty"
        )


def start(project: str, folder: pathlib.Path, config: Mapping[str, Any]) -> Any:
    """The run of Weights & Biases that belongs to a run, or None.

    Args:
        project: Where it is to be; empty for none.
        folder: The run's.
        config: The run's, nested.

    Returns:
        What has ``log(metrics, step=)`` and ``finish()``, or None.
    """
    if not project:
        return None
    import wandb

    path = folder / IDENTITY
    if not path.exists():
        folders.replace(path, uuid.uuid4().hex)
    return wandb.init(
        project=project,
        name=folder.name,
        id=path.read_text(),
        resume="allow",
        dir=str(folder),
        config=dict(config),
    )
