import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint.experimental.v1 as ocp
import pytest
from flax import nnx

from metric_jax import data
from metric_jax.models import ConvNet
from metric_jax.training import devices, state
from metric_jax.training.checkpoint import Checkpoints

NOTES = {"seconds": 1.5, "steps_per_second": 0.1}


def make_state(seed):
    model = ConvNet((8, 8, 1), width=4, dim=4, blocks=1, rngs=nnx.Rngs(seed))
    created = state.create(model, optax.adam(1e-3), jax.random.key(seed))[1]
    return jax.device_put(created._replace(step=jnp.int32(seed)), devices.replicated(devices.mesh(8)))


@pytest.fixture
def stream():
    digits = data.load("digits")[0]
    return data.batches(digits, data.PKSampler(digits.labels, classes=2, samples=2, seed=0), count=50)


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
    expected = [next(stream).images for _ in range(3)]
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        restored, notes = checkpoints.restore(make_state(4), stream)
        assert checkpoints.latest == 5
        assert str(tmp_path / "5") in checkpoints.describe_latest()
    assert notes == NOTES
    jax.tree.map(np.testing.assert_array_equal, comparable(restored), comparable(original))
    assert restored.params["head"]["kernel"].sharding == original.params["head"]["kernel"].sharding
    np.testing.assert_array_equal([next(stream).images for _ in range(3)], expected)


def test_the_newest_are_kept_and_the_newest_is_restored(tmp_path, stream):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(make_state(step), stream, step=step, notes=NOTES)
        assert checkpoints.restore(make_state(0), stream)[0].step == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_T1_what_a_dying_process_left_is_no_checkpoint(tmp_path, stream):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        checkpoints.save(make_state(1), stream, step=1, notes=NOTES)
        checkpoints.save(make_state(2), stream, step=2, notes=NOTES)
    (tmp_path / "2").rename(tmp_path / "2.orbax-checkpoint-tmp")  # its name as long as it is being written
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        assert checkpoints.latest == 1
        assert checkpoints.restore(make_state(0), stream)[0].step == 1
        checkpoints.save(make_state(2), stream, step=2, notes=NOTES)
        assert checkpoints.latest == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_ctrl_c_waits_until_the_checkpoint_is_whole(tmp_path, stream, monkeypatch):
    save = ocp.training.Checkpointer.save_checkpointables

    def interrupted(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return save(*arguments, **options)

    monkeypatch.setattr(ocp.training.Checkpointer, "save_checkpointables", interrupted)
    heeded = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Checkpoints(tmp_path, keep=2) as checkpoints:
            with pytest.raises(KeyboardInterrupt):
                checkpoints.save(make_state(1), stream, step=1, notes=NOTES)
            assert checkpoints.restore(make_state(0), stream)[0].step == 1
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, heeded)
