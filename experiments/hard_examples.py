"""The two blind spots of the contrastive loss, on three points in the plane.

    python experiments/hard_examples.py --out=runs/hard_examples

A1 and A2 show the same person, C shows someone else. Two scenarios:

*   *hard negative*: C looks like A1, and A2 does not;
*   *hard positive*: A1 and A2 look different, and C, nearer to A1 than A2 is, is already beyond the margin.

In each, both losses are differentiated by the library's own functions, and gradient descent is followed to its end:

*   the contrastive loss is the sum over all three pairs: (A1, A2) is positive, (A1, C) and (A2, C) are negative;
*   the triplet loss is that of the triplet with anchor A1, positive A2 and negative C.

What moves: A2 and C. Both losses see only differences of points, so for the picture to stand still one point has to,
and that is A1, the anchor. Nothing hangs on it: with all three free the same happens, and the tests run that too.

Free points are kinder than a network. Here A2 *can* be dragged onto A1; a network often cannot do that, because the
two pictures really look different. So the hard positive is run once more with A2 stuck where it is. That is where the
blind spot hurts: contrastive loss then changes nothing at all, while triplet loss mends the order by moving C.

Writes ``hard_examples.png`` and ``hard_examples.json`` (positions, gradients, losses and distances at the start and at
the end, margins) into the folder ``--out``, and prints a table. Takes some seconds.
"""

import functools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from jax import lax

import metric_jax as mj

NAMES = ("A1", "A2", "C")
SCENARIOS = {
    "hard negative": ((0.0, 0.0), (1.75, 0.0), (0.2, 0.3)),
    "hard positive": ((0.0, 0.0), (1.75, 0.0), (0.3, 1.05)),
}
CONTRASTIVE_MARGIN = 1.0
TRIPLET_MARGIN = 0.35
LEARNING_RATE = 0.01
STEPS = 800


def contrastive(points: jax.Array) -> jax.Array:
    """The contrastive loss of all three pairs of ``[A1, A2, C]``."""
    a1, a2, c = points
    first, second = jnp.stack([a1, a1, a2]), jnp.stack([a2, c, c])
    is_same = jnp.array([True, False, False])
    return mj.contrastive_loss(first, second, is_same, margin=CONTRASTIVE_MARGIN).sum()


def triplet(points: jax.Array) -> jax.Array:
    """The triplet loss of anchor A1, positive A2 and negative C."""
    return mj.triplet_loss(*points, margin=TRIPLET_MARGIN)


LOSSES = {"contrastive": contrastive, "triplet": triplet}


class Run(NamedTuple):
    """One descent.

    Attributes:
        scenario: A key of ``SCENARIOS``.
        loss: A key of ``LOSSES``.
        held: Names of the points that descent does not move.
        path: ``[steps + 1, 3, 2]``, the points before every step and after the last.
        gradients: ``[steps + 1, 3, 2]``, the loss's gradient there, of held points too.
        losses: ``[steps + 1]``, the loss there.
    """

    scenario: str
    loss: str
    held: tuple[str, ...]
    path: np.ndarray
    gradients: np.ndarray
    losses: np.ndarray

    def distance(self, a: str, b: str, step: int) -> float:
        """The distance of two points, by name, before that step; -1 for the end."""
        return float(np.linalg.norm(self.path[step, NAMES.index(a)] - self.path[step, NAMES.index(b)]))


