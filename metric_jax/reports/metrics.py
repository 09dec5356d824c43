"""The metrics of the runs as rows of a table: each with its interval, its baseline, and how two runs differ."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metric_jax.reports.run import Run

TITLES = {
    "map_at_r": "MAP@R",
    "r_precision": "R-precision",
    "map": "MAP",
    "mrr": "MRR",
    "auc": "AUC",
    "eer": "EER",
    "nmi": "NMI",
    "ami": "AMI",
    "purity": "Purity",
    "accuracy": "Accuracy",
    "threshold": "most accurate threshold",
}
FAMILIES = {
    "precision@": "Precision@",
    "recall@": "Recall@",
    "ndcg@": "nDCG@",
    "tar@far=": "TAR at FAR ",
    "threshold@far=": "threshold for FAR ",
}
LOWER_IS_BETTER = {"eer"}
RELATIVE = "relative_"  # what a metric of relative distances has before its name
NO_SCORES = {"genuine", "impostors", "queries", "left_out"}  # though raw pixels have them too


class Measured(NamedTuple):
    """A metric of one run; None is what is not known."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    baseline: float | None = None


class Row(NamedTuple):
    """A metric of all runs. ``is_score``: a share, in [0, 1], and not a count or a time."""

    title: str
    is_score: bool
    runs: tuple[Measured, ...]
    lower_is_better: bool = False

    @property
    def difference(self) -> float | None:
        """The second run less the first."""
        first, second = self.runs[0].value, self.runs[-1].value
        return None if first is None or second is None else second - first

    @property
    def verdict(self) -> str:
        """Which of two runs is better, as far as the intervals tell."""
        first, second = self.runs
        if not self.difference:
            return ""
        better = "better" if (self.difference < 0) == self.lower_is_better else "worse"
        if first.low is None or first.high is None or second.low is None or second.high is None:
            return better
        apart = second.low > first.high or second.high < first.low
        return f"{better}, intervals {'apart' if apart else 'overlap'}"


def rows(runs: Sequence[Run]) -> list[Row]:
    """A row for every metric that any run has, in the order of their first appearance."""
    keys = list(dict.fromkeys(key for run in runs for key in run.metrics))
    names = set(keys)

    def is_about_another(key: str) -> bool:
        whole, _, end = key.rpartition("_")
        return (end in ("low", "high") and whole in names) or key.removeprefix("baseline_") in names - {key}

    return [_row(key, runs) for key in keys if not is_about_another(key)]


def thresholds(run: Run) -> dict[str, float]:
    """What the run's thresholds are called, and where they lie."""
    found = {_title(key): number(value) for key, value in run.metrics.items() if key.startswith("threshold")}
    return {title: value for title, value in found.items() if value is not None}


def _row(key: str, runs: Sequence[Run]) -> Row:
    measured = tuple(_measured(key, run.metrics) for run in runs)
    in_range = all(m.value is None or 0 <= m.value <= 1 for m in measured)
    known = key in TITLES or key.startswith(tuple(FAMILIES)) or any(m.baseline is not None for m in measured)
    is_score = known and in_range and key not in NO_SCORES and not key.startswith("threshold")
    return Row(_title(key), is_score, measured, key.removeprefix(RELATIVE) in LOWER_IS_BETTER)


def _title(key: str) -> str:
    if key.startswith(RELATIVE):
        return f"relative {_title(key.removeprefix(RELATIVE))}"
    for family, title in FAMILIES.items():
        if key.startswith(family):
            return title + key.removeprefix(family)
    return TITLES.get(key, key.replace("_", " "))


def _measured(key: str, metrics: Mapping[str, Any]) -> Measured:
    return Measured(
        *(number(metrics.get(name)) for name in (key, f"{key}_low", f"{key}_high", f"baseline_{key}"))
    )


def number(value: Any) -> float | None:
    """A finite number, or None: NaN stands for what could not be resolved."""
    is_number = not isinstance(value, str | None) and np.ndim(value) == 0
    return float(value) if is_number and math.isfinite(value) else None
