import io
import sys
import types

import pytest

from metric_jax.training import progress
from metric_jax.training.progress import Clock, Progress

METRICS = {"loss": 0.12345, "active_fraction": 0.5}


@pytest.fixture
def time(monkeypatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def tick(clock, time, *seconds):
    for each in seconds:
        time[0] += each
        clock.tick()


def test_speed_is_that_of_the_median_step(time):
    clock = Clock()
    assert clock.steps_per_second == 0
    tick(clock, time, 60.0, 0.1, 0.1, 0.1, 9.0, 0.1)  # the first was compiled, the fifth evaluated
    assert clock.steps_per_second == pytest.approx(10.0)
    assert clock.seconds == pytest.approx(69.4)


def test_an_evaluation_after_every_step_is_no_part_of_its_time(time):
    clock = Clock()
    clock.restart()  # before any step there is nothing to leave out
    for _ in range(5):
        tick(clock, time, 0.1)
        time[0] += 9.0
        clock.restart()
    assert clock.steps_per_second == pytest.approx(10.0)
    assert clock.seconds == pytest.approx(45.5)


def test_results_that_are_there_already_tell_no_speed(time, capsys):
    """While the first step compiles, the next ones end."""
    clock = Clock()
    tick(clock, time, 60.0, 1e-6, 1e-6)
    assert clock.speed(16) == {"images_per_s": 0}
    with Progress(clock, steps=3, done=0, batch_size=16) as shown:
        shown.show(3, METRICS)
    assert "images/s ?  ETA ?" in capsys.readouterr().err
    tick(clock, time, 0.5, 0.5, 0.5)
    assert clock.steps_per_second == pytest.approx(2.0)


def test_waiting_is_told_beside_the_step_that_it_is_part_of(time):
    clock = Clock()
    assert clock.speed(16) == {"images_per_s": 0}
    for wait in (0.0, 0.1, 0.1, 0.1, 0.2):
        with clock.waiting():
            time[0] += wait
        tick(clock, time, 0.4)
    found = clock.speed(16)
    assert found == pytest.approx({"images_per_s": 16 / 0.5, "step_seconds": 0.5, "wait_seconds": 0.1})


def test_memory_is_told_where_the_device_tells(monkeypatch):
    assert progress.memory() == {}
    device = types.SimpleNamespace(
        memory_stats=lambda: {"bytes_in_use": 3, "peak_bytes_in_use": 5, "num_allocs": 7}
    )
    monkeypatch.setattr(progress.jax, "local_devices", lambda: [device])
    assert progress.memory() == {"device_bytes_in_use": 3, "device_peak_bytes_in_use": 5}


def test_a_later_session_goes_on(time):
    clock = Clock()
    tick(clock, time, 1.0, 0.5, 0.5, 0.5, 0.5)
    notes = clock.notes()
    time[0] += 1000.0  # nobody ran
    later = Clock()
    later.resume(notes)
    time[0] += 2.0
    assert later.seconds == pytest.approx(5.0)
    assert later.steps_per_second == pytest.approx(2.0)
    tick(later, time, 1.0, 0.1, 0.1, 0.1, 0.1)
    assert later.steps_per_second == pytest.approx(10.0)


def run(stream, monkeypatch, time):
    monkeypatch.setattr(sys, "stderr", stream)
    clock = Clock()
    with Progress(clock, steps=100, done=0, batch_size=8) as shown:
        shown.say("begins")
        for _ in range(5):
            tick(clock, time, 0.1)
            shown.advance()
        shown.show(5, METRICS)
    return stream.getvalue()


def test_in_a_pipe_there_are_plain_lines_with_rate_and_eta(monkeypatch, time):
    text = run(io.StringIO(), monkeypatch, time)
    assert text == "begins\nstep 5/100  loss 0.1235  active 50%  images/s 80  ETA 00:09\n"


def test_on_a_terminal_there_is_a_bar(monkeypatch, time):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    text = run(Terminal(), monkeypatch, time)
    assert "begins\n" in text
    last = text.split("\r")[-1]
    for part in ("5/100", "loss=0.1235", "active=50%", "images/s=80", "step/s"):
        assert part in last
    assert "step 5/100 " not in text
