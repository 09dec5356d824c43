"""An external referee: the same training by PyTorch and pytorch-metric-learning (PML), step by step.

    python experiments/referee.py --workdir=runs/referee
    python experiments/referee.py --workdir=runs/referee --losses=supcon --seeds=0,1 --set=steps=300

One side is `training.train_and_evaluate`, as train.py calls it. The other is written with torch's own layers, torch's
optimizer and PML's miner and loss; it is given the initial weights, the batches (augmented, if the config augments)
and the learning rate of every step, and nothing else. Two things are asked:

*   Do the losses of the first 20 steps agree, to a relative 1e-3? In float32 rounding grows with every step: a hardest
    negative is another one, a ReLU opens, and two runs part, the sooner the faster they learn. How fast it does says
    torch alone, which trains once more from weights that are one rounding off: the column "by rounding alone". Where
    that is beyond 1e-3 nothing could agree; a warm-up and a small learning rate keep it below.
*   Does the network that torch trained end as good? Its MAP@R on the test set, measured by the library like the other,
    may differ on average by half the 95 % interval of the library's own, which is what other seeds would change of it.

Takes the digits, or any config of the network ``convnet`` with BatchNorm, of Adam or SGD. Needs the extra ``oracle``:
``make test-oracles`` installs it. The workdir holds the runs, and the table as referee.md and referee.json. Exit codes:
0 when both agree, 1 when they do not, 2 when something is wrong.
"""

import importlib.util
import itertools
import json
import pathlib
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a script sees its own folder alone

from configs import base
from experiments import beginning, command, interrupt, sweep
from metric_jax import data, training
from metric_jax.data import Images, datasets
from metric_jax.data.errors import unknown
from metric_jax.evaluation import retrieval
from metric_jax.training import RunError, StoppedError, choices, folders, optimizers
from metric_jax.training.step import to_unit

LOSSES = {"batch_hard": "batch_hard_triplet_loss", "supcon": "supcon_loss"}
FIRST, CLOSE = 20, 1e-3
DIFFER = 1  # the exit code
NUMBERS = ("margin", "temperature")  # of a loss, which the torch side takes
# Keys that the torch side takes as they are, and what else it knows of others than their default.
FREE = {f"loss.{name}" for name in (*NUMBERS, "name")} | {
    f"model.{name}" for name in ("width", "blocks", "dim")
}
FREE |= {f"optimizer.{k}" for k in "learning_rate schedule warmup final drop drops momentum".split()}
MAY_BE = {"optimizer.name": ("sgd",), "model.norm": ("batch",)}


class Outcome(NamedTuple):
    """What one side's training came to: the loss of every step, MAP@R on the test set."""

    losses: list[float]
    map_at_r: float
    nudged: Sequence[float] = ()  # the first losses from weights that are one rounding off


def main(
    workdir: str, path: str, losses: Sequence[str], seeds: Sequence[int], settings: Sequence[str] = ()
) -> int:
    """Trains on both sides and compares.

    Args:
        workdir: Where the runs and the table go.
        path: The config file.
        losses: Keys of `LOSSES`.
        seeds: Two or more, for their spread.
        settings: ``key=value`` of the config.

    Returns:
        The exit code.

    Raises:
        RunError: The extra is not installed, or the config is none that the torch side has written out.
    """
    for library in ("torch", "pytorch_metric_learning"):
        if importlib.util.find_spec(library) is None:
            raise RunError(
                f"{library} is not installed: `make test-oracles`, or .venv/bin/pip install -e '.[oracle]', installs it"
            )
    if len(set(seeds)) < max(2, len(seeds)):
        raise RunError(f"--seeds must name two different seeds or more, got {', '.join(map(str, seeds))}")
    if not losses:
        raise RunError(f"--losses is empty: name some of {', '.join(LOSSES)}")
    for name in losses:
        if name not in LOSSES:
            raise RunError(unknown("--losses", name, LOSSES))
    rows = [sweep.Row(name, configured(path, settings, name)) for name in losses]
    table, folder = [], pathlib.Path(workdir)
    for row in rows:
        try:
            runs = list(sweep.trained(row, seeds, folder))
        except StoppedError as stopped:
            print(f"referee: {stopped}", file=sys.stderr)
            return interrupt.TERMINATED
        pairs = []
        for run in runs:
            if run.results is None:
                raise RunError(f"{row.name} diverged with seed {run.seed}: choose a smaller learning rate")
            row.config.seed = run.seed
            lines = (run.home / folders.METRICS).read_text().splitlines()
            own = Outcome([json.loads(line)["loss"] for line in lines], run.results["map_at_r"])
            pairs.append((own, in_torch(row.config)))
        table.append(verdict(row, pairs))
        folders.replace(folder / "referee.json", json.dumps(table, indent=1) + "\n")
        folders.replace(folder / "referee.md", markdown(table))
    print(markdown(table), end="")
    return 0 if all(row["agrees"] for row in table) else DIFFER


def configured(path: str, settings: Sequence[str], name: str) -> ConfigDict:
    """The config of one loss, which logs every step; a RunError if the torch side has not all that it asks for."""
    config = sweep.only([path], [*settings, "log_every=1", f"loss.name={LOSSES[name]}"]).config
    plain = base.get_config()
    training.check(config)
    same = ("ema", "memory", "loss", "optimizer", "model", "batch.sampler", "batch.chunk")
    same += ("eval_views", "eval_mirrored", "eval_whitening", "patience")
    asked, known = (folders.flatten(each.to_dict()) for each in (config, plain))
    for key, value in asked.items():
        if key.startswith(same) and key not in FREE and value not in (known[key], *MAY_BE.get(key, ())):
            raise RunError(f"the torch side knows no {key}={value!r}: leave it at {known[key]!r}")
    return config


