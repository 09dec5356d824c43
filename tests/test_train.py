"""experiments/train.py as its user runs it."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from small_run import config, lines

from metric_jax.training.folders import flatten

ROOT = pathlib.Path(__file__).parent.parent


def command(workdir, *changes, config="configs/digits.py"):
    return [sys.executable, "experiments/train.py", f"--config={config}", f"--workdir={workdir}", *changes]


def run(*arguments, **options):
    return subprocess.run(
        command(*arguments, **options), check=False, cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def flags_of(small):
    """The command line that turns the digits' config into this one."""
    return [
        f"--config.{key}={value}"
        for key, value in flatten(small.to_dict()).items()
        if value not in ("", None)
    ]


def test_T2_kill_9_and_the_same_command_end_where_it_would_have_ended(tmp_path):
    flags = flags_of(config(steps=300, log_every=1, checkpoint_every=20, eval_every=100, loss__margin=0.3))
    undisturbed = run(tmp_path / "a", *flags)
    assert undisturbed.returncode == 0, undisturbed.stderr

    process = subprocess.Popen(command(tmp_path / "b", *flags), cwd=ROOT, stderr=subprocess.DEVNULL)
    log = tmp_path / "b" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= 50):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was to be killed in the middle"
    assert not (tmp_path / "b" / "results.json").exists()

    resumed = run(tmp_path / "b", *flags)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from step" in resumed.stderr
    assert all(re.match(r"step \d+|\d+ images", line) for line in resumed.stderr.splitlines()), resumed.stderr
    assert log.read_bytes() == (tmp_path / "a" / "metrics.jsonl").read_bytes()
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in "ab"]
    for found in results:
        del found["seconds"], found["images_per_s"]
    assert results[0] == results[1]
    assert f"{results[0]['map_at_r']:.4f}" in resumed.stdout
    assert f"{results[0]['baseline_map_at_r']:.4f}" in resumed.stdout


@pytest.fixture
def heeded_interrupts():
    """What runs in a shell's background ignores SIGINT, and a process that it starts would too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_is_one_line_that_says_how_to_go_on(tmp_path, heeded_interrupts):
    flags = flags_of(config(steps=100_000, log_every=1))
    process = subprocess.Popen(command(tmp_path, *flags), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "checkpoints" / "8").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        told = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    assert told.splitlines()[-1] == "train: interrupted; the same command goes on from the newest checkpoint"
    assert "Traceback" not in told


def test_a_run_on_real_omniglot(shared, tmp_path):
    small = config(steps=2, log_every=1, eval_every=2, loss__name="batch_semi_hard_triplet_loss")
    flags = [flag for flag in flags_of(small) if not flag.startswith("--config.data")]
    flags += [f"--config.data.data_dir={shared / 'tfds'}", "--config.data.test_split=test[:2000]"]
    done = run(tmp_path, *flags, config="configs/omniglot.py")
    assert done.returncode == 0, done.stderr
    assert "77120 images of 3856 classes to train on, 2000 of 638 to test on" in done.stderr
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        (
            "--config.lerning_rate=1",
            "unknown config key 'lerning_rate', did you mean 'optimizer.learning_rate'?",
        ),
        ("--config.los.margin=1", "unknown config key 'los.margin', did you mean 'loss.margin'?"),
        ("--noconfig.data.rotation", "unknown config key 'data.rotation', did you mean 'data.rotations'?"),
        ("--config.batch.classes=2.5", "--config.batch.classes=2.5: invalid literal for int"),
        ("--workdr=x", "Unknown command line flag 'workdr'. Did you mean: workdir"),
        ("--config.batch.classes=11", "batch.classes=11, but the training set has 10 classes"),
    ],
)
def test_T8_a_wrong_flag_is_told_before_anything_is_done(flag, told, tmp_path):
    done = run(tmp_path / "run", flag)
    assert done.returncode != 0
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2  # absl adds where to find help
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()


def test_T8_a_config_file_that_is_not_there_or_has_a_wrong_key_is_told_in_one_line(tmp_path):
    (tmp_path / "typo.py").write_text(
        "from configs import base\ndef get_config():\n    config = base.get_config()\n    config.stepz = 3\n"
    )
    for name, told in (("typo.py", 'Key "stepz" does not exist'), ("none.py", "No such file or directory")):
        done = run(tmp_path / "run", config=str(tmp_path / name))
        assert done.returncode != 0
        assert re.fullmatch(rf"train: .*{told}.*\n", done.stderr)
        assert not (tmp_path / "run").exists()
