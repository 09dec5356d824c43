"""The page: gathers what there is to see, has it drawn, and writes it down."""

import base64
import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from metric_jax import files
from metric_jax.reports import embedding_map, metrics, panels, thumbnails
from metric_jax.reports.examples import Answers, hardest
from metric_jax.reports.projector import files as projector_files
from metric_jax.reports.run import Run, checked

THUMBNAIL_SIDE = 144  # pixels; shown at half of it


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
    folder.mkdir(parents=True, exist_ok=True)
    contents = _contents(runs, title)
    if projector:
        (folder / "projector").mkdir(exist_ok=True)
        contents |= {f"projector/{name}": content for name, content in projector_files(runs)}
    return [files.replace(folder / name, content) for name, content in contents.items()]


def _contents(runs: Sequence[Run], title: str) -> dict[str, bytes]:
    """The names and contents of the page and its figures."""
    compared, rows = panels.compare(runs), metrics.rows(runs)
    scores, others = ([row for row in rows if row.is_score == which] for which in (True, False))
    others.sort(key=lambda row: "threshold" not in row.title)  # side by side
    drawn = {
        "metrics": list(panels.scores(runs, scores)),
        "training": list(panels.training(runs)),
        "distances": list(panels.distances(runs, compared)),
        "errors": list(panels.errors(runs, compared)),
    }
    answers = [Answers(run) for run in runs]
    points, sheet = embedding_map.as_data(runs)
    page = _render(
        title=title,
        runs=runs,
        scores=scores,
        others=others,
        figures=drawn,
        pairs=compared,
        hardest=[hardest(run) for run in runs],
        answers=answers,
        only_right=_only_right(answers),
        map=points,
        sheet=sheet,
    )
    # Names that are no Unicode, as file names may be, are shown with escapes.
    contents = {"report.html": page.encode(errors="backslashreplace")}
    return contents | {panel.file: panel.png["light"] for group in drawn.values() for panel in group}


def _render(*, runs: Sequence[Run], **seen: Any) -> str:
    """The page, of what there is to see."""
    import jinja2
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

    assets = resources.files("metric_jax.reports") / "templates"
    scripts = [get_plotlyjs(), (assets / "map.js").read_text(encoding="utf-8")]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("metric_jax.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": _score,
        "number": _number,
        "png_uri": functools.partial(thumbnails.as_uri, media_type="image/png"),
    }

    @functools.cache
    def thumbnail(index: int) -> str:
        return thumbnails.data_uri(thumbnails.shrink(runs[0].images[index], THUMBNAIL_SIDE))

    return environment.get_template("report.html.j2").render(
        **seen,
        runs=runs,
        classes=len(np.unique(runs[0].labels)),
        thumbnail=thumbnail,
        small=max(runs[0].images.shape[1:3]) <= THUMBNAIL_SIDE // 2,
        policy=_policy(scripts),
        scripts=scripts,
        style=(assets / "report.css").read_text(encoding="utf-8"),
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

    Should a name ever come through unescaped, it still could run no script and fetch nothing. Styles need no hash:
    plotly adds its own, and a style can fetch nothing here.
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
