"""How far a run is and how fast it goes."""

import collections
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Self

import jax
from tqdm import tqdm

from metric_jax.training import processes

# Intervals that tell a speed. While something compiles, the results of the first few steps come in: to read them takes
# no time.
SEVERAL = 4


class Clock:
    """How long a run takes, over all its sessions, and how fast its steps are.

    A step's time is that since the step before it, or since the evaluation or save that was done in between. The speed
    is by the median of these, once there are several, which does not see the few in which something was compiled.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._last: float | None = None
        self._intervals: collections.deque[float] = collections.deque(maxlen=1000)
        self._waits: collections.deque[float] = collections.deque(maxlen=1000)
        self._speed_before = 0.0

    def tick(self) -> None:
        """A step is done."""
        now = time.perf_counter()
        if self._last is not None:
            self._intervals.append(now - self._last)
        self._last = now

    def restart(self) -> None:
        """What was done since the last step is no part of the next one's time."""
        if self._last is not None:
            self._last = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done meanwhile is to wait for a step's data."""
        before = time.perf_counter()
        yield
        self._waits.append(time.perf_counter() - before)

    @property
    def seconds(self) -> float:
        """Since the run's first session began, without the time between sessions."""
        return time.perf_counter() - self._start

    @property
    def steps_per_second(self) -> float:
        """The speed of this session, or of the one before until there is any; 0 when there is neither."""
        return 1.0 / self._step_seconds if self._step_seconds else self._speed_before

    def speed(self, batch_size: int) -> dict[str, float]:
        """The time of the median step, of which the mean wait for data, and the images of batches per second."""
        found = {"images_per_s": self.steps_per_second * batch_size}
        if self._step_seconds:
            found["step_seconds"] = self._step_seconds
        if self._waits:
            found["wait_seconds"] = statistics.mean(self._waits)
        return found

    @property
    def _step_seconds(self) -> float | None:
        """The median interval; None while there are too few."""
        return statistics.median(self._intervals) if len(self._intervals) >= SEVERAL else None

    def notes(self) -> dict[str, float]:
        """What a later session goes on from."""
        return {"seconds": self.seconds, "steps_per_second": self.steps_per_second}

    def resume(self, notes: Mapping[str, float]) -> None:
        """Goes on from an earlier session's notes."""
        self._start -= notes["seconds"]
        self._speed_before = notes["steps_per_second"]


class Progress:
    """On a terminal a bar; in a pipe or a file a line per logged step; of several processes the first alone tells."""

    def __init__(self, clock: Clock, *, steps: int, done: int, batch_size: int):
        """Starts a bar, if this is a terminal.

        Args:
            clock: Knows how fast it goes.
            steps: How many steps there are in all.
            done: How many of them were taken in earlier sessions.
            batch_size: Images in a step.
        """
        self._clock, self._steps, self._batch_size = clock, steps, batch_size
        self._tells = processes.is_first()
        self._bar = tqdm(
            total=steps, initial=done, unit="step", disable=not (self._tells and sys.stderr.isatty())
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def say(self, text: str) -> None:
        """A line of its own."""
        if self._tells:
            self._bar.clear()
            print(text, file=sys.stderr, flush=True)

    def advance(self) -> None:
        """A step is done."""
        self._bar.update()

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics of a logged step."""
        speed = self._clock.steps_per_second
        told = {
            "loss": f"{metrics['loss']:.4f}",
            "active": f"{metrics['active_fraction']:.0%}",
            "images/s": f"{speed * self._batch_size:,.0f}" if speed else "?",
        }
        if not self._bar.disable:
            self._bar.set_postfix(told)  # the bar has an ETA of its own
            return
        told["ETA"] = tqdm.format_interval((self._steps - step) / speed) if speed else "?"
        self.say(f"step {step}/{self._steps}  " + "  ".join(f"{key} {value}" for key, value in told.items()))


def memory() -> dict[str, float]:
    """Bytes in use on this process's first device, now and at most so far; empty where the backend does not tell."""
    found = jax.local_devices()[0].memory_stats() or {}
    return {f"device_{key}": found[key] for key in ("bytes_in_use", "peak_bytes_in_use") if key in found}
