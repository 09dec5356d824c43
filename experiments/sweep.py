r"""Trains several configs with several seeds each, and tells in one table how they compare.

    python experiments/sweep.py --configs=configs/digits.py,configs/mnist.py --seeds=0,1,2 --workdir=runs/sweep \
        --set=data.data_dir=TFDS_FOLDER
    python experiments/sweep.py --configs=configs/digits.py --seeds=0,1,2,3,4 --workdir=runs/losses \
        --set=loss.name=batch_hard_triplet_loss,supcon_loss --set=steps=300

Every --set is a key of configs/base.py and what it is to be; with several values, separated by commas, each is a row
of the table, and with several such keys each combination. A row's number is the mean over its seeds, ± half its 95 %
interval by Student's t: what other seeds would change of the mean, on this very test set. The workdir holds the runs,
and the table as sweep.md and sweep.json, renewed after every run. The same command again goes on where it was
interrupted. Exit codes: 0 when all is trained, 2 when something is wrong, 130 after Ctrl-C, 143 after SIGTERM.
"""

import ast
import functools
import importlib.util
import itertools
import json
import math
import pathlib
import re
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags
from jax.scipy.special import betainc
from ml_collections import ConfigDict

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a script sees its own folder alone

from experiments import command, interrupt
from metric_jax import training
from metric_jax.data import datasets
from metric_jax.data.errors import unknown
from metric_jax.training import NonFiniteError, RunError, StoppedError
from metric_jax.training.folders import RESULTS, flatten, replace

_BETWEEN_VALUES = re.compile(r",(?![^()\[\]]*[)\]])")  # a comma, but for those of a tuple or list
SHOWN = ("map_at_r", "precision@1")


class Row(NamedTuple):
    """What is trained with every seed."""

    name: str
    config: ConfigDict


class Trained(NamedTuple):
    """A run of a row: its folder, and its results, None if it diverged."""

    seed: int
    home: pathlib.Path
    results: dict[str, float] | None


def main(workdir: str, configs: Sequence[str], seeds: Sequence[int], settings: Sequence[str] = ()) -> int:
    """Trains and tells.

    Args:
        workdir: Where the runs and the table go.
        configs: Config files.
        seeds: The seed of each run of a row.
        settings: ``key=value`` or ``key=value,value``.

    Returns:
        The exit code.

    Raises:
        RunError: A config that cannot be trained, told before any is.
    """
    if len(set(seeds)) < len(seeds) or not seeds:
        raise RunError(f"--seeds must name different seeds, got {', '.join(map(str, seeds)) or 'none'}")
    if not configs:
        raise RunError("--configs is empty: name config files, separated by commas")
    folder = pathlib.Path(workdir)
    rows = list(variants(configs, settings))
    homes = [home_of(row, folder) for row in rows]
    for row, home in zip(rows, homes, strict=True):
        training.check(row.config)
        if not all((home / f"seed{seed}" / RESULTS).exists() for seed in seeds):
            datasets.check_prepared(**row.config.data)
        if homes.count(home) > 1:
            raise RunError(
                f"two rows are called {row.name!r}, and would share {home}: rename a config file, or set no value twice"
            )
    table: list[dict[str, Any]] = []
    for row in rows:
        table.append({"run": row.name, "seeds": [], "diverged": []})
        found: list[Mapping[str, float]] = []
        try:
            for run in trained(row, seeds, folder):
                table[-1]["diverged" if run.results is None else "seeds"].append(run.seed)
                found += [] if run.results is None else [run.results]
                table[-1].update(summary(found))
                replace(folder / "sweep.json", json.dumps(table, indent=2))
                replace(folder / "sweep.md", markdown(table))
        except StoppedError as stopped:
            print(f"sweep: {stopped}", file=sys.stderr)
            return interrupt.TERMINATED
    print(markdown(table), end="")
    return 0


def trained(row: Row, seeds: Sequence[int], folder: pathlib.Path) -> Iterator[Trained]:
    """Trains a row with every seed, or goes on with a run, or, where it is finished, only reads its results.

    Args:
        row: What is trained; its config gets the seeds.
        seeds: The seed of each run.
        folder: Where the row's own folder goes.

    Yields:
        Every run, as soon as it is finished.
    """
    for seed in seeds:
        row.config.seed = seed
        home = home_of(row, folder) / f"seed{seed}"
        print(f"--- {row.name}, seed {seed}, in {home}", file=sys.stderr, flush=True)
        results = None
        try:
            results = training.train_and_evaluate(row.config, str(home))
        except NonFiniteError as error:  # is a result too, of this row
            print(error, file=sys.stderr)
        jax.clear_caches()  # the next row compiles its own
        yield Trained(seed, home, results)


def home_of(row: Row, folder: pathlib.Path) -> pathlib.Path:
    """The folder of a row's runs."""
    return folder / re.sub(r"[^\w.=@,-]+", "_", row.name)


