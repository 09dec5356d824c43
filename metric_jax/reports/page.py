"""The page: gathers what there is to see, has it drawn, and writes it down."""

import base64
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from metric_jax.evaluation.pairs import all_pairs, pair_distances
from metric_jax.evaluation.verification import Roc, roc
from metric_jax.reports import embedding_map, figures, metrics, thumbnails
from metric_jax.reports.examples import Answers, hardest
from metric_jax.reports.projector import files as projector_files
from metric_jax.reports.run import Run, checked

MOST_PAIRS = 200_000  # of each kind, for histograms and curves
THUMBNAIL_SIDE = 144  # pixels; shown at half of it
CURVES = {
    "loss": "loss",
    "map_at_r": "MAP@R on the test set",
    "recall@1": "Recall@1 on the test set",
    "active_fraction": "share of active triplets",
}


class Drawn(NamedTuple):
    """A figure: the name of its PNG file, its title, what it shows in words, and its PNG for each theme."""

    file: str
    title: str
    alt: str
    png: dict[str, bytes]

    def uri(self, theme: str) -> str:
        """The PNG as a data: URI."""
        return thumbnails.as_uri(self.png[theme], "image/png")


class Compared(NamedTuple):
    """The pairs of images that verification looks at, and how each run's distances tell the two kinds apart."""

    is_same: np.ndarray
    distances: list[np.ndarray]
    rocs: list[Roc]
    are_all: bool


def write(
    folder: str | os.PathLike[str], runs: Sequence[Run], *, title: str = "Evaluation", projector: bool = False
) -> list[pathlib.Path]:
    """Writes report.html, a page that needs nothing but itself, and its figures as PNG files.

    It shows the metrics beside those of raw pixels, the training curves, how far apart genuine and impostor pairs are,
    ROC and DET, the pairs of images that the embedding gets most wrong, what it finds for some queries, and a map of
    the embeddings. Of two runs on the same test set it says how they differ. Files of the same names are replaced.

    Args:
        folder: Where to; made if it is not there. Nothing is written anywhere else, whatever the names in the runs.
        runs: One run, or two that are to be compared.
        title: The page's.
        projector: Whether to write files for TensorBoard's projector too, into ``projector/``.

    Returns:
        The paths of what was written, report.html first.

    Raises:
        ValueError: A run whose arrays do not fit together, NaN or infinite embeddings, two runs that differ in their
            images, labels or names.
        OSError: The folder cannot be written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from metric_jax import reports
        >>> generator = np.random.default_rng(0)
        >>> run = reports.Run(
        ...     name="digits",
        ...     metrics={"map_at_r": 0.8, "map_at_r_low": 0.7, "map_at_r_high": 0.9, "baseline_map_at_r": 0.5},
        ...     history=[{"step": 1, "loss": 0.2}, {"step": 2, "loss": 0.1}],
        ...     images=generator.integers(256, size=(6, 8, 8, 1), dtype=np.uint8),
        ...     labels=np.array([0, 0, 1, 1, 2, 2]),
        ...     names=["a", "b", "c", "d", "e", "f"],
        ...     class_names={0: "zero", 1: "one", 2: "two"},
        ...     embeddings=generator.normal(size=(6, 2)).astype(np.float32),
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in reports.write(folder, [run])]
        ['report.html', 'metrics.png', 'training_loss.png', 'distances_1.png', 'roc.png', 'det.png']
    """
    runs = checked(runs)
    folder = pathlib.Path(folder)
    files = _files(runs, title)
    if projector:
        files |= {f"projector/{name}": content for name, content in projector_files(runs)}
    return [_replace(folder / name, content) for name, content in files.items()]


def _files(runs: Sequence[Run], title: str) -> dict[str, bytes]:
    """The names and contents of the page and its figures."""
    compared = _compare(runs)
    rows = metrics.rows(runs)
    drawn = _draw(runs, [row for row in rows if row.is_score], compared)
    page = _render(runs, title, rows, compared, drawn)
    # Names that are no Unicode, as file names may be, are shown with escapes.
    files = {"report.html": page.encode(errors="backslashreplace")}
    return files | {figure.file: figure.png["light"] for group in drawn.values() for figure in group}


def _compare(runs: Sequence[Run]) -> Compared:
    first, second, is_same = all_pairs(runs[0].labels, limit=MOST_PAIRS)
    distances = [pair_distances(run.embeddings, first, second, distance=run.distance) for run in runs]
    n = len(runs[0].labels)
    return Compared(
        is_same, distances, [roc(each, is_same) for each in distances], len(first) == n * (n - 1) // 2
    )


