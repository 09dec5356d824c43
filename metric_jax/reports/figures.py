"""The figures: each for one theme, light or dark, and narrow enough to be read on a phone."""

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from metric_jax.evaluation.rates import Roc
from metric_jax.reports.metrics import Row

WIDTH, HEIGHT, DPI = 4.3, 3.3, 192  # inches; twice as sharp as a page that shows them in their size
BINS = 60
CURVE_POINTS = 400
FONT = "DejaVu Sans"  # comes with matplotlib
DET_TICKS = (0.0001, 0.002, 0.02, 0.1, 0.5)


class Theme(NamedTuple):
    """Colours. The two runs' are Okabe and Ito's, which everybody tells apart; line styles say the same once more."""

    background: str
    ink: str
    grid: str
    series: tuple[str, str]


THEMES = {
    "light": Theme("#ffffff", "#24292f", "#d8dde3", ("#0072b2", "#c04a00")),
    "dark": Theme("#161a20", "#d5dae1", "#333a44", ("#56b4e9", "#e69f00")),
}
STYLES, MARKERS = ("-", "--"), ("o", "D")


def png(draw: Callable[[Any, Theme], None], theme: Theme) -> bytes:
    """A figure as a PNG file of 128 colours: all that a drawing needs, at a third of the size.

    Args:
        draw: One of the functions below, with all but its last two arguments given: draws on axes, in a theme.
        theme: The theme.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    look: Any = {
        "font.family": FONT,
        "font.size": 10.5,
        "text.parse_math": False,  # names are not formulas
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.grid,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.6,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "lines.linewidth": 1.8,
        "legend.frameon": False,
        "legend.fontsize": 9.5,
        "hatch.linewidth": 0.6,
    }
    with mpl.rc_context(look):
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained", facecolor=theme.background)
        canvas = FigureCanvasAgg(figure)
        draw(figure.add_subplot(facecolor=theme.background), theme)
        canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(128)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, dpi=(DPI, DPI))
    return file.getvalue()


def scores(rows: Sequence[Row], names: Sequence[str], ax: Any, theme: Theme) -> None:
    """The scores of the runs with their intervals, and those of raw pixels."""
    places = np.arange(len(rows))
    ax.figure.set_figheight(0.7 + (0.34 if len(names) == 2 else 0.27) * (len(rows) + len(names)))
    for number, name in enumerate(names):
        y = places + (number - (len(names) - 1) / 2) * 0.34
        runs, colour = [row.runs[number] for row in rows], theme.series[number]
        for at, m in zip(y, runs, strict=True):
            if m.low is not None and m.high is not None:
                ax.plot([m.low, m.high], [at, at], color=colour, lw=2.5, alpha=0.5, solid_capstyle="round")
        values = [np.nan if m.value is None else m.value for m in runs]
        ax.plot(values, y, MARKERS[number], color=colour, ms=5.5, label=_short(name))
    pixels = [(row.runs[0].baseline, at) for row, at in zip(rows, places, strict=True)]
    pixels = [(value, at) for value, at in pixels if value is not None]
    if pixels:
        ax.plot(*zip(*pixels, strict=True), "|", color=theme.ink, ms=12, mew=1.6, label="raw pixels")
    ax.set(xlim=(-0.02, 1.02), ylim=(len(rows) - 0.4, -0.6))
    ax.set_yticks(places, [_short(row.title) for row in rows])
    ax.grid(axis="y", visible=False)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)


def curves(
    histories: Sequence[Sequence[Mapping[str, Any]]],
    names: Sequence[str],
    key: str,
    label: str,
    ax: Any,
    theme: Theme,
) -> None:
    """What the log says of a number, over the steps."""
    for history, name, colour, style in zip(histories, names, theme.series, STYLES, strict=False):
        points = [(line["step"], line[key]) for line in history if key in line]
        ax.plot(*np.array(points, float).reshape(-1, 2).T, style, color=colour, label=_short(name))
    ax.set(xlabel="step", ylabel=label)
    ax.set_xlim(left=0)
    if len(names) == 2:
        ax.legend()


def histogram(
    distances: np.ndarray, is_same: np.ndarray, thresholds: Mapping[str, float], ax: Any, theme: Theme
) -> None:
    """How far apart pairs of one class and of two are; each kind's bars add up to 1."""
    edges = np.histogram_bin_edges(distances, BINS)
    kinds = (("genuine", is_same, "///"), ("impostor", ~is_same, ""))
    for (label, kind, hatch), colour, style in zip(kinds, theme.series, STYLES, strict=True):
        shares = np.histogram(distances[kind], edges)[0] / kind.sum()
        ax.stairs(shares, edges, fill=True, color=colour, alpha=0.22)
        ax.stairs(shares, edges, fill=True, fc="none", ec=colour, lw=0, hatch=hatch, alpha=0.35)
        ax.stairs(shares, edges, color=colour, lw=1.6, ls=style, label=label)
    for (title, threshold), style in zip(thresholds.items(), (":", "-."), strict=False):
        ax.axvline(threshold, color=theme.ink, lw=1.2, ls=style, label=title)
    ax.set(xlabel="distance", ylabel="share of the pairs", ylim=(0, None))
    ax.margins(x=0)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)


