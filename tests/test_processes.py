"""Joining other processes: what is refused, and when there are none. tests/faults trains with two."""

import pytest

from metric_jax.training import RunError, devices, processes


@pytest.fixture(autouse=True)
def joined(monkeypatch):
    """What JAX was told to join."""
    told = []
    monkeypatch.setattr(processes.jax.distributed, "initialize", lambda *args, **_: told.append(args))
    for variable in ("TPU_WORKER_HOSTNAMES", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(variable, raising=False)
    return told


def test_alone_there_is_nothing_to_join(joined):
    processes.start()
    assert not joined
    assert processes.is_first()
    assert processes.together(7) == 7
    assert not processes.asked_to_end(7)


def test_explicit_arguments_are_joined_by(joined):
    processes.start("host:1234", 2, 1)
    assert joined == [("host:1234", 2, 1)]


@pytest.mark.parametrize(
    ("variable", "value"), [("TPU_WORKER_HOSTNAMES", "a,b"), ("SLURM_STEP_NUM_TASKS", "2")]
)
def test_a_cluster_is_found(variable, value, joined, monkeypatch):
    monkeypatch.setenv(variable, value)
    processes.start()
    assert joined == [(None, None, None)]


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (("host:1", None, None), "--processes and --process is missing"),
        ((None, 2, 0), "--coordinator is missing"),
        (("host", 2, 0), "--coordinator=host must be HOST:PORT, such as"),
        (("host:", 2, 0), "--coordinator=host: must be HOST:PORT, such as"),
    ],
)
def test_flags_that_name_no_processes_are_refused(given, missing):
    with pytest.raises(RunError, match=missing):
        processes.start(*given)


def test_others_that_cannot_be_reached(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("DEADLINE_EXCEEDED: nobody answers\nand a page of more")

    monkeypatch.setattr(processes.jax.distributed, "initialize", fail)
    with pytest.raises(RunError, match=r"cannot join .*nobody answers\): start all of them") as error:
        processes.start("host:1", 2, 1)
    assert "\n" not in str(error.value)


def test_a_batch_that_all_devices_of_several_processes_cannot_share(monkeypatch):
    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
    with pytest.raises(
        RunError, match="12 images of a batch cannot be shared out among 8 devices of 2 processes"
    ):
        devices.mesh(12)
