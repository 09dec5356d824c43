"""The best evaluation of a run, by a metric of one's choice, and when there has been none better for too long."""

from collections.abc import Mapping
from typing import Any

from metric_jax.data.errors import unknown
from metric_jax.training.errors import RunError
from metric_jax.training.evaluate import KS

METRICS = ("map_at_r", "precision@1", "r_precision", "mrr", *(f"recall@{k}" for k in KS))  # higher is better


class Best:
    """Looks at evaluations as they come.

    Attributes:
        metric: Which metric; empty for none, and then nothing is ever the best.
        step: That of the best evaluation, the first of equals; None before there is any.
        value: The metric there.
    """

    def __init__(self, metric: str, *, patience: int):
        """Has seen nothing yet.

        Args:
            metric: One of `METRICS`, or empty.
            patience: How many evaluations in a row may bring nothing better before a run ends; 0 for any number.

        Raises:
            RunError: There is no such metric, or no metric to have patience with.
        """
        if metric and metric not in METRICS:
            raise RunError(unknown("best_metric", metric, METRICS))
        if patience < 0:
            raise RunError(f"patience must not be negative, got {patience}")
        if patience and not metric:
            raise RunError(f"patience={patience} needs best_metric: {', '.join(METRICS)}")
        self.metric, self._patience = metric, patience
        self.step: int | None = None
        self.value: float | None = None
        self._since = 0

    def see(self, step: int, found: Mapping[str, float]) -> bool:
        """Takes note of an evaluation, and says whether it is the best so far."""
        if not self.metric:
            return False
        if self.metric not in found:
            raise RunError(f"best_metric={self.metric!r} is more than the few images of this test set have")
        if self.value is None or found[self.metric] > self.value:
            self.step, self.value, self._since = step, found[self.metric], 0
        else:
            self._since += 1
        return self._since == 0

    @property
    def enough(self) -> bool:
        """Whether a run is to end."""
        return 0 < self._patience <= self._since

    @property
    def results(self) -> dict[str, float]:
        """For a run's results: ``best_step``, and ``best_`` before the name of the metric."""
        if self.step is None or self.value is None:
            return {}
        return {"best_step": self.step, f"best_{self.metric}": self.value}

    def notes(self) -> dict[str, Any]:
        """What a later session goes on from."""
        return {"step": self.step, "value": self.value, "since": self._since}

    def resume(self, notes: Mapping[str, Any]) -> None:
        """Goes on from an earlier session's notes."""
        self.step, self.value, self._since = notes["step"], notes["value"], notes["since"]
