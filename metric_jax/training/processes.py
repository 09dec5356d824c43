"""Several processes that train one model together, one on every host; where there is one alone, nothing happens here.

All run the same program on the same config and data: each feeds its rows of every batch to its devices, and what all of
them compute together is what one process with all devices would. Only the first one writes the run's files, but for
checkpoints, which all write together into a folder that all see.
"""

import os
import re

import jax
import numpy as np
from jax.experimental import multihost_utils

from metric_jax.training.errors import RunError

HEARTBEAT_SECONDS = 30  # a process that is silent for so long is dead, and all others end


def start(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Joins the other processes, before JAX is used for anything else.

    A Cloud TPU pod and Slurm say themselves who they are; elsewhere all three arguments do.

    Args:
        coordinator: ``host:port`` of the first process.
        count: How many processes there are.
        index: Which of them this is, from 0.

    Raises:
        RunError: Some arguments are there and others not, or the others cannot be reached.
    """
    given = {"--coordinator": coordinator, "--processes": count, "--process": index}
    missing = [flag for flag, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise RunError(
            f"{' and '.join(missing)} is missing: --coordinator, --processes and --process belong together"
        )
    if missing and not _in_cluster():
        return
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise RunError(f"--coordinator={coordinator} must be HOST:PORT, such as 10.0.0.1:1234")
    try:
        jax.distributed.initialize(
            coordinator, count, index, heartbeat_timeout_seconds=HEARTBEAT_SECONDS, initialization_timeout=120
        )
    except (RuntimeError, ValueError) as error:
        told = str(error).partition("\n")[0]
        raise RunError(
            f"cannot join the other processes ({told}): start all of them, with one --coordinator"
        ) from error


def is_first() -> bool:
    """Whether this is the process that writes the run's files."""
    return jax.process_index() == 0


def together(number: int) -> int:
    """The first process's number, on all of them; they wait for each other."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def asked_to_end(step: int) -> bool:
    """Whether SIGTERM came to one of several processes; all of them hear of it after the same step."""
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)


def _in_cluster() -> bool:
    """Whether this is one of several processes that a Cloud TPU pod or Slurm has started."""
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return len(hosts) > 1 or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
