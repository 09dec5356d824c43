"""Has a run collapsed? Told once, with what helps.

Batch-hard mining asks for the impossible at first, and a cheap way out of it is to map all images to one point: then a
triplet loss with a hinge is its margin, a softplus of it is the softplus of the margin, a softmax over n candidates is
log n, and there the loss stays. What a given loss is of one point, it is asked itself.

References:
    Hermans, Beyer, Leibe (2017), In Defense of the Triplet Loss for Person Re-Identification.
    https://arxiv.org/abs/1703.07737
"""

import math
from collections.abc import Mapping
from typing import Any

SEMI_HARD = "batch_semi_hard_triplet_loss"
# A run changes between well and collapsed when so many logged steps in a row, over so many steps, say so.
LINES, STEPS = 3, 30
NEAR = 0.1  # of the loss of one point: how far from it a loss may be that is taken for it
NARROW = 0.05  # of the mean distance: how far apart distances may be that are taken for equal


class Watch:
    """Looks at the metrics of logged steps as they come."""

    def __init__(
        self,
        one_point: tuple[float, float],
        *,
        margin: float,
        before_steps: int = 0,
        quiet_steps: int = 0,
        remedies: str,
    ):
        """Has seen nothing yet.

        Args:
            one_point: From `Objective.of_one_point`; a loss of which it is NaN is judged by its spread alone.
            margin: As that of `diagnostics.summary`.
            before_steps: How many steps have the first of the two losses.
            quiet_steps: The first steps, of which nothing is said, for the learning rate still rises.
            remedies: What to try, for the message; as from `remedies`.
        """
        self._one_point, self._margin, self._remedies = one_point, margin, remedies
        self._before_steps, self._quiet_steps = before_steps, quiet_steps
        self._collapsed, self._lines, self._since = False, 0, 0

    def see(self, step: int, metrics: Mapping[str, float]) -> str:
        """Takes note of a logged step, and tells if with it the run has collapsed, or recovered; else nothing.

        Args:
            step: The step.
            metrics: Its ``loss`` and what `diagnostics.summary` found.
        """
        if step <= self._quiet_steps:
            return ""
        if self._is_collapsed(step, metrics) == self._collapsed:
            self._lines = 0
            return ""
        self._since = self._since if self._lines else step
        self._lines += 1
        if self._lines < LINES or step - self._since < STEPS:
            return ""
        self._collapsed, self._lines = not self._collapsed, 0
        expected = self._of_one_point(step)
        found = (
            f"loss {metrics['loss']:.4g}"
            + ("" if math.isnan(expected) else f", and {expected:.4g} if all embeddings were one point")
            + f"; spread {metrics['spread']:.2g}; mean distance {metrics['positive_mean']:.2g} within classes, "
            f"{metrics['negative_mean']:.2g} between them"
        )
        if self._collapsed:
            return f"the run has collapsed ({found}). Try {self._remedies}"
        return f"the run has recovered from its collapse ({found})"

    def notes(self) -> dict[str, Any]:
        """What a later session goes on from."""
        return {"collapsed": self._collapsed, "lines": self._lines, "since": self._since}

    def resume(self, notes: Mapping[str, Any]) -> None:
        """Goes on from an earlier session's notes."""
        self._collapsed, self._lines, self._since = notes["collapsed"], notes["lines"], notes["since"]

    def _of_one_point(self, step: int) -> float:
        return self._one_point[step > self._before_steps]

    def _is_collapsed(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether all is one point, or a loss that says so comes with distances that are too short for it, or equal."""
        expected = self._of_one_point(step)
        is_near = abs(metrics["loss"] - expected) < NEAR * expected
        is_short = metrics["spread"] < self._margin / 2
        is_narrow = metrics["negative_q90"] - metrics["positive_q10"] < NARROW * metrics["negative_mean"]
        return bool(metrics["collapsed"]) or (is_near and (is_short or is_narrow))


def remedies(
    loss: str,
    *,
    steps: int,
    before: str,
    learning_rate: float,
    distance: str,
    normalise: bool,
    norm: str | None,
    neck: bool | None,
) -> str:
    """What helps a run that has collapsed and is not done already, by keys of its config.

    docs/troubleshooting.md has what each of them did for a run that had collapsed.

    Args:
        loss: ``loss.name``.
        steps: Of the whole run.
        before: ``loss.before``.
        learning_rate: ``optimizer.learning_rate``.
        distance: The name of the distance that the run is evaluated with.
        normalise: ``model.normalise``, as ``norm`` and ``neck`` are the model's.
        norm: See there.
        neck: See there.

    Returns:
        The rest of a sentence that begins with "Try".
    """
    tries = []
    if SEMI_HARD not in (loss, before):
        tries.append(
            f"semi-hard negatives at first (loss.before={SEMI_HARD}, loss.before_steps={max(1, steps // 5)})"
        )
    if norm == "group":
        tries.append("BatchNorm (model.norm=batch)")
    if neck is False:
        tries.append("the BatchNorm behind the head (model.neck=True)")
    if normalise and distance != "cosine":
        tries.append("embeddings of any length (model.normalise=False)")
    tries.append(f"a lower learning rate (optimizer.learning_rate={learning_rate / 10:g})")
    return f"{'; or '.join(tries)}. More in docs/troubleshooting.md"
