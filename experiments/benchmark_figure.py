"""The benchmark's figure: time and peak memory over the batch size, of every core loss, on logarithmic axes."""

import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.benchmark_report import median, peak
from experiments.benchmark_rows import DENSE, LOSSES, OPTAX, OURS, PML, PRODUCT

# Okabe and Ito's colours, which the colour-blind tell apart; line styles and markers do so once more.
STYLES: dict[str, dict[str, Any]] = {
    OURS: {"color": "#0072B2", "marker": "o", "linestyle": "-", "linewidth": 2.2, "label": "metric_jax"},
    DENSE: {
        "color": "#56B4E9",
        "marker": "s",
        "linestyle": "--",
        "label": "metric_jax, the batch as one tile",
    },
    PML: {"color": "#D55E00", "marker": "^", "linestyle": "-.", "label": "pytorch-metric-learning"},
    OPTAX: {"color": "#009E73", "marker": "D", "linestyle": ":", "label": "optax"},
    PRODUCT: {"color": "#000000", "marker": "", "linestyle": ":", "label": "the matrix product alone"},
}
COLUMNS = 4


def draw(rows: list[Mapping[str, Any]], path: pathlib.Path, *, dim: int = 128) -> bool:
    """Draws the losses at one dim into a PNG file; returns whether there were any at two sizes or more."""
    losses = [found for found in rows if found["group"] == LOSSES and found["dim"] == dim]
    names = list(dict.fromkeys(found["name"] for found in losses))
    if len({found["batch"] for found in losses}) < 2:
        return False
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = min(COLUMNS, len(names))
    bands = -(-len(names) // columns)
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(3.2 * columns + 0.6, 5.0 * bands + 0.9), layout="constrained", dpi=110)
        axes = figure.subplots(2 * bands, columns, squeeze=False, sharex=True)
        for index, name in enumerate(names):
            band, column = divmod(index, columns)
            of_loss = sorted((found for found in losses if found["name"] == name), key=lambda f: f["batch"])
            for line, (scale, of) in enumerate(((1.0, median), (1e-6, peak))):
                panel = axes[2 * band + line, column]
                _panel(panel, of_loss, lambda found, side, of=of, scale=scale: scale * (of(found, side) or 0))
                panel.tick_params(labelbottom=line == 1)
                if line == 0:
                    panel.set_title(name, loc="left", fontweight="bold")
                else:
                    panel.set_xlabel("batch size")
        for panel in axes.flat[len(names) + (bands - 1) * columns :]:
            panel.set_visible(panel.has_data())
        for line, title in enumerate(("seconds", "peak memory, MB")):
            shared = list(axes[line::2].flat)
            low, high = (
                pick(panel.get_ylim()[end] for panel in shared if panel.has_data())
                for end, pick in enumerate((min, max))
            )
            for panel in shared:
                panel.set_ylim(low, high)
            for panel in axes[line::2, 0]:
                panel.set_ylabel(title)
        by_label = {
            handle.get_label(): handle
            for panel in axes.flat
            for handle in panel.get_legend_handles_labels()[0]
        }
        if any(median(found, side) is None for found in losses for side in found["sides"]):
            by_label["could not run"] = Line2D([], [], linestyle="", marker="x", color="#555555")
        figure.legend(
            by_label.values(), by_label, loc="outside upper center", ncols=2 * columns - 1, frameon=False
        )
        figure.savefig(path)
    return True


def _panel(panel: Any, rows: list[Mapping[str, Any]], figure_of: Any) -> None:
    """One loss: a line for every side, and a cross at its top for every size where a side could not run."""
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    for place, (side, style) in enumerate(STYLES.items()):
        points = [(found["batch"], figure_of(found, side)) for found in rows if side in found["sides"]]
        drawn = [(batch, value) for batch, value in points if value]
        missing = [batch for batch, value in points if not value]
        if drawn:
            panel.plot(*zip(*drawn, strict=True), markersize=5, **style)
        if missing:
            top = [1.0 - 0.05 * place] * len(missing)
            panel.plot(
                missing,
                top,
                linestyle="",
                marker="x",
                markersize=7,
                markeredgewidth=2,
                color=style["color"],
                transform=panel.get_xaxis_transform(),
                clip_on=False,
                label="_",
            )
    batches = [found["batch"] for found in rows]
    panel.set_xticks(batches, [f"{batch // 1024}k" if batch >= 1024 else str(batch) for batch in batches])
    panel.minorticks_off()
    panel.grid(alpha=0.3)
