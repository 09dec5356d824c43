r"""Contrastive, triplet and other losses on the same data, network, budget and seeds: which learns what?

    python experiments/compare.py --workdir=runs/compare --faces=FOLDER
    python experiments/compare.py --workdir=runs/compare_digits --config=configs/digits.py --seeds=0,1,2 \
        --losses=contrastive,contrastive:margin=0.5,batch_hard,supcon:temperature=0.05 --set=steps=200

FOLDER holds the ORL faces, one folder of photos a person; where it is there, configs/faces.py is compared by default,
else configs/digits.py. A loss is one of LOSSES below or any name that config.loss.name takes, with keys of config.loss
behind colons. Every seed draws its own network and batches, and, where the config parts a set by class, its own
classes to hold out, the same for all losses. A config that tests on other images of known classes is parted by class
instead, half of them held out.

Measured, of classes that training never saw: MAP@R, recall@1 and EER; how far the images of a class are spread, hard
positives and hard negatives, as experiments/compare_measures.py defines them; all of it once more with an eyepatch on
some test images; and the spread of the classes that were trained on. Beside the losses stand raw pixels, and the
network before its first step, its BatchNorm with the statistics of the images it embeds.

A number is the mean over seeds, ± half its 95 % interval by Student's t. The workdir holds the runs, and the table and
the figure as compare.md, compare.json and compare.png, renewed after every run. The same command again goes on where
it was interrupted. Exit codes: those of sweep.py.
"""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a script sees its own folder alone

from experiments import beginning, command, compare_figure, interrupt, sweep
from experiments import compare_measures as measures
from metric_jax import training
from metric_jax.data import Images, datasets
from metric_jax.distances import euclidean
from metric_jax.training import RunError, StoppedError, choices, devices, folders, open_run, state
from metric_jax.training.evaluate import pixels
from metric_jax.training.step import to_unit

LOSSES = {
    "contrastive": "batch_contrastive_loss",
    "batch_hard": "batch_hard_triplet_loss",
    "semi_hard": "batch_semi_hard_triplet_loss",
    "batch_all": "batch_all_triplet_loss",
    "supcon": "supcon_loss",
    "multi_similarity": "multi_similarity_loss",
}
AUTO, FOLDER = "auto", "data/orl"
PIXELS, UNTRAINED = "raw pixels", "untrained"
DIFFERENCE = "map_at_r_difference"
# The rows of the table.
SHOWN = {
    "map_at_r": "MAP@R",
    DIFFERENCE: "MAP@R less that of {first}, seed by seed",
    "recall@1": "recall@1",
    "eer": "EER",
    "trained_spread": "spread of a class, trained on",
    "spread": "spread of a class, unseen",
    "hard_positives": "hard positives",
    "hard_negatives": "hard negatives",
    "gap": "gap",
    "eyepatch_map_at_r": "with eyepatches: MAP@R",
    "eyepatch_recall@1": "with eyepatches: recall@1",
    "eyepatch_eer": "with eyepatches: EER",
    "eyepatch_spread": "with eyepatches: spread",
    "eyepatch_hard_positives": "with eyepatches: hard positives",
    "eyepatch_hard_negatives": "with eyepatches: hard negatives",
    "eyepatch_shift": "how far a patch moves a photo",
}


