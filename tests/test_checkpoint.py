import contextlib
import json
import re
import resource
import shutil
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint.experimental.v1 as ocp
import pytest
from flax import nnx
from small_run import everything

from metric_jax import data
from metric_jax.models import ConvNet
from metric_jax.training import RunError, checkpoint, devices, manifest, state, stored
from metric_jax.training.checkpoint import Checkpoints

NOTES = {"clock": {"seconds": 1.5}, "best": {"step": None}}


def make_state(seed):
    model = ConvNet((8, 8, 1), width=4, dim=4, blocks=1, rngs=nnx.Rngs(seed))
    created = state.create(model, optax.adam(1e-3), jax.random.key(seed))[1]
    return jax.device_put(created._replace(step=jnp.int32(seed)), devices.replicated(devices.mesh(8)))


def make_stream():
    digits = data.load("digits")[0]
    return data.batches(digits, data.PKSampler(digits.labels, classes=2, samples=2, seed=0), count=50)


@pytest.fixture
def stream():
    return make_stream()


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    with Checkpoints(folder, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(make_state(step), make_stream(), step=step, notes=NOTES)
    return folder


@pytest.fixture
def saved(tmp_path, original):
    """A folder with the checkpoints 1 and 2."""
    return shutil.copytree(original, tmp_path / "checkpoints")


def comparable(tree):
    return jax.tree.map(np.asarray, tree._replace(key=jax.random.key_data(tree.key)))


def test_what_is_saved_is_restored_bit_for_bit(tmp_path, stream):
    original = make_state(3)
    for _ in range(5):
        next(stream)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest is None
        assert checkpoints.describe_latest() == "there is no checkpoint yet"
        checkpoints.save(original, stream, step=5, notes=NOTES)
        assert str(tmp_path / "5") in checkpoints.describe_latest()
    expected = [next(stream).images for _ in range(3)]
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        restored, notes = checkpoints.restore(make_state(4), stream)
        assert checkpoints.latest == 5
    assert notes == NOTES
    jax.tree.map(np.testing.assert_array_equal, comparable(restored), comparable(original))
    assert jax.tree.all(jax.tree.map(lambda a, b: a.sharding == b.sharding, restored, original))
    np.testing.assert_array_equal([next(stream).images for _ in range(3)], expected)


def test_what_happens_to_the_state_after_a_save_began_is_not_saved(tmp_path, stream, monkeypatch):
    write, overwritten = manifest.write, threading.Event()

    def late(folder):
        assert overwritten.wait(60)
        write(folder)

    monkeypatch.setattr(manifest, "write", late)
    original, position = make_state(1), stream.get_state()
    expected = comparable(original)
    clear = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0, tree._replace(key=None)), donate_argnums=0)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(original, stream, step=1, notes=NOTES)
        assert checkpoints.latest is None  # it goes on in the background
        jax.block_until_ready(clear(original))
        next(stream)
        overwritten.set()
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        restored = checkpoints.restore(make_state(0), stream)[0]
    jax.tree.map(np.testing.assert_array_equal, comparable(restored), expected)
    assert stream.get_state() == position


def test_the_newest_are_kept_and_the_best(tmp_path, stream):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(make_state(step), stream, step=step, notes=NOTES, best=1)
        assert checkpoints.restore(make_state(0), stream)[0].step in (3, 4)
    assert stored.steps(tmp_path) == [1, 3, 4]
    assert stored.best_step(tmp_path) == 1
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(make_state(5), stream, step=5, notes=NOTES, best=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "5"]


def test_T1_a_process_may_die_at_any_moment_of_a_save(saved, stream, monkeypatch, tmp_path_factory):
    """Where it writes, renames or deletes anything, the folder is kept as it is at that moment."""
    moments = []

    def watched(module, name):
        function = getattr(module, name)

        def watching(*arguments, **options):
            assert name != "rmtree" or ".partial" in arguments[0].name  # half of it may be gone at any moment
            moments.append(tmp_path_factory.mktemp("moment") / "checkpoints")
            shutil.copytree(saved, moments[-1])
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, watching)

    for module, name in (
        *((checkpoint.folders, "write_json"), (manifest, "write"), (manifest, "sync")),
        *((checkpoint.pathlib.Path, "rename"), (shutil, "rmtree"), (stored, "steps")),
    ):
        watched(module, name)
    with Checkpoints(saved, keep=2) as checkpoints:
        checkpoints.save(make_state(3), stream, step=3, notes=NOTES)
    monkeypatch.undo()

    assert len(moments) > 6
    found = []
    for folder in moments:
        found.append(stored.steps(folder))
        for step in found[-1]:
            manifest.verify(folder / str(step))
        with Checkpoints(folder, keep=2) as checkpoints:
            assert checkpoints.restore(make_state(0), stream)[0].step == found[-1][-1]
        assert {path.name for path in folder.iterdir()} == {str(step) for step in found[-1]}
    assert found == sorted(found)
    assert [1, 2] in found
    assert found[-1] == [2, 3]