@functools.partial(jax.jit, static_argnames="loss")
def descend(
    loss: Callable[[jax.Array], jax.Array], start: jax.Array, free: jax.Array
) -> tuple[Any, Any, Any]:
    """Follows the gradient of ``loss`` from ``start [3, 2]``, moving the points that ``free [3]`` selects."""

    def step(points: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        value, gradient = jax.value_and_grad(loss)(points)
        return points - LEARNING_RATE * jnp.where(free[:, None], gradient, 0.0), (points, gradient, value)

    return lax.scan(step, start, length=STEPS + 1)[1]


def run(scenario: str, loss: str, held: Sequence[str] = ("A1",)) -> Run:
    """Descends ``loss`` from the start of ``scenario``."""
    free = jnp.array([name not in held for name in NAMES])
    path, gradients, losses = descend(LOSSES[loss], jnp.array(SCENARIOS[scenario]), free)
    return Run(scenario, loss, tuple(held), np.asarray(path), np.asarray(gradients), np.asarray(losses))


def all_runs() -> list[Run]:
    """The four runs of the figure, then the hard positive's two with A2 stuck."""
    runs = [run(scenario, loss) for scenario in SCENARIOS for loss in LOSSES]
    return runs + [run("hard positive", loss, held=("A1", "A2")) for loss in LOSSES]


def as_json(runs: Sequence[Run]) -> dict[str, Any]:
    """What the JSON file holds."""

    def moment(r: Run, step: int) -> dict[str, Any]:
        return {
            "positions": dict(zip(NAMES, r.path[step].tolist(), strict=True)),
            "gradients": dict(zip(NAMES, r.gradients[step].tolist(), strict=True)),
            "loss": float(r.losses[step]),
            "distances": {
                f"{a}-{b}": r.distance(a, b, step) for a, b in (("A1", "A2"), ("A1", "C"), ("A2", "C"))
            },
        }

    return {
        "margins": {"contrastive": CONTRASTIVE_MARGIN, "triplet": TRIPLET_MARGIN},
        "learning_rate": LEARNING_RATE,
        "steps": STEPS,
        "runs": [
            {
                "scenario": r.scenario,
                "loss": r.loss,
                "held": list(r.held),
                "start": moment(r, 0),
                "end": moment(r, -1),
            }
            for r in runs
        ],
    }


def table(runs: Sequence[Run]) -> str:
    """What is printed: for every run its start and its end."""
    lines = [
        f"{'scenario':<15}{'stuck':<7}{'loss':<13}{'when':<7}{'value':>7}  {'d(A1,A2)':>8}  {'d(A1,C)':>8}  "
    ]
    lines[0] += f"{'|grad A2|':>9}  {'|grad C|':>8}"
    for r in runs:
        stuck = ", ".join(name for name in r.held if name != "A1") or "-"
        for when, step in (("start", 0), ("end", -1)):
            slope = np.linalg.norm(r.gradients[step], axis=-1)
            lines.append(
                f"{r.scenario:<15}{stuck:<7}{r.loss:<13}{when:<7}{r.losses[step]:>7.3f}  "
                f"{r.distance('A1', 'A2', step):>8.4f}  {r.distance('A1', 'C', step):>8.4f}  "
                f"{slope[1]:>9.4f}  {slope[2]:>8.4f}"
            )
    return "\n".join(lines)


# The figure. The colours are Okabe and Ito's, told apart by everybody; shapes say the same once more.
BLUE, VERMILION, INK, GREY, SHADE = "#0072B2", "#D55E00", "#222222", "#666666", "#F1F1F1"
VIEW = {"xlim": (-1.12, 2.02), "ylim": (-0.34, 1.72)}
ARROW_PER_GRADIENT = 0.2
TITLES = {
    "hard negative": "Hard negative: C looks like A1",
    "hard positive": "Hard positive: A1 and A2 look different, C is beyond the contrastive margin",
    "contrastive": "Contrastive loss: d² if same, else max(0, margin − d)²",
    "triplet": "Triplet loss: max(0, d(A1, A2) − d(A1, C) + margin)",
}


def sentence(r: Run, stuck: Run) -> str:
    """What to see in the panel of a run; ``stuck`` is the same loss's hard positive with A2 stuck."""
    kept, reached = f"{r.distance('A1', 'A2', -1):.2f}", f"{stuck.distance('A1', 'C', -1):.2f}"
    return {
        ("hard negative", "contrastive"): (
            "C is pushed out to the margin and no farther. A2 is dragged\n"
            "all the way onto A1: a pair of the same person costs\n"
            "something until it is a single point, wherever C is."
        ),
        ("hard negative", "triplet"): (
            "C moves out and A2 moves in until C is farther from A1 than\n"
            f"A2 is, by the margin. Then both stop. A2 rests {kept} from A1:\n"
            "nothing squeezes the two into one point."
        ),
        ("hard positive", "contrastive"): (
            "C is nearer to A1 than A2 is, but beyond the margin: its\n"
            "gradient is exactly 0, and all is left to A2. If A2 could not\n"
            "move, nothing would, and the order would stay wrong."
        ),
        ("hard positive", "triplet"): (
            "The order is wrong, so C moves away too, from any distance,\n"
            f"and A2 may stop {kept} from A1. If A2 could not move, C alone\n"
            f"would put the order right, going out to {reached}."
        ),
    }[r.scenario, r.loss]


def draw(runs: Sequence[Run]) -> Any:
    """The figure of four panels: a scenario a row, a loss a column."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure = Figure(figsize=(9.6, 10.2), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    figure.subplots_adjust(left=0.012, right=0.988, top=0.853, bottom=0.125, wspace=0.035, hspace=0.475)
    figure.text(0.012, 0.985, "Three points, two losses", size=17, weight="bold", color=INK, va="top")
    explanation = (
        "A1 and A2 show the same person, C somebody else. A1 stays; gradient descent moves A2 and C."
    )
    figure.text(0.012, 0.95, explanation, size=12, color=INK, va="top")
    free = {(r.scenario, r.loss): r for r in runs if "A2" not in r.held}
    stuck = {r.loss: r for r in runs if "A2" in r.held}
    for row, scenario in zip(axes, SCENARIOS, strict=True):
        for ax, loss in zip(row, LOSSES, strict=True):
            draw_run(ax, free[scenario, loss])
            ax.set_title(TITLES[loss], loc="left", size=11.3, color=INK, pad=5)
            text = sentence(free[scenario, loss], stuck[loss])
            ax.text(0, -0.035, text, transform=ax.transAxes, va="top", size=10.5, color=INK, linespacing=1.4)
        row[0].text(
            0, 1.12, TITLES[scenario], transform=row[0].transAxes, size=13.5, weight="bold", color=INK
        )
    point = {"ls": "", "marker": "o", "ms": 9, "mec": GREY, "mew": 2}
    figure.legend(
        handles=[
            Line2D([], [], mfc="white", label="start", **point),
            Line2D([], [], mfc=GREY, label="end", **point),
            Line2D([], [], color=GREY, lw=3, alpha=0.5, label="path"),
            Line2D(
                [],
                [],
                color=INK,
                ls="",
                marker=r"$\rightarrow$",
                ms=20,
                label="minus the gradient at the start",
            ),
            Patch(fc=SHADE, ec=GREY, ls="--", lw=1.2, label="too near to A1 for C, in the end"),
        ],
        loc="lower left",
        bbox_to_anchor=(0.0, -0.004),
        columnspacing=1.6,
        ncols=5,
        frameon=False,
        fontsize=10.8,
        labelcolor=INK,
    )
    return figure


def draw_run(ax: Any, r: Run) -> None:
    """One panel: the margin, where the points start, where descent sends them, their paths, where they end."""
    ax.set(aspect="equal", xticks=[], yticks=[], **VIEW)
    for spine in ax.spines.values():
        spine.set_color("#BBBBBB")
    if r.loss == "contrastive":
        draw_margin(ax, 0.0, CONTRASTIVE_MARGIN)
    else:
        kept = r.distance("A1", "A2", -1)
        draw_margin(ax, kept, kept + TRIPLET_MARGIN)
    for index, (name, colour, marker) in enumerate(zip(NAMES, (BLUE, BLUE, VERMILION), "oos", strict=True)):
        path, gradient = r.path[:, index], r.gradients[0, index]
        moves = name not in r.held and gradient.any()
        ax.plot(*path.T, color=colour, lw=3, alpha=0.45, zorder=2, solid_capstyle="round")
        ax.plot(*path[0], marker, ms=10, mfc="white", mec=colour, mew=2, zorder=3)
        ax.plot(*path[-1], marker, ms=8, color=colour, zorder=5)
        beside = {"A1": (-15, 0), "A2": (0, -17), "C": (-14, 0)}[name]
        note(ax, name, path[0], beside, color=colour, size=13, weight="bold")
        if moves:
            arrow(ax, path[0], path[0] - ARROW_PER_GRADIENT * gradient, color=INK, lw=2, zorder=4)
        elif name not in r.held:
            note(ax, "gradient exactly 0:\nC does not move", path[0], (12, 0), ha="left", color=colour)
    note(ax, "A2 ends here", r.path[-1, 1], (-7, -17), ha="right", color=BLUE)


def draw_margin(ax: Any, inner: float, outer: float) -> None:
    """Where C would have to leave: a shaded disc around A1, and the margin in it as a measure from inner to outer."""
    from matplotlib.patches import Circle

    ax.add_patch(Circle((0, 0), outer, fc=SHADE, ec=GREY, ls="--", lw=1.2, zorder=0))
    if inner:
        ax.add_patch(Circle((0, 0), inner, fc="none", ec=GREY, ls=":", lw=1.2, zorder=0))
    direction = np.array([-0.64, 0.77])
    arrow(ax, inner * direction, outer * direction, style="<|-|>" if inner else "-|>", color=GREY, lw=1)
    at, beside = (inner * direction, (20, -9)) if inner else (outer / 2 * direction, (-28, 0))
    note(ax, "margin", at, beside, color=GREY)


def arrow(ax: Any, start: np.ndarray, end: np.ndarray, style: str = "-|>", **look: Any) -> None:
    """An arrow in the plane."""
    from matplotlib.patches import FancyArrowPatch

    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle=style, mutation_scale=14, shrinkA=0, shrinkB=0, **look)
    )


def note(
    ax: Any, text: str, at: np.ndarray, beside: tuple[float, float], ha: str = "center", **look: Any
) -> None:
    """Text ``beside`` a point, that many typographic points away from it."""
    look = {"size": 10.5, **look}
    ax.annotate(text, at, beside, textcoords="offset points", ha=ha, va="center", zorder=6, **look)


def save(figure: Any, path: pathlib.Path) -> None:
    """Writes a PNG of 128 colours: all that a drawing needs, at a third of the size."""
    from PIL import Image

    figure.canvas.draw()
    Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB").quantize(128).save(
        path, optimize=True
    )


def start(arguments: Sequence[str]) -> None:
    """Runs `main` as the flags say."""
    if arguments[1:]:
        sys.exit(f"hard_examples: unknown argument {arguments[1]!r}: flags begin with --")
    main(os.path.expanduser(OUT.value))  # a shell leaves the ~ of --out=~/story


def main(out: str) -> None:
    """Writes the figure and the numbers into the folder ``out`` and prints the table."""
    folder = pathlib.Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        runs = all_runs()
        save(draw(runs), folder / "hard_examples.png")
        (folder / "hard_examples.json").write_text(json.dumps(as_json(runs), indent=2) + "\n")
    except OSError as error:
        sys.exit(
            f"hard_examples: cannot write to --out={out}: {error.strerror}; name a folder that can be written"
        )
    print(table(runs))
    print(f"Figure and numbers: {folder / 'hard_examples.png'}, {folder / 'hard_examples.json'}")


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)  # JAX tells of every backend that is not there
    OUT = flags.DEFINE_string("out", None, "Folder for the figure and the JSON file.", required=True)
    app.run(start)