def main(
    workdir: str,
    path: str,
    losses: Sequence[str],
    seeds: Sequence[int],
    settings: Sequence[str] = (),
    *,
    eyepatch: float = 0.5,
) -> int:
    """Trains, measures and tells.

    Args:
        workdir: Where the runs, the table and the figure go.
        path: The config file.
        losses: What is compared, ``NAME`` or ``NAME:KEY=VALUE:...``; the others are told apart from the first.
        seeds: Different ones.
        settings: ``key=value`` of the config.
        eyepatch: The share of the test images that wear one in the second part of the table.

    Returns:
        The exit code.

    Raises:
        RunError: What cannot be trained, told before anything is.
    """
    if len(set(seeds)) < len(seeds) or not seeds:
        raise RunError(f"--seeds must name different seeds, got {', '.join(map(str, seeds)) or 'none'}")
    if len(set(losses)) < len(losses) or not losses:
        raise RunError(f"--losses must name different losses, got {', '.join(losses) or 'none'}")
    if not 0 < eyepatch <= 1:
        raise RunError(f"--eyepatch must be a share above 0 and at most 1, got {eyepatch}")
    rows = {name: configured(path, settings, name) for name in losses}
    for config in rows.values():
        training.check(config)
    folder = pathlib.Path(workdir)
    found: dict[str, dict[int, Mapping[str, float]]] = {name: {} for name in (PIXELS, UNTRAINED, *rows)}
    diverged: dict[str, list[int]] = {name: [] for name in rows}
    about: dict[str, Any] = {
        "config": pathlib.Path(path).stem,
        "settings": public(settings),
        "eyepatch": eyepatch,
    }
    try:
        for seed in seeds:
            for name, wanted in rows.items():
                config, train, test = parted(wanted, seed)
                if name == losses[0]:
                    about |= {"trained_on": count(train), "tested_on": count(test)}
                    seen, unseen = (measures.some_classes(each, seed=seed) for each in (train, test))
                    worn = measures.with_eyepatches(unseen.images, probability=eyepatch, seed=seed)
                    sets = {"train": seen, "test": unseen, "worn": worn}
                    found[PIXELS][seed] = measures.everything(as_pixels, **sets, distance=euclidean)
                    found[UNTRAINED][seed] = before(config, sets)
                for run in sweep.trained(sweep.Row(name, config), [seed], folder):
                    if run.results is None:
                        diverged[name].append(seed)
                        continue
                    trained = open_run(run.home, data=config.data.to_dict())
                    found[name][seed] = measures.everything(trained.embed, **sets, distance=trained.distance)
                write(folder, tell(about, found, diverged, losses))
    except StoppedError as stopped:
        print(f"compare: {stopped}", file=sys.stderr)
        return interrupt.TERMINATED
    told = tell(about, found, diverged, losses)
    write(folder, told)
    compare_figure.save(compare_figure.draw(told), folder / "compare.png")
    print(markdown(told), end="")
    return 0


def configured(path: str, settings: Sequence[str], name: str) -> ConfigDict:
    """The config of one loss, tested on classes that it is not trained on."""
    for setting in settings:
        for key, remedy in (("loss.name", "--losses"), ("data.split_seed", "--seeds")):
            if setting.startswith(f"{key}="):
                raise RunError(f"--set={setting}: that is what {remedy} says here")
    config = by_class(path, settings).config
    loss, *options = name.split(":")
    config.loss.name = LOSSES.get(loss, loss)
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise RunError(f"--losses={name}: {option!r} must be KEY=VALUE, of config.loss")
        sweep.change(config, f"loss.{key}", value)
    return config


def by_class(path: str, settings: Sequence[str]) -> sweep.Row:
    """The one row of a config file, parted by class; by half of them, if it tests on images of known classes."""
    row = sweep.only([path], settings)
    if row.config.data.split == "image":
        row.config.data.split, row.config.data.test_fraction = "class", 0.5
    return row


def parted(wanted: ConfigDict, seed: int) -> tuple[ConfigDict, Images, Images]:
    """A config with this seed, and its training and test set; a batch has no more classes than there are to train on.

    Raises:
        RunError: A class of the test set is trained on.
    """
    config = wanted.copy_and_resolve_references()
    config.seed = config.data.split_seed = seed
    train, test = datasets.load(**config.data)
    # By name: where classes are texts, every split of a TFDS set numbers its own.
    known, asked = (set(part.columns.get("origin", part.called()).tolist()) for part in (train, test))
    if known & asked:
        raise RunError(
            f"{len(known & asked)} of the {len(asked)} classes to test on are trained on, and what is measured here is "
            "of strangers: set data.split to 'class'"
        )
    there = len(set(train.labels))
    if there < config.batch.classes:
        # Some samplers draw classes by so many at a time.
        together = {"hard_classes": 1 + config.batch.neighbours, "hierarchical": config.batch.super_classes}
        config.batch.classes = there - there % together.get(config.batch.sampler, 1)
    return config, train, test


def count(images: Images) -> dict[str, int]:
    """How many images and classes."""
    return {"images": len(images), "classes": len(set(images.labels))}


def public(settings: Sequence[str]) -> list[str]:
    """The settings but for where the data lie."""
    return [
        setting for setting in settings if setting.partition("=")[0] not in ("data.root", "data.data_dir")
    ]


def as_pixels(images: np.ndarray) -> np.ndarray:
    """``[n, height * width * channels]`` in [0, 1]: images as their own embeddings."""
    return pixels(Images(images, np.zeros(len(images), np.int32)))


