"""A config on several random partitions of its classes, beside raw pixels, PCA and LDA: what is the network worth?

    python experiments/partitions.py --config=configs/faces.py --workdir=runs/partitions --set=data.root=FOLDER

Every partition holds out its own classes: a network is trained on the others, and so are PCA, which keeps 95 % of
their variance, and LDA (Fisher's, shrunk after Ledoit and Wolf 2004), as scikit-learn has them; all are tested on the
classes held out. What is called relative is measured of `metric_jax.evaluation.relative_distances`, with the training
images for their cohort, none turned or mirrored. The table has the means over partitions, ± half their 95 % intervals
by Student's t. The workdir holds the runs, and the table as partitions.md and partitions.json. The same command again
goes on where it was interrupted. Exit codes: those of sweep.py.
"""

import json
import pathlib
import sys
from collections.abc import Callable, Sequence

import numpy as np
from absl import flags
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a script sees its own folder alone

from experiments import command, compare, interrupt, sweep
from experiments.compare_measures import accuracy
from metric_jax import training
from metric_jax.data import Images
from metric_jax.distances import euclidean
from metric_jax.training import RunError, StoppedError, folders, open_run
from metric_jax.training.evaluate import pixels

NETWORK, FARS = "network", (0.01,)
SHOWN = {
    "eer": "EER",
    "relative_eer": "relative EER",
    "tar@far=0.01": "TAR at FAR 1 %",
    "relative_tar@far=0.01": "relative TAR",
    "recall@1": "recall@1",
    "map_at_r": "MAP@R",
}
KEPT_VARIANCE = 0.95

Embed = Callable[[Images], np.ndarray]


def main(workdir: str, path: str, partitions: int, settings: Sequence[str] = ()) -> int:
    """Trains, measures and tells.

    Args:
        workdir: Where the runs and the table go.
        path: The config file; one that tests on images of known classes is parted by class instead, into halves.
        partitions: How many, numbered from 0: each is the run's seed and the split's.
        settings: ``key=value`` of the config.

    Returns:
        The exit code.

    Raises:
        RunError: A config that cannot be trained, told before anything is.
    """
    if partitions < 1:
        raise RunError(f"--partitions must be at least 1, got {partitions}")
    for setting in settings:
        if setting.partition("=")[0] in ("seed", "data.split_seed"):
            raise RunError(f"--set={setting}: the seed of a run and of its split is the partition's number")
    row = compare.by_class(path, settings)
    training.check(row.config)
    if row.config.data.split != "class":
        raise RunError(f"data.split={row.config.data.split!r} draws no partitions: set it to 'class'")
    as_they_are = row.config.copy_and_resolve_references()
    # What was turned or mirrored is no further stranger.
    as_they_are.data.update(rotations=False, mirrors=False)
    folder = pathlib.Path(workdir)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (NETWORK, *BASELINES)}
    try:
        for partition in range(partitions):
            config, train, test = compare.parted(row.config, partition)
            _, strangers, _ = compare.parted(as_they_are, partition)
            for name, fit in BASELINES.items():
                embed = fit(train)
                rows, cohort = embed(test), embed(strangers)
                found[name].append(accuracy(rows, test.labels, euclidean, FARS, cohort=cohort))
            (run,) = sweep.trained(sweep.Row(row.name, config), [partition], folder)
            if run.results is None:
                raise RunError(f"the network of {run.home} diverged")
            network = open_run(run.home)
            rows, cohort = network.embed(test.images), network.embed(strangers.images)
            found[NETWORK].append(accuracy(rows, test.labels, network.distance, FARS, cohort=cohort))
    except StoppedError as stopped:
        print(f"partitions: {stopped}", file=sys.stderr)
        return interrupt.TERMINATED
    summaries = [{"name": name, **sweep.summary(each)} for name, each in found.items()]
    told = {"config": row.name, "partitions": partitions, "rows": summaries}
    folders.replace(folder / "partitions.json", json.dumps(told, indent=1) + "\n")
    folders.replace(folder / "partitions.md", markdown(told))
    print(markdown(told), end="")
    return 0


def by_pixels(train: Images) -> Embed:
    """Images as they are."""
    return pixels


def by_pca(train: Images) -> Embed:
    """Images along the directions in which training images differ most (eigenfaces)."""
    fitted = PCA(KEPT_VARIANCE, random_state=0).fit(pixels(train))
    return lambda images: fitted.transform(pixels(images)).astype(np.float32)


def by_lda(train: Images) -> Embed:
    """Images along the directions that part the training classes best for their spread (Fisherfaces)."""
    fitted = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto").fit(pixels(train), train.labels)
    return lambda images: fitted.transform(pixels(images)).astype(np.float32)


BASELINES = {"raw pixels": by_pixels, "PCA": by_pca, "LDA": by_lda}


def markdown(told: dict) -> str:
    """The table, a row a line."""
    lines = [["", *SHOWN.values()], ["---"] * (len(SHOWN) + 1)]
    lines += [[row["name"], *(sweep.cell(row[key], digits=3) for key in SHOWN)] for row in told["rows"]]
    return sweep.table_of(lines)


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the runs; made if it is not there.")
    CONFIG = flags.DEFINE_string("config", "configs/faces.py", "The config file.")
    PARTITIONS = flags.DEFINE_integer("partitions", 5, "How many partitions.")
    SET = flags.DEFINE_multi_string("set", [], "KEY=VALUE of the config; may be repeated.")
    command.start(
        "partitions",
        lambda: main(WORKDIR.value, CONFIG.value, PARTITIONS.value, SET.value),
        usage=__doc__,
    )
