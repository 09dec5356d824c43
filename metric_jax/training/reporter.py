"""What a step tells, read once and passed on to all who want to know: the log, the screen, the alarm."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from jaxtyping import Array

from metric_jax.training.collapse import Watch
from metric_jax.training.errors import NonFiniteError
from metric_jax.training.progress import Clock, Progress, memory
from metric_jax.training.step import Output
from metric_jax.training.writer import MetricsWriter


class Pending(NamedTuple):
    """A step that is on its way: nothing of it was read yet. ``diagnosed`` is None where it is not to be logged."""

    step: int
    output: Output
    diagnosed: dict[str, Array] | None


class Reporter:
    """Reads the metrics of steps, checks them, and tells them to log and screen."""

    def __init__(
        self,
        writer: MetricsWriter | None,
        progress: Progress,
        clock: Clock,
        learning_rate: optax.Schedule,
        watch: Watch,
        *,
        batch_size: int,
        saved: Callable[[], str],
    ):
        """Reads nothing yet.

        Args:
            writer: The log; None in a process that keeps none.
            progress: The screen.
            clock: Is told of every step.
            learning_rate: The schedule, to log it.
            watch: Is shown every logged step, and says when the run has collapsed.
            batch_size: Images in a step.
            saved: Where the newest checkpoint is, for a message.
        """
        self._writer, self._progress, self._clock = writer, progress, clock
        self._learning_rate, self._watch = learning_rate, watch
        self._batch_size, self._saved = batch_size, saved
        self._checked = -1  # the last step that was

    def check(self, pending: Pending) -> None:
        """Waits for a step, and raises a NonFiniteError if its loss or gradient is not finite; once for each step."""
        if pending.step == self._checked:
            return
        loss, gradient_norm = float(pending.output.loss), float(pending.output.gradient_norm)
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            raise NonFiniteError(
                f"stopped at step {pending.step}: the loss is {loss} and its gradient's norm {gradient_norm}; "
                f"{self._saved()}. Lower optimizer.learning_rate, and choose another --workdir"
            )
        self._checked = pending.step
        self._clock.tick()
        self._progress.advance()

    def __call__(self, pending: Pending, evaluate: Callable[[], dict[str, float]] | None = None) -> None:
        """Reports a step, and what an evaluation after it finds.

        Raises:
            NonFiniteError: Its loss or gradient is not finite; nothing more is evaluated, written or saved.
        """
        self.check(pending)
        step = pending.step
        if pending.diagnosed is None:
            return
        metrics = {
            "loss": float(pending.output.loss),
            "gradient_norm": float(pending.output.gradient_norm),
            "learning_rate": float(self._learning_rate(step - 1)),
            **{key: value.item() for key, value in jax.device_get(pending.diagnosed).items()},
        }
        self._progress.show(step, metrics)
        found = evaluate() if evaluate else {}
        if self._writer is not None:
            self._writer.write(step, metrics | found, speed=self._clock.speed(self._batch_size) | memory())
        if found:
            self._progress.say(
                f"step {step}: map_at_r {found['map_at_r']:.4f}, recall@1 {found['recall@1']:.4f}"
            )
        if told := self._watch.see(step, metrics):
            self._progress.say(f"step {step}: {told}")
