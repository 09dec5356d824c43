"""What the benchmark writes: tables that read well in a terminal and as Markdown, and laws of growth fitted to them."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.benchmark_rows import EVERY_LOSS, GROUPS, LOSSES, OURS, PML, PRODUCT, SIDES

Found = Mapping[str, Any]  # one row as `benchmark_worker.measure` returns it


def median(found: Found, side: str) -> float | None:
    """The median turn of a side, in seconds; None if it has none."""
    seconds = found["sides"].get(side, {}).get("seconds")
    return statistics.median(seconds) if seconds else None


def size(found: Found) -> str:
    """``4,096 × 128``."""
    return f"{found['batch']:,}" + (f" × {found['dim']}" if found["dim"] else "")


# Cells.


def duration(seconds: Sequence[float]) -> str:
    """A median, and the quartiles beside it if there are any: ``32.1 ms (31.8 to 33.0)``."""
    middle = statistics.median(seconds)
    scale, unit = next(
        (pair for pair in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")) if middle * pair[0] >= 1), (1e6, "µs")
    )
    shown = f"{figures(scale * middle)} {unit}"
    if len(seconds) < 2:
        return shown
    low, _, high = statistics.quantiles(seconds, method="inclusive")
    return f"{shown} ({figures(scale * low)} to {figures(scale * high)})"


def figures(number: float) -> str:
    """Three digits of a number, if it has as many."""
    decimals = max(0, 2 - math.floor(math.log10(number))) if number > 0 else 0
    return f"{number:,.{min(decimals, 2)}f}"


def time_of(found: Found, side: str) -> str:
    """How long a side takes, or why it does not tell."""
    told = found["sides"].get(side, {"failed": "-"})
    return told["failed"] if "failed" in told else duration(told["seconds"])


def memory_of(found: Found, side: str) -> str:
    """What a side takes of memory, or why it does not tell."""
    told = found["sides"].get(side, {"failed": "-"})
    return told["failed"] if "failed" in told else f"{told['peak'] / 1e6:,.0f} MB"


def ratio(found: Found, above: str, below: str, of: Callable[[Found, str], float | None] = median) -> str:
    """One side's figure over another's."""
    a, b = of(found, above), of(found, below)
    return figures(a / b) if a and b else "-"


def peak(found: Found, side: str) -> float | None:
    """The bytes of a side; None if it has none."""
    return found["sides"].get(side, {}).get("peak")


# Tables.


def tables(group: Sequence[Found]) -> list[str]:
    """The times and the memory of a group of rows."""
    sides = [side for side in SIDES if any(side in found["sides"] for found in group)]
    others = [side for side in sides if side not in (OURS, PRODUCT)]
    times = ["", "size", *sides, *(f"{side} / ours" for side in others)]
    space = ["", "size", *sides, *(f"{side} / ours" for side in others)]
    by_product = [f"ours / {PRODUCT}"] if PRODUCT in sides else []
    rows_of_time, rows_of_space = [], []
    for found in group:
        head = [found["name"], size(found)]
        ratios = [ratio(found, side, OURS) for side in others] + [
            ratio(found, OURS, PRODUCT) for _ in by_product
        ]
        rows_of_time.append([*head, *(time_of(found, side) for side in sides), *ratios])
        ratios = [ratio(found, side, OURS, peak) for side in others]
        rows_of_space.append([*head, *(memory_of(found, side) for side in sides), *ratios])
    return [
        "Time:",
        "",
        *table([*times, *by_product], rows_of_time),
        "",
        "Peak memory, above imports:",
        "",
        *table(space, rows_of_space),
    ]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows below headings, as lines of Markdown whose columns stand under each other."""
    widths = [max(3, *map(len, column)) for column in zip(headings, *rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    return [line(headings), line(["-" * width for width in widths]), *map(line, rows)]


# What the tables say together.


def agreement(rows: Sequence[Found]) -> list[str]:
    """Whether all sides compute one number, a line for every subject and side."""
    lines = []
    for name in dict.fromkeys(found["name"] for found in rows):
        of_name = [found for found in rows if found["name"] == name]
        sides = dict.fromkeys(
            side for found in of_name for side in found["sides"] if side not in (OURS, PRODUCT)
        )
        remarks = of_name[0]["remarks"]
        lines += [f"- {name}: {side} {remark}." for side, remark in remarks.items()]
        errors: dict[str, list[float]] = {}
        for found in of_name:
            for side in sides:
                own, other = (found["sides"].get(s, {}).get("value") for s in (OURS, side))
                if side not in remarks and own is not None and other is not None:
                    errors.setdefault(side, []).append(abs(own - other) / max(abs(other), 1e-30))
        for side, error in errors.items():
            wrong = " (WRONG)" if not max(error) <= 1e-4 else ""
            lines.append(f"- {name}: {side} finds the same number to {max(error):.0e}{wrong}.")
    return lines


def laws(rows: Sequence[Found]) -> list[str]:
    """How time and memory of ours grow with the batch: a table of exponents, of losses at two sizes or more."""
    lines = []
    losses = [found for found in rows if found["group"] == LOSSES]
    for name, dim in dict.fromkeys((found["name"], found["dim"]) for found in losses):
        of_loss = [found for found in losses if (found["name"], found["dim"]) == (name, dim)]
        points = [(f["batch"], median(f, OURS), peak(f, OURS)) for f in of_loss if median(f, OURS)]
        if len(points) >= 2:
            batches, seconds, peaks = map(list, zip(*points, strict=True))
            sizes = f"{min(batches):,} to {max(batches):,} × {dim} ({len(batches)})"
            times = [f"{slope(batches, seconds):.2f}", f"{slope(batches[-2:], seconds[-2:]):.2f}"]
            lines.append([name, sizes, *times, *memory_law(batches, peaks)])
    headings = ("", "batches", "time", "time, last two", "memory", "fixed memory")
    return [*table(headings, lines)] if lines else []


def memory_law(batches: Sequence[float], peaks: Sequence[float]) -> list[str]:
    """The exponent and the fixed part of `growth`, whose three numbers take four sizes."""
    if len(batches) < 4:
        return ["-", "-"]
    fixed, exponent = growth(batches, peaks)
    return [f"{exponent:.2f}" if exponent else "does not grow", f"{fixed / 1e6:,.0f} MB"]


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent p of ``y = c x^p`` that fits best, by least squares of logarithms."""
    return statistics.linear_regression([*map(math.log, x)], [*map(math.log, y)]).slope


def growth(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """(a, p) of ``y = a + c x^p`` that fits best, a and c not negative, by least squares of relative errors.

    A process has a fixed cost (what compilation takes), so logarithms of ``y`` would tell a slope that is too small.
    The exponent is looked for from 0.01 to 3; it is 0 if nothing grows.
    """
    best = (math.inf, statistics.fmean(y), 0.0)
    weights = [1 / value**2 for value in y]
    for p in (step / 100 for step in range(1, 301)):
        powers = [(each / max(x)) ** p for each in x]
        mean_power, mean = (_weighted(weights, values) for values in (powers, y))
        spread = _weighted(weights, [(power - mean_power) ** 2 for power in powers])
        c = (
            _weighted(weights, [(q - mean_power) * (v - mean) for q, v in zip(powers, y, strict=True)])
            / spread
        )
        a = mean - c * mean_power
        if c > 0 and a < 0:
            a, c = 0.0, _weighted(weights, [q * v for q, v in zip(powers, y, strict=True)])
            c /= _weighted(weights, [q * q for q in powers])
        error = _weighted(weights, [(a + c * q - v) ** 2 for q, v in zip(powers, y, strict=True)])
        if c > 0 and error < best[0]:
            best = (error, a, p)
    return best[1:]


def _weighted(weights: Sequence[float], values: Sequence[float]) -> float:
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def training(results: Mapping[str, Any]) -> list[str]:
    """What follows from the rows of training: shares of the step, images and batches per second, time to the start."""
    rows = {found["name"]: found for found in results["rows"]}
    step, loss, batch = (rows.get(name) for name in results["training_rows"])
    lines = []
    for side, whose in ((OURS, "metric_jax"), (PML, "PyTorch with PML")):
        if step and median(step, side):
            seconds = median(step, side)
            line = f"- {whose}: {step['batch'] / seconds:,.0f} images/s in training"
            if loss and median(loss, side):
                line += f", of which loss and mining take {median(loss, side) / seconds:.1%}"
            lines.append(line + ".")
        if batch and median(batch, side):
            lines.append(f"- {whose}: {1 / median(batch, side):,.0f} batches/s of {batch['batch']} images.")
        if starts := results["starts"].get(side):
            lines.append(f"- {whose}: {duration(starts)} from the command to the end of the first step.")
    return lines


# All of it.


def report(results: Mapping[str, Any]) -> str:
    """Everything that was measured, as Markdown that also reads well in a terminal."""
    rows = results["rows"]
    parts = [[f"- {name}: {fact}" for name, fact in results["machine"].items()]]
    for group in GROUPS:
        in_group = [found for found in rows if found["group"] == group]
        parts += [[f"### {group}"], tables(in_group)] if in_group else []
    parts += [[f"### How {OURS} grows"], fitted] if (fitted := laws(rows)) else []
    parts += [["### The training step"], steps] if (steps := training(results)) else []
    if every := [found for found in rows if found["group"] == EVERY_LOSS]:
        cells = [[f["name"], size(f), memory_of(f, OURS), time_of(f, OURS)] for f in every]
        parts += [
            [f"### {EVERY_LOSS}"],
            table(("", "size", "peak memory, above imports", "first call"), cells),
        ]
    if cost := results.get("import_cost"):
        added, base = (f"{1e3 * seconds:.0f} ms" for seconds in (cost["all"] - cost["base"], cost["base"]))
        told = f"`import metric_jax` adds {added} to `import jax, chex, jaxtyping`, which takes {base}: medians of"
        parts += [["### Imports"], [f"{told} {cost['processes']} processes."]]
    if said := agreement(rows):
        parts += [["### Do all compute the same?"], said]
    return "\n\n".join("\n".join(part) for part in parts)
