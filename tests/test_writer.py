import contextlib
import json
import resource
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from metric_jax.training import RunError
from metric_jax.training.writer import MetricsWriter


@contextlib.contextmanager
def files_of_at_most(size):
    """What a full disk is like: nothing can be written beyond this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write(folder, steps, after=0):
    with MetricsWriter(folder, after=after) as writer:
        for step in steps:
            writer.write(step, {"loss": step / 2, "collapsed": False}, speed={"steps_per_s": 9.0})


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def records(folder):
    """All events in the event files: each record is length, checksum, bytes, checksum."""
    found = []
    for path in sorted(folder.glob("events*")):
        raw = path.read_bytes()
        while raw:
            (length,) = struct.unpack("<Q", raw[:8])
            found.append(Event.FromString(raw[12 : 12 + length]))
            raw = raw[16 + length :]
    return found


def events(folder):
    """(step, tag) -> value of all scalars in the event files."""
    return {
        (event.step, value.tag): value.simple_value
        for event in records(folder)
        for value in event.summary.value
    }


@pytest.mark.parametrize("after", [0, 2])
def test_a_session_tells_tensorboard_from_which_step_on_it_writes_anew(tmp_path, after):
    """Also one that begins anew, after one that was cut off before its first checkpoint."""
    write(tmp_path, [], after=after)
    started = [event.step for event in records(tmp_path) if event.session_log.status == SessionLog.START]
    assert started == [after + 1]


def test_a_line_and_an_event_for_every_step(tmp_path):
    write(tmp_path, [10, 20])
    assert lines(tmp_path) == [
        {"step": 10, "loss": 5.0, "collapsed": False},
        {"step": 20, "loss": 10.0, "collapsed": False},
    ]
    found = events(tmp_path)
    assert found[20, "loss"] == 10.0
    assert found[10, "steps_per_s"] == 9.0


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path):
    with MetricsWriter(tmp_path, after=0) as writer:
        writer.write(1, {"loss": 1.0})
        assert lines(tmp_path) == [{"step": 1, "loss": 1.0}]


def test_going_on_drops_what_will_be_written_again(tmp_path):
    write(tmp_path, [1, 2, 3])
    before = (tmp_path / "metrics.jsonl").read_bytes()
    write(tmp_path, [3], after=2)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("unfinished", [b'{"step": 3, "lo', b"\x00\x00", b"3", b'{"loss": 1.0}', b"\xff\xfe"])
def test_a_line_that_was_never_finished_is_dropped(tmp_path, unfinished):
    write(tmp_path, [1, 2])
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(unfinished)
    write(tmp_path, [], after=2)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_what_is_about_time_has_lines_of_its_own(tmp_path):
    write(tmp_path, [1, 2])
    write(tmp_path, [2], after=1)
    found = [json.loads(line) for line in (tmp_path / "speed.jsonl").read_text().splitlines()]
    assert found == [{"step": 1, "steps_per_s": 9.0}, {"step": 2, "steps_per_s": 9.0}]


def test_T5_a_line_that_cannot_be_written_names_the_file_and_is_dropped_later(tmp_path):
    write(tmp_path, [1])
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with (
        MetricsWriter(tmp_path, after=1) as writer,
        files_of_at_most(len(before) + 10),
        pytest.raises(RunError, match=rf"cannot write {tmp_path}/metrics.jsonl: File too large"),
    ):
        writer.write(2, {"loss": 1.0})
    assert len((tmp_path / "metrics.jsonl").read_bytes()) == len(before) + 10
    write(tmp_path, [], after=1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_the_log_is_strict_json(tmp_path):
    with MetricsWriter(tmp_path, after=0) as writer, pytest.raises(ValueError, match="JSON"):
        writer.write(1, {"loss": float("nan")})