def before(config: ConfigDict, sets: Mapping[str, Any]) -> dict[str, float]:
    """What is measured of the network before its first step."""
    network, _ = beginning.network(config, sets["test"].images.shape[1:])
    graphdef, *variables = state.part(network)

    @devices.jit
    def apply(images: jax.Array) -> jax.Array:
        return state.assemble(graphdef, *variables)(to_unit(images), train=True)

    def embed(images: np.ndarray) -> np.ndarray:
        return np.asarray(apply(jnp.asarray(images)))

    distance = choices.distance(config.loss.distance, loss=config.loss.name)
    return measures.everything(embed, **sets, distance=distance)


def tell(
    about: Mapping[str, Any],
    found: Mapping[str, Mapping[int, Mapping[str, float]]],
    diverged: Mapping[str, Sequence[int]],
    losses: Sequence[str],
) -> dict[str, Any]:
    """What compare.json holds: every metric's mean, half interval and values by row, and the paired differences."""
    rows, first = [], found[losses[0]]
    for name, runs in found.items():
        row = {"name": name, "seeds": list(runs), "diverged": list(diverged.get(name, []))}
        pairs = [(runs[seed], first[seed]) for seed in runs if seed in first] if name != losses[0] else []
        difference = sweep.summary([{DIFFERENCE: run["map_at_r"] - of["map_at_r"]} for run, of in pairs])
        rows.append({**row, **sweep.summary(list(runs.values())), **difference})
    return {**about, "first": losses[0], "rows": rows}


def write(folder: pathlib.Path, told: Mapping[str, Any]) -> None:
    """The table for programs and for people."""
    shortened = json.loads(json.dumps(told), parse_float=lambda text: round(float(text), 5))
    folders.replace(folder / "compare.json", json.dumps(shortened, indent=1) + "\n")
    folders.replace(folder / "compare.md", markdown(told))


def markdown(told: Mapping[str, Any]) -> str:
    """The table: a metric a line, a loss a column."""
    rows = told["rows"]
    seeds = [f"{len(r['seeds'])}" + (f", {len(r['diverged'])} diverged" * bool(r["diverged"])) for r in rows]
    lines = [["", *(row["name"] for row in rows)], ["---"] * (len(rows) + 1), ["seeds", *seeds]]
    for key, title in SHOWN.items():
        lines.append(
            [title.format(first=told["first"]), *(sweep.cell(row.get(key), digits=3) for row in rows)]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        f"| {' | '.join(text.ljust(width) for text, width in zip(line, widths, strict=True))} |\n"
        for line in lines
    )


def chosen(path: str, faces: str, settings: Sequence[str]) -> tuple[str, list[str]]:
    """The config file and its settings: that of the faces, if they are there and no other is named."""
    home = pathlib.Path(__file__).resolve().parent.parent / "configs"
    if path != AUTO:
        return path, list(settings)
    if pathlib.Path(faces).is_dir():
        return str(home / "faces.py"), [f"data.root={faces}", *settings]
    if faces != FOLDER:
        raise RunError(
            f"there is no folder --faces={faces}: --config=configs/digits.py compares on the digits"
        )
    return str(home / "digits.py"), list(settings)


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the comparison; made if it is not there.")
    CONFIG = flags.DEFINE_string(
        "config", AUTO, "The config file; auto is that of faces, if there are, or of digits."
    )
    FACES = flags.DEFINE_string("faces", FOLDER, "Where the ORL faces lie, one folder a person.")
    CHOSEN = flags.DEFINE_list("losses", list(LOSSES), "What is compared, NAME or NAME:KEY=VALUE, by commas.")
    SEEDS = flags.DEFINE_list("seeds", list("01234"), "The seeds, separated by commas.")
    SET = flags.DEFINE_multi_string("set", [], "KEY=VALUE of the config; may be repeated.")
    EYEPATCH = flags.DEFINE_float("eyepatch", 0.5, "The share of test images that wear an eyepatch.")

    def compare() -> int:
        """Runs `main` as the flags say; runs of the same loss share what XLA compiled."""
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(WORKDIR.value) / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        path, settings = chosen(CONFIG.value, FACES.value, SET.value)
        seeds = [sweep.seed_of(text) for text in SEEDS.value]
        return main(WORKDIR.value, path, CHOSEN.value, seeds, settings, eyepatch=EYEPATCH.value)

    command.start("compare", compare, usage=__doc__)
