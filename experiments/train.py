"""Trains a network as a config says, evaluates it on the config's test set, and prints the results.

    python experiments/train.py --config=configs/digits.py --workdir=runs/digits
    python experiments/train.py --config=configs/omniglot.py --workdir=runs/omniglot --config.data.data_dir=TFDS_FOLDER

Any key of configs/base.py can be set by a flag; None switches off what is None there. The same command again resumes a
run that was interrupted. Exit codes: 0 when it is finished, 1 when something is wrong, which the last line tells, 130
after Ctrl-C, and 143 after SIGTERM, which saves a checkpoint first.
"""

import os
import pathlib
import signal
import sys
from typing import Any

from absl import flags, logging
from ml_collections import config_flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # where configs find configs.base

from experiments import command, interrupt

CONFIG = config_flags.DEFINE_config_file("config", None, "The config file.", lock_config=True)
FAILED = 1

COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of the first of several processes.")
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes train together.")
PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0.")
WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run; made if it is not there.")


def start() -> None:
    """Parses the command line and runs, or says in one line why not."""
    command.parse("train", usage=__doc__, code=FAILED)
    main()


def main() -> None:
    """Runs what the flags say, and ends in one line at a Ctrl-C."""
    sys.unraisablehook = unraisable
    interrupt.watch(interrupted)
    try:
        run()
    except KeyboardInterrupt:
        interrupt.end(interrupted())


def run() -> None:
    """Trains as the flags say, and prints the results."""
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


def interrupted() -> str:
    """What to say at a Ctrl-C: from where the same command goes on."""
    checkpoints = pathlib.Path(WORKDIR.value, "checkpoints").glob("*")
    if any(path.name.isdecimal() for path in checkpoints):
        return "train: interrupted; the same command goes on from the newest checkpoint"
    return "train: interrupted before the first checkpoint; the same command starts anew"


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


if __name__ == "__main__":
    start()
