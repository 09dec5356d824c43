"""The figure of compare.py: a loss a line, four questions, mean and 95 % interval over seeds."""

import pathlib
from collections.abc import Mapping
from typing import Any

from metric_jax.training import RunError

# Okabe's and Ito's colours, told apart by everybody; markers say the same once more.
BLUE, VERMILION, INK, GREY, SHADE = "#0072B2", "#D55E00", "#222222", "#666666", "#F3F3F3"
PANELS = (
    ("Are images of a class nearest to each other?", "MAP@R, more is better",
     (("map_at_r", "as they are"), ("eyepatch_map_at_r", "some with an eyepatch"))),
    ("Same or not, by a threshold: how often wrong?", "EER, less is better",
     (("eer", "as they are"), ("eyepatch_eer", "some with an eyepatch"))),
    ("Is a class squeezed to a point?", "spread of a class, of the distance between classes; 0 is a point",
     (("trained_spread", "classes trained on"), ("spread", "unseen classes"))),
    ("How many pairs are in the wrong order?", "share of pairs, unseen classes",
     (("hard_positives", "hard positives"), ("hard_negatives", "hard negatives"))),
)  # fmt: skip
LOOKS = ({"marker": "o", "color": BLUE}, {"marker": "s", "color": VERMILION})
APART = 0.17  # lines between the two of a row and its middle


def draw(told: Mapping[str, Any]) -> Any:
    """The figure of what compare.json holds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = told["rows"]
    figure = Figure(figsize=(11.5, 1.9 + 0.62 * len(rows) + 1.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    train, test, seeds = told["trained_on"], told["tested_on"], max(len(row["seeds"]) for row in rows)
    figure.suptitle(
        f"{told['config']}: trained on {train['classes']} classes, tested on {test['classes']} others; "
        f"mean and 95 % interval over {seeds} seeds, a dot a seed",
        size=13,
        weight="bold",
        color=INK,
        parse_math=False,
    )
    axes = figure.subplots(2, 2, sharey=True)
    for axis, panel in zip(axes.ravel(), PANELS, strict=True):
        draw_panel(axis, rows, *panel)
    axes[0, 0].set_yticks(range(len(rows)), [row["name"] for row in rows], parse_math=False)
    return figure


def draw_panel(
    axis: Any, rows: list[Mapping[str, Any]], title: str, measure: str, pair: tuple[tuple[str, str], ...]
) -> None:
    """One question, two markers a row: every seed as a dot, their mean, its interval."""
    for line in range(0, len(rows), 2):
        axis.axhspan(line - 0.5, line + 0.5, color=SHADE, zorder=0)
    for (key, label), look, aside in zip(pair, LOOKS, (-APART, APART), strict=True):
        for line, found in ((line, row[key]) for line, row in enumerate(rows) if key in row):
            values = found["values"]
            axis.plot(values, [line + aside] * len(values), ".", color=look["color"], ms=8, alpha=0.45, mew=0)
            axis.errorbar(
                found["mean"],
                line + aside,
                xerr=found["half_interval"] or 0.0,
                **look,
                ms=6.5,
                mec="white",
                mew=0.8,
                lw=1.6,
                capsize=3,
                zorder=3,
                label=None if line else label,
            )
    axis.set_title(title, loc="left", size=12, color=INK)
    axis.set_xlabel(measure, size=10.5, color=INK)
    axis.set_xlim(left=0)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.tick_params(colors=INK, labelsize=10.5)
    axis.grid(axis="x", color="#DDDDDD", lw=0.7, zorder=0)
    axis.set_axisbelow(True)
    for spine in axis.spines.values():
        spine.set_color("#BBBBBB")
    axis.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.2),
        ncols=2,
        frameon=False,
        fontsize=10.5,
        labelcolor=INK,
    )


def save(figure: Any, path: pathlib.Path) -> None:
    """Writes the figure, in 128 colours: all that a drawing needs, at a third of the size."""
    import numpy as np
    from PIL import Image

    figure.canvas.draw()
    drawn = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB").quantize(128)
    try:
        drawn.save(path, optimize=True)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
