"""Trains a network as a config says, evaluates it on the config's test set, and prints the results.

    python experiments/train.py --config=configs/digits.py --workdir=runs/digits
    python experiments/train.py --config=configs/omniglot.py --workdir=runs/omniglot --config.data.data_dir=TFDS_FOLDER

Any key of configs/base.py can be set by a flag. The same command again resumes a run that was interrupted. Exit codes:
0 when it is finished, 1 when something is wrong, which the last line tells, 130 after Ctrl-C, and 143 after SIGTERM,
which saves a checkpoint first.
"""

import difflib
import os
import pathlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # where configs find configs.base

from experiments import interrupt

CONFIG = config_flags.DEFINE_config_file("config", None, "The config file.", lock_config=True)
INTERRUPTED = "train: interrupted; the same command goes on from the newest checkpoint"

COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of the first of several processes.")
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes train together.")
PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0.")
WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run; made if it is not there.")


def main(arguments: list[str]) -> None:
    """Runs, or says in one line why not."""
    sys.unraisablehook = unraisable
    interrupt.watch(INTERRUPTED)
    try:
        run(arguments)
    except KeyboardInterrupt:
        interrupt.end(INTERRUPTED)


def run(arguments: list[str]) -> None:
    """Trains as the flags say, and prints the results."""
    if len(arguments) > 1:
        raise app.UsageError(f"unknown argument {arguments[1]!r}")
    is_finished = os.path.exists(f"{WORKDIR.value}/results.json")  # these are told without the data
    if PROCESSES.value is None and not is_finished:  # several are to end together
        end_without_data()
    # Takes seconds, in which a wrong flag or a missing set has long been told.
    from metric_jax import training
    from metric_jax.training.evaluate import table

    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.FATAL)  # Orbax tells of every file, and a page of what fails
    try:
        training.start(COORDINATOR.value, PROCESSES.value, PROCESS.value)
        results = training.train_and_evaluate(CONFIG.value, WORKDIR.value)
    except training.StoppedError as stopped:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one that comes now is about what is done already
        print(f"train: {stopped}", file=sys.stderr)
        sys.exit(interrupt.TERMINATED)
    except training.USER_ERRORS as error:
        sys.exit(f"train: {error}")
    if training.is_first():
        print(table(results))


def end_without_data() -> None:
    """Ends in one line if the config's TFDS set or folder is not there."""
    from metric_jax.data import DataError, datasets

    try:
        datasets.check_prepared(**CONFIG.value.data)
    except DataError as error:
        sys.exit(f"train: {error}")


def unraisable(found: Any) -> None:
    """Tells what Python would, but for what follows a save that failed: Orbax closes a loop that is still in use."""
    if str(found.exc_value) != "Event loop is closed" or flags.FLAGS["verbosity"].present:
        sys.__unraisablehook__(found)


def parse(arguments: list[str]) -> list[str]:
    """Parses flags as absl does, and says in one line what is wrong with a config."""
    try:
        rest = app.parse_flags_with_usage(arguments)
        CONFIG.value.lock()  # a file that could not be loaded raises when it is first used
    except (AttributeError, KeyError, OSError) as error:
        text = str(error.args[0] if isinstance(error, KeyError) else error)
        told = " ".join(text.partition(" Other fields")[0].split())
        sys.exit(f"train: {unknown_key(arguments) or told}")
    return rest


def unknown_key(arguments: list[str]) -> str:
    """What to say of the first ``--config.key=...`` that names no key; empty if all do."""
    from configs import base

    keys = set(names(base.get_config()))
    for argument in arguments:
        dashes, dot, key = argument.partition("=")[0].partition("config.")
        if dashes.startswith("-") and dot and key not in keys:
            meant = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
            hint = f", did you mean {meant[0]!r}?" if meant else ":"
            return f"unknown config key {key!r}{hint} configs/base.py declares them all"
    return ""


def names(config: ConfigDict) -> Iterator[str]:
    """The keys of a config, nested ones joined with dots."""
    for key, value in config.items():
        yield from (f"{key}.{name}" for name in names(value)) if isinstance(value, ConfigDict) else [key]


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse)