def only(configs: Sequence[str], settings: Sequence[str]) -> Row:
    """The row of a config, where several are not wanted."""
    row, *others = variants(configs, settings)
    if others:
        raise RunError("--set takes one value of each key here: sweep.py takes several")
    return row


def variants(configs: Sequence[str], settings: Sequence[str]) -> Iterator[Row]:
    """The rows: every config with every combination of the values that are set."""
    choices = []
    for setting in settings:
        key, equals, values = setting.partition("=")
        if not equals or not key:
            raise RunError(f"--set={setting} must be KEY=VALUE or KEY=VALUE,VALUE")
        if key == "seed":
            raise RunError(f"--set={setting}: the seeds are those of --seeds")
        choices.append([(key, value) for value in _BETWEEN_VALUES.split(values)])
    for path in configs:
        for combination in itertools.product(*choices):
            config = load(path)
            for key, value in combination:
                change(config, key, value)
            told = [f"{k}={v}" for (k, v), among in zip(combination, choices, strict=True) if len(among) > 1]
            yield Row(" ".join([pathlib.Path(path).stem, *told]), config)


def load(path: str) -> ConfigDict:
    """The config of a config file."""
    spec = importlib.util.spec_from_file_location("config_of_a_sweep", path)
    if spec is None or spec.loader is None:
        raise RunError(f"{path} is no config file: it must be a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # whatever is wrong with what the file does
        told = str(error.args[0] if error.args else type(error).__name__).partition(" Other fields")[0]
        raise RunError(f"{path}: {' '.join(told.split())}") from error
    if not isinstance(config, ConfigDict):
        raise RunError(f"{path}: get_config() must return a ConfigDict, got {type(config).__name__}")
    return config


def change(config: ConfigDict, key: str, text: str) -> None:
    """Sets a key of a config to what a text says: a number, True, False, or a word."""
    known = flatten(config.to_dict())
    if key not in known:
        raise RunError(unknown("config key", key, known))
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # whatever is no literal
        value = text
    try:
        config.update_from_flattened_dict({key: value})
    except TypeError as error:
        raise RunError(f"--set={key}={text}: {error}") from error


def seed_of(text: str) -> int:
    """The number that a text is."""
    if not text.isdecimal():
        raise RunError(f"--seeds must be whole numbers, got {text!r}")
    return int(text)


def summary(found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean, interval and values of every metric that all of these results have."""
    common = [key for key in (found[0] if found else ()) if all(key in each for each in found)]
    told: dict[str, Any] = {}
    for key in common:
        values = [each[key] for each in found]
        half = half_interval(values)
        told[key] = {"mean": statistics.mean(values), "half_interval": half, "values": values}
    return told


def half_interval(values: Sequence[float], level: float = 0.95) -> float | None:
    """``t s / √n`` of Student (1908), https://doi.org/10.1093/biomet/6.1.1; None of a single value.

    Example:
        >>> round(half_interval([1.0, 2.0, 4.0]), 3)
        3.795
    """
    freedom = len(values) - 1
    if freedom < 1:
        return None
    return _student(freedom, level) * statistics.stdev(values) / math.sqrt(len(values))


@functools.cache
def _student(freedom: int, level: float) -> float:
    """The t beyond whose ± lies what the level leaves, by halving."""
    low, high = 0.0, 1000.0
    for _ in range(60):
        t = (low + high) / 2
        beyond = float(betainc(freedom / 2, 0.5, freedom / (freedom + t * t)))
        low, high = (t, high) if beyond > 1 - level else (low, t)
    return t


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The table, a row a line, each metric followed by that of raw pixels."""
    shown = [key for metric in SHOWN for key in (metric, f"baseline_{metric}")]
    titles = ["run", "seeds", *(key.replace("baseline_", "raw pixels' ") for key in shown)]
    lines = [titles, ["---"] * len(titles)]
    for row in table:
        seeds = str(len(row["seeds"])) + (f", and {len(row['diverged'])} diverged" if row["diverged"] else "")
        lines.append([row["run"], seeds, *(cell(row.get(key)) for key in shown)])
    return table_of(lines)


def table_of(lines: Sequence[Sequence[str]]) -> str:
    """Markdown's table of these cells, a line each."""
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(found: Mapping[str, Any] | None, digits: int = 4) -> str:
    """A mean and half its interval, of `summary`; empty if there is none."""
    if found is None:
        return ""
    half = "" if found["half_interval"] is None else f" ± {found['half_interval']:.{digits}f}"
    return f"{found['mean']:.{digits}f}{half}"


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the sweep; made if it is not there.")
    CONFIGS = flags.DEFINE_list("configs", ["configs/digits.py"], "The config files, separated by commas.")
    SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "The seeds, separated by commas.")
    SET = flags.DEFINE_multi_string(
        "set", [], "KEY=VALUE, or KEY=VALUE,VALUE for a row each; may be repeated."
    )
    command.start(
        "sweep",
        lambda: main(WORKDIR.value, CONFIGS.value, [seed_of(text) for text in SEEDS.value], SET.value),
        usage=__doc__,
    )
