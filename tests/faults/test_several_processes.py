"""Two processes that train one model together: as one does, until one of them dies, and after."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent

SMALL = {
    "log_every": 1,
    "eval_every": 1000,
    "checkpoint_every": 5,
    "batch.classes": 8,
    "batch.samples": 4,
    "model.width": 8,
    "model.blocks": 2,
}
PATIENCE = 60  # seconds in which a process has to notice that another one died


def start(workdir, *, steps, devices, processes=1):
    """The processes of a run, each with so many devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    config = {"steps": steps, **SMALL}
    command = [sys.executable, ROOT / "experiments" / "train.py", "--config=configs/digits.py"]
    command += [f"--workdir={workdir}", *(f"--config.{key}={value}" for key, value in config.items())]
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return [
        subprocess.Popen(
            [*command, f"--coordinator={address}", f"--processes={processes}", f"--process={index}"]
            if processes > 1
            else command,
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(processes)
    ]


def end(running, timeout=300):
    """What they said and their exit codes."""
    said = [process.communicate(timeout=timeout)[0] for process in running]
    return said, [process.returncode for process in running]


def losses(workdir):
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def wait_for(path):
    until = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < until, f"{path} does not come"
        time.sleep(0.1)


def test_one_device_eight_devices_and_two_processes_train_alike(tmp_path, counted):
    found = []
    for name, devices, processes in (("one", 1, 1), ("eight", 8, 1), ("two", 4, 2)):
        said, codes = end(start(tmp_path / name, steps=20, devices=devices, processes=processes))
        assert codes == [0] * processes, said
        found.append(losses(tmp_path / name))
        assert len(found[-1]) == 20
        assert ("map_at_r" in said[0], any("map_at_r" in other for other in said[1:])) == (True, False)
    for others in found[1:]:
        assert others == pytest.approx(found[0], rel=1e-5)
    largest = max(abs(a / b - 1) for others in found[1:] for a, b in zip(others, found[0], strict=True))
    counted(f"1 process of 8 devices and 2 of 4, 20 steps: losses are those of 1 device to {largest:.0e}")


def test_when_one_is_killed_the_other_ends_and_a_restart_goes_on(tmp_path, counted):
    undisturbed, broken = tmp_path / "undisturbed", tmp_path / "broken"
    end(start(undisturbed, steps=40, devices=4, processes=2))
    running = start(broken, steps=40, devices=4, processes=2)
    wait_for(broken / "checkpoints" / "10")
    running[1].kill()
    killed = time.monotonic()
    said, codes = end(running, timeout=PATIENCE)
    counted(f"1 of 2 processes killed: the other one ended after {time.monotonic() - killed:.0f} s")
    assert codes[0] not in (0, None)
    assert re.search("another task died", said[0])
    said, codes = end(start(broken, steps=40, devices=4, processes=2))
    assert codes == [0, 0], said
    assert re.search(r"going on from step \d+", said[0])
    assert losses(broken) == losses(undisturbed)


def test_sigterm_to_one_ends_both_after_the_same_step(tmp_path):
    running = start(tmp_path, steps=4000, devices=4, processes=2)
    wait_for(tmp_path / "checkpoints" / "5")
    running[1].send_signal(signal.SIGTERM)
    said, codes = end(running)
    assert codes == [143, 143], said
    steps = {re.search(r"stopped by SIGTERM after step (\d+), with a checkpoint", each)[1] for each in said}
    assert len(steps) == 1
    assert (tmp_path / "checkpoints" / steps.pop()).is_dir()