def in_torch(config: ConfigDict) -> Outcome:
    """Trains the network of a config by torch and PML, and measures it as the library's own."""
    from experiments import referee_torch

    train, test = datasets.load(**config.data)
    network, key = beginning.network(config, train.images.shape[1:])
    wanted = config.optimizer
    rate = optimizers.schedule(
        wanted.schedule,
        learning_rate=wanted.learning_rate,
        warmup=wanted.warmup,
        steps=config.steps,
        final=wanted.final,
        drop=wanted.drop,
        drops=wanted.drops,
    )
    options = {**choices.hyperparameters(config.loss.name)}
    options |= {name: config.loss[name] for name in NUMBERS if config.loss[name] is not None}
    fixed = {
        "criterion": referee_torch.CRITERIA[config.loss.name](options),
        "optimizer": wanted.name,
        "momentum": optimizers.MOMENTUM if wanted.momentum is None else wanted.momentum,
    }
    rates = [float(rate(step)) for step in range(config.steps)]
    theirs, nudged = referee_torch.ConvNet(network), referee_torch.ConvNet(network)
    losses = referee_torch.train(theirs, batches(config, train, key), rates=rates, **fixed)
    referee_torch.nudge(nudged)
    first = list(itertools.islice(batches(config, train, key), FIRST))
    again = referee_torch.train(nudged, first, rates=rates[:FIRST], **fixed)
    rows = referee_torch.embed(theirs, np.asarray(to_unit(test.images)))
    distance = choices.distance(config.loss.distance, loss=config.loss.name)
    found = retrieval(jnp.asarray(rows), jnp.asarray(test.labels), ks=(1,), distance=distance)
    return Outcome(losses, found["map_at_r"], again)


def batches(config: ConfigDict, train: Images, key: jax.Array) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The images, as the network gets them, and labels of every step of `training.train_and_evaluate`."""
    sampler = choices.sampler(train, **config.batch, seed=config.seed)
    augment = choices.augmentation(**config.augment)

    @jax.jit
    def seen(images: jax.Array, step: int) -> jax.Array:
        given = to_unit(images)
        return given if augment is None else augment(given, jax.random.fold_in(key, step))

    for step, batch in enumerate(data.batches(data.renumbered(train), sampler, count=config.steps)):
        yield np.asarray(seen(batch.images, step)), batch.labels


def verdict(row: sweep.Row, pairs: Sequence[tuple[Outcome, Outcome]]) -> dict[str, Any]:
    """What referee.json holds of one loss, of (our, their) outcomes seed by seed."""
    first = [(ours.losses[:FIRST], theirs.losses[:FIRST], theirs.nudged) for ours, theirs in pairs]
    curve = max(apart(ours, theirs) for ours, theirs, _ in first)
    rounding = max(apart(theirs, nudged) for _, theirs, nudged in first)
    ours, theirs = ([pair[side].map_at_r for pair in pairs] for side in (0, 1))
    difference, allowed = statistics.mean(theirs) - statistics.mean(ours), sweep.half_interval(ours) or 0.0
    return {
        "loss": row.name,
        "optimizer": row.config.optimizer.name,
        "steps": row.config.steps,
        "curve": curve,
        "rounding": rounding,
        "ours": ours,
        "theirs": theirs,
        "difference": difference,
        "allowed": allowed,
        "agrees": curve <= CLOSE and abs(difference) <= allowed,
        "first_losses": [[float(f"{loss:.6g}") for loss in side] for side in first[0]],
    }


def apart(losses: Sequence[float], others: Sequence[float]) -> float:
    """The largest relative difference of two curves."""
    return float(np.max(np.abs(np.array(others) / np.array(losses) - 1)))


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The table, a loss a line."""
    first = f"largest difference of the first {FIRST} losses"
    titles = [
        "loss",
        "optimizer",
        first,
        "by rounding alone",
        "MAP@R",
        "by torch and PML",
        "difference",
        "seeds change",
        "agree",
    ]
    lines = [titles, ["---"] * len(titles)]
    for row in table:
        means = [f"{statistics.mean(row[side]):.4f}" for side in ("ours", "theirs")]
        ends = [f"{row['difference']:+.4f}", f"± {row['allowed']:.4f}", "yes" if row["agrees"] else "no"]
        lines.append(
            [row["loss"], row["optimizer"], f"{row['curve']:.1e}", f"{row['rounding']:.1e}", *means, *ends]
        )
    return sweep.table_of(lines)


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the runs; made if it is not there.")
    CONFIG = flags.DEFINE_string("config", "configs/digits.py", "The config file.")
    CHOSEN = flags.DEFINE_list("losses", list(LOSSES), f"Of {', '.join(LOSSES)}, separated by commas.")
    SEEDS = flags.DEFINE_list("seeds", list("012"), "The seeds, separated by commas.")
    SET = flags.DEFINE_multi_string("set", [], "KEY=VALUE of the config; may be repeated.")

    def referee() -> int:
        """Runs `main` as the flags say."""
        seeds = [sweep.seed_of(text) for text in SEEDS.value]
        return main(WORKDIR.value, CONFIG.value, CHOSEN.value, seeds, SET.value)

    command.start("referee", referee, usage=__doc__)