def _draw(runs: Sequence[Run], scores: Sequence[metrics.Row], compared: Compared) -> dict[str, list[Drawn]]:
    """All figures, by the section that they belong to."""
    names = [run.name for run in runs]
    histories = [run.history for run in runs]
    genuine, impostors = int(compared.is_same.sum()), int((~compared.is_same).sum())
    drawn: dict[str, list[Drawn]] = {"metrics": [], "training": [], "distances": [], "errors": []}

    def add(section: str, file: str, title: str, alt: str, draw: Callable[[figures.Theme], Any]) -> None:
        png = {theme: figures.png(draw(look)) for theme, look in figures.THEMES.items()}
        drawn[section].append(Drawn(file, title, alt, png))

    if scores:
        add(
            "metrics",
            "metrics.png",
            "Scores, with 95 % intervals",
            "A dot for each score, with its interval and the score of raw pixels; the table has the numbers.",
            lambda theme: figures.scores(scores, names, theme),
        )
    for key, label in CURVES.items():
        logged = [[line[key] for line in history if key in line] for history in histories]
        if any(len(values) > 1 for values in logged):
            ends = [
                f"{name} from {values[0]:.4g} to {values[-1]:.4g}"
                for name, values in zip(names, logged, strict=True)
                if values
            ]
            add(
                "training",
                f"training_{key.replace('@', '_at_')}.png",
                label.capitalize() if label.islower() else label,
                f"The {label} over the steps of training: {'; '.join(ends)}.",
                lambda theme, key=key, label=label: figures.curves(histories, names, key, label, theme),
            )
    for number, (run, distances) in enumerate(zip(runs, compared.distances, strict=True), start=1):
        middles = [np.median(distances[kind]) for kind in (compared.is_same, ~compared.is_same)]
        add(
            "distances",
            f"distances_{number}.png",
            run.name,
            f"Histograms of distances: half of the genuine pairs are nearer than {middles[0]:.4g}, half of the impostor "
            f"pairs nearer than {middles[1]:.4g}.",
            lambda theme, distances=distances, run=run: figures.histogram(
                distances, compared.is_same, run.metrics.get("threshold"), theme
            ),
        )
    for file, title, alt, draw in (
        (
            "roc.png",
            "ROC",
            "True accept rate over false accept rate, the latter on a logarithmic axis.",
            lambda theme: figures.roc(compared.rocs, impostors, names, theme),
        ),
        (
            "det.png",
            "DET",
            "False reject rate over false accept rate, both on axes of normal quantiles.",
            lambda theme: figures.det(compared.rocs, genuine, impostors, names, theme),
        ),
    ):
        add("errors", file, title, alt, draw)
    return drawn


def _render(
    runs: Sequence[Run],
    title: str,
    rows: Sequence[metrics.Row],
    compared: Compared,
    drawn: dict[str, list[Drawn]],
) -> str:
    import jinja2
    import markupsafe
    from plotly.offline import get_plotlyjs

    assets = resources.files("metric_jax.reports") / "templates"
    scripts = [get_plotlyjs(), (assets / "map.js").read_text(encoding="utf-8")]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("metric_jax.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": _score, "number": _number}
    answers = [Answers(run) for run in runs]
    points, sheet = embedding_map.as_data(runs)

    @functools.cache
    def thumbnail(index: int) -> str:
        return thumbnails.data_uri(thumbnails.shrink(runs[0].images[index], THUMBNAIL_SIDE))

    return environment.get_template("report.html.j2").render(
        title=title,
        runs=runs,
        hardest=[hardest(run) for run in runs],
        answers=answers,
        only_right=_only_right(answers),
        scores=[row for row in rows if row.is_score],
        others=[row for row in rows if not row.is_score],
        figures=drawn,
        pairs={
            kind: int(np.sum(compared.is_same == same))
            for kind, same in (("genuine", True), ("impostor", False))
        },
        are_all_pairs=compared.are_all,
        classes=len(np.unique(runs[0].labels)),
        map=points,
        sheet=sheet,
        thumbnail=thumbnail,
        small=max(runs[0].images.shape[1:3]) <= THUMBNAIL_SIDE // 2,
        policy=_policy(scripts),
        scripts=[markupsafe.Markup(script) for script in scripts],
        style=markupsafe.Markup((assets / "report.css").read_text(encoding="utf-8")),
    )


def _only_right(answers: Sequence[Answers]) -> dict[str, int]:
    """Of how many queries both runs find a right image first, only one of them does, and neither."""
    first, second = answers[0], answers[-1]
    counts = {
        "both": first.first_is_right & second.first_is_right,
        "first": first.first_is_right & ~second.first_is_right,
        "second": ~first.first_is_right & second.first_is_right,
        "neither": ~first.first_is_right & ~second.first_is_right,
    }
    return {key: int((which & first.answerable).sum()) for key, which in counts.items()}


def _policy(scripts: Sequence[str]) -> str:
    """What the browser may do with the page: run these very scripts, show what is in it, and fetch nothing.

    Should a name ever come through unescaped, it still could not run or send anything. Styles need no hash: plotly adds
    its own, and a style can fetch nothing here.
    """
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"


def _replace(path: pathlib.Path, content: bytes) -> pathlib.Path:
    """Writes a file that is either there as a whole or not at all; a link in its place is replaced, not followed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.write_bytes(content)
    return temporary.replace(path)
