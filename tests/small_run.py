"""A training run small enough for a test, on real images."""

import json
import pathlib

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
