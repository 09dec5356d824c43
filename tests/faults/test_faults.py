"""T1, T2, T3 and T5 with processes that are really killed, stopped and starved. `make test-faults` runs them."""

import contextlib
import functools
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from sessions import PATIENCE, ROOT, Sessions, steps, wait_for
from small_run import arrays, config, lines

from metric_jax.training import manifest

KILLS = 50
SHORT, LONG = 50, 400  # steps, each with a checkpoint


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def sessions(home):
    return Sessions(home)


@pytest.fixture(scope="module")
def undisturbed(home, sessions):
    """A function that returns a run of so many steps that nothing disturbed."""

    @functools.cache
    def run(steps):
        workdir = home / f"undisturbed_{steps}"
        process = sessions.start(workdir, asked(steps))
        process.join(PATIENCE)
        assert process.exitcode == 0, sessions.told(workdir)
        return workdir

    return run


def asked(steps):
    return config(steps=steps, log_every=1, checkpoint_every=1, eval_every=LONG)


def check_it_ends_as_undisturbed(workdir, undisturbed, sessions, count=SHORT):
    """Goes on with a run to its end, and compares bit for bit."""
    undisturbed = undisturbed(count)
    process = sessions.start(workdir, asked(count))
    process.join(PATIENCE)
    assert process.exitcode == 0, sessions.told(workdir)
    assert not any("Traceback" in line for line in sessions.told(workdir))
    found, expected = arrays(workdir, count), arrays(undisturbed, count)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert (workdir / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
    assert [line["step"] for line in lines(workdir)] == list(range(1, count + 1))
    results = [json.loads((run / "results.json").read_text()) for run in (workdir, undisturbed)]
    for result in results:
        del result["seconds"], result["images_per_s"]
    assert results[0] == results[1]
    check_no_gap_and_no_repeat(sessions.seen(workdir), *sessions.seen(undisturbed))


def check_no_gap_and_no_repeat(seen, expected):
    """What the steps saw, of each session up to where the next one went on from."""
    history = []
    for session in seen:
        if session:
            first = session[0][0]
            assert [step for step, _ in session] == list(range(first, first + len(session)))
            assert first <= len(history) + 1
            history[first - 1 :] = session
    assert history == expected


def readable(workdir):
    """How many checkpoints are listed; all are read."""
    listed = steps(workdir)
    for step in listed:
        manifest.verify(workdir / "checkpoints" / str(step))
        assert arrays(workdir, step)["['step']"] == step
    return len(listed)


def test_T1_T2_fifty_kills_at_random_moments_around_saves(home, undisturbed, sessions, counted):
    workdir, draw = home / "killed", random.Random(0)
    read, cut_off = 0, 0
    for _ in range(KILLS):
        before = steps(workdir)
        process = sessions.start(workdir, asked(LONG))
        wait_for(lambda before=before: steps(workdir) != before, process)
        time.sleep(draw.uniform(0, 0.1))  # a save or two
        assert process.is_alive(), sessions.told(workdir)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        read += readable(workdir)
        cut_off += any(".partial" in path.name for path in (workdir / "checkpoints").iterdir())
    assert not (workdir / "results.json").exists()
    check_it_ends_as_undisturbed(workdir, undisturbed, sessions, LONG)
    counted(
        f"T1: {KILLS}/{KILLS} kills, {cut_off} of them in the middle of a save; "
        f"{read} checkpoints listed after them, 0 unreadable"
    )
    counted(
        f"T2: after {KILLS} kills all arrays, metrics and results are those of an undisturbed run, bit for bit; "
        f"{LONG} steps saw their images once, without a gap"
    )


@pytest.mark.parametrize("how", ["SIGTERM in a step", "SIGTERM in a save", "SIGTERM twice", "SIGINT"])
def test_T3_a_run_that_is_asked_to_stop(home, undisturbed, sessions, counted, how):
    workdir = home / how.replace(" ", "_")
    process = sessions.start(workdir, asked(SHORT))
    if how == "SIGTERM in a step":
        wait_for(lambda: sessions.seen(workdir)[-1:] > [[]], process)  # the first, which is compiled
    elif how == "SIGTERM in a save":
        wait_for(lambda: any((workdir / "checkpoints").glob("*.partial*")), process)
    else:
        wait_for(lambda: len(steps(workdir)) == 2, process)
    for _ in range(2 if how == "SIGTERM twice" else 1):
        os.kill(process.pid, signal.SIGINT if how == "SIGINT" else signal.SIGTERM)
    process.join(PATIENCE)
    last = sessions.told(workdir)[-1]
    readable(workdir)
    if how == "SIGINT":
        assert process.exitcode == 130
        assert last == "train: interrupted; the same command goes on from the newest checkpoint"
    else:
        assert process.exitcode == 143
        step = int(re.search(r"stopped by SIGTERM after step (\d+), with a checkpoint", last)[1])
        assert steps(workdir)[-1] == step == len(sessions.seen(workdir)[-1])
    check_it_ends_as_undisturbed(workdir, undisturbed, sessions)
    counted(f"T3: {how}: exit code {process.exitcode}, and the run goes on to the same end")


@pytest.mark.parametrize("room", ["for no checkpoint", "for no line of a log"])
def test_T5_no_file_may_grow(home, undisturbed, sessions, counted, room):
    """As on a full disk, and as on one of a quota."""
    workdir = home / room.replace(" ", "_")

    def logged():
        return sum(path.stat().st_size for path in workdir.glob("events*"))

    process = sessions.start(workdir, asked(SHORT))
    if room == "for no checkpoint":
        wait_for(lambda: len(steps(workdir)) == 2, process)
    else:
        wait_for(lambda: logged() > 25_000, process)  # about twice as large as any file of a checkpoint
    size = 5000 if room == "for no checkpoint" else logged() + 100
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
    process.join(PATIENCE)
    assert process.exitcode == 1
    assert re.match(rf"train: .*{workdir}.*: File too large", sessions.told(workdir)[-1])
    assert readable(workdir)
    check_it_ends_as_undisturbed(workdir, undisturbed, sessions)
    counted(f"T5: room {room}: exit code 1, and the run goes on to the same end")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", place],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"needs to mount a small disk: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_T5_the_disk_is_full(small_disk, sessions, counted):
    workdir = small_disk / "run"
    process = sessions.start(workdir, asked(SHORT))
    wait_for(lambda: len(steps(workdir)) == 2, process)
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(1024))
    process.join(PATIENCE)
    assert process.exitcode == 1
    assert re.match(rf"train: .*{workdir}.*: No space left on device", sessions.told(workdir)[-1])
    assert readable(workdir)
    (small_disk / "filler").unlink()
    counted("T5: full disk: exit code 1, and the checkpoint before can be read")


def test_T5_a_workdir_that_cannot_be_written(counted):
    workdir = "/proc/metric_jax"  # where not even root may make a folder
    done = subprocess.run(
        [
            *(sys.executable, "experiments/train.py", f"--workdir={workdir}"),
            f"--config={ROOT / 'configs/digits.py'}",
        ],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1, done.stderr
    assert re.fullmatch(rf"train: cannot write {workdir}: .*\n", done.stderr)
    counted("T5: a workdir that cannot be written: exit code 1, and its path")