def roc(rocs: Sequence[Roc], impostors: int, names: Sequence[str], ax: Any, theme: Theme) -> None:
    """True accepts over false accepts, from the lowest rate that so many impostors can resolve."""
    for curve, name, colour, style in zip(rocs, names, theme.series, STYLES, strict=False):
        ax.plot(*_on_a_grid(curve, impostors), style, color=colour, label=_short(name))
    lowest = min(1 / impostors, 0.1)
    ax.set(xlabel="false accept rate (FAR)", ylabel="true accept rate (TAR)", ylim=(0, 1.02))
    ax.set_xscale("log")
    ticks = [10.0**power for power in range(-9, 1) if 10.0**power >= lowest]
    ax.set_xticks(ticks, [_percent(tick) for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlim(lowest, 1)
    ax.legend(loc="lower right")


def det(
    rocs: Sequence[Roc], genuine: int, impostors: int, names: Sequence[str], ax: Any, theme: Theme
) -> None:
    """Both error rates against each other, on the axes of normal quantiles; the EER is on the diagonal."""
    quantile = np.vectorize(NormalDist().inv_cdf, otypes=[float])
    lowest = min(0.5 / genuine, 0.5 / impostors, 0.01)
    for curve, name, colour, style in zip(rocs, names, theme.series, STYLES, strict=False):
        far, tar = _on_a_grid(curve, impostors)
        rates = (np.clip(rate, lowest, 1 - lowest) for rate in (far, 1 - tar))
        ax.plot(*map(quantile, rates), style, color=colour, label=_short(name))
    limits = quantile([lowest, 0.9])
    diagonal = quantile([lowest, 0.5])
    ax.plot(diagonal, diagonal, ":", color=theme.ink, lw=1, label="equal error rates")
    ticks = [tick for tick in DET_TICKS if tick > lowest]
    shown = [_percent(tick) for tick in ticks]
    ax.set_xticks(quantile(ticks), shown)
    ax.set_yticks(quantile(ticks), shown)
    ax.set(xlim=limits, ylim=limits, xlabel="false accept rate (FAR)", ylabel="false reject rate (FNMR)")
    ax.legend(loc="upper right")


def _on_a_grid(curve: Roc, impostors: int) -> tuple[np.ndarray, np.ndarray]:
    """The highest TAR at each of some FARs, evenly spaced on a logarithmic axis, from the lowest that is resolved."""
    fars = np.geomspace(1 / impostors, 1, CURVE_POINTS)
    return fars, curve.tar[np.searchsorted(curve.far, fars * (1 + 1e-9), side="right") - 1]


def _percent(rate: float) -> str:
    return f"{100 * rate:g} %"


def drawable(text: str) -> str:
    """A text as far as the font can draw it."""
    return "".join(c if c.isprintable() and ord(c) in _characters() else "?" for c in text)


def _short(name: str, most: int = 28) -> str:
    """A name as it is drawn, and not too long."""
    return drawable(name if len(name) <= most else name[: most - 1] + "…")


@functools.cache
def _characters() -> frozenset[int]:
    """What the font can draw."""
    from matplotlib import font_manager, ft2font

    return frozenset(ft2font.FT2Font(font_manager.findfont(FONT)).get_charmap())