def cut_off(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    "harm", [cut_off, flip, lambda path: path.unlink()], ids=["cut", "flipped", "deleted"]
)
@pytest.mark.parametrize(
    "which",
    [largest, lambda f: f / "manifest.json", lambda f: f / "notes.json"],
    ids=["arrays", "manifest", "notes"],
)
def test_T4_a_damaged_checkpoint_is_told_and_the_one_before_taken(saved, stream, capsys, which, harm):
    harm(which(saved / "2"))
    before = everything(saved / "2")
    with Checkpoints(saved, keep=2) as checkpoints:
        assert checkpoints.restore(make_state(0), stream)[0].step == 1
        told = capsys.readouterr().err
        assert re.fullmatch(
            rf"checkpoint 2 is damaged \(.+\), and now {saved}/2.damaged: going on from step 1\n", told
        )
        assert checkpoints.latest == 1
        checkpoints.save(make_state(2), stream, step=2, notes=NOTES)
    assert stored.steps(saved) == [1, 2]
    assert everything(saved / "2.damaged") == before


def test_T4_if_all_are_damaged_nothing_is_changed(saved, stream):
    for step in "12":
        flip(largest(saved / step))
    before = everything(saved)
    with (
        Checkpoints(saved, keep=2) as checkpoints,
        pytest.raises(
            RunError, match=r"no checkpoint in .* is whole \(2: state.*; 1: state.*--workdir"
        ) as error,
    ):
        checkpoints.restore(make_state(0), stream)
    assert "\n" not in str(error.value)
    assert everything(saved) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda s: s._replace(step=jnp.float32(0)),
            r"step is \[\] int32, and this config has \[\] float32",
        ),
        (lambda s: s._replace(rest={}), r"rest\.blocks.* is \[4\] float32, and this config has none"),
        (lambda s: s._replace(params=s.params | {"more": jnp.ones(3)}), r"params\.more is not in it"),
    ],
)
def test_a_checkpoint_of_another_state_is_refused(saved, stream, change, told):
    with Checkpoints(saved, keep=2) as checkpoints, pytest.raises(RunError, match=told):
        checkpoints.restore(change(make_state(0)), stream)


@contextlib.contextmanager
def files_of_at_most(size):
    """What a full disk is like: nothing can be written beyond this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_T5_a_full_disk_is_told_and_the_checkpoint_before_is_good(saved, stream):
    large = make_state(3)._replace(rest=jax.random.normal(jax.random.key(0), [100_000]))
    with Checkpoints(saved, keep=2) as checkpoints:
        with (
            files_of_at_most(100_000),
            pytest.raises(RunError, match=f"step 3 in {saved}: File too") as error,
        ):
            checkpoints.save(large, stream, step=3, notes=NOTES)
        assert "\n" not in str(error.value)
        assert checkpoints.restore(make_state(0), stream)[0].step == 2
    assert sorted(path.name for path in saved.iterdir()) == ["1", "2"]


def test_T5_what_fails_in_the_background_is_told_at_the_next_save_or_at_the_end(
    saved, stream, monkeypatch, capsys
):
    def full(_):
        raise OSError(28, "No space left on device")

    told = f"step 3 in {saved}: cannot write .*: No space left"
    monkeypatch.setattr(manifest.os, "fsync", full)
    with Checkpoints(saved, keep=2) as checkpoints:
        checkpoints.save(make_state(3), stream, step=3, notes=NOTES)
        with pytest.raises(RunError, match=told):
            checkpoints.save(make_state(4), stream, step=4, notes=NOTES)
        assert sorted(path.name for path in saved.iterdir()) == ["1", "2"]  # the space is free again
    with pytest.raises(RunError, match=told), Checkpoints(saved, keep=2) as checkpoints:
        checkpoints.save(make_state(3), stream, step=3, notes=NOTES)

    def interrupted():
        with Checkpoints(saved, keep=2) as checkpoints:
            checkpoints.save(make_state(3), stream, step=3, notes=NOTES)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "No space left on device" in capsys.readouterr().err
    assert stored.steps(saved) == [1, 2]


def test_T5_what_tensorstore_says_of_a_full_disk_is_told_in_few_words():
    error = ValueError(
        "RESOURCE_EXHAUSTED: Failed writing: \"d/eb4\": Failed to write [os_error_code='28']\n..."
    )
    assert checkpoint._reason(error) == "No space left on device"
    assert checkpoint._reason(ValueError("first\nsecond")) == "first"


def test_T5_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("keep me")
    with pytest.raises(RunError, match=f"cannot write {tmp_path / 'file' / 'checkpoints'}: Not a directory"):
        Checkpoints(tmp_path / "file" / "checkpoints", keep=2)


def test_ctrl_c_waits_until_the_checkpoint_is_whole(tmp_path, stream, monkeypatch):
    save = ocp.save_async

    def interrupted(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return save(*arguments, **options)

    monkeypatch.setattr(ocp, "save_async", interrupted)
    heeded = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Checkpoints(tmp_path, keep=2) as checkpoints, pytest.raises(KeyboardInterrupt):
            checkpoints.save(make_state(1), stream, step=1, notes=NOTES)
        assert stored.steps(tmp_path) == [1]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, heeded)


def test_a_manifest_lists_every_file(saved):
    listed = json.loads((saved / "2" / "manifest.json").read_text())["files"]
    assert {str(path) for path in everything(saved / "2")} - {"manifest.json"} == set(listed)
