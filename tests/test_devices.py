"""Where arrays lie: batches spread over the devices, states on each of them or spread too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import PartitionSpec as P

from metric_jax.training import devices
from metric_jax.training.errors import RunError


@pytest.mark.parametrize(("batch", "devices_used"), [(16, 8), (12, 6), (7, 7), (1, 1), (11, 1), (80, 8)])
def test_a_mesh_has_as_many_devices_as_can_share_the_batch(batch, devices_used):
    assert devices.mesh(batch).size == devices_used


def test_a_batch_lies_spread():
    images, labels = devices.place((np.zeros((8, 2, 2, 1)), np.arange(8)), devices.mesh(8))
    assert [shard.data.shape for shard in images.addressable_shards] == [(1, 2, 2, 1)] * 8
    np.testing.assert_array_equal(labels, np.arange(8))


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((3, 3, 8, 16), P(None, None, None, "data")),
        ((3, 3, 16, 8), P(None, None, "data")),
        ((24, 100), P("data")),  # 100 is larger, and no multiple of 8
        ((16, 16), P("data")),
        ((5, 3), P()),
        ((0, 5), P()),
        ((), P()),
    ],
)
def test_an_array_is_spread_along_the_largest_axis_that_can_be_shared(shape, spec):
    mesh = devices.mesh(8)
    found = devices.layout(jnp.zeros(shape), mesh, sharded=True)
    assert found.spec == spec
    assert devices.layout(jnp.zeros(shape), mesh, sharded=False).is_fully_replicated
    placed = jax.device_put(jnp.zeros(shape), found)
    assert placed.addressable_shards[0].data.size * (8 if spec != P() else 1) == placed.size


def test_compiled_programs_are_kept_where_the_config_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    try:
        devices.keep_compiled("")
        assert jax.config.jax_compilation_cache_dir == before
        devices.keep_compiled(str(tmp_path / "a" / "b"))
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir()
        devices.keep_compiled("~/c")
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "c")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_of_two_runs_in_one_process_each_keeps_its_programs_in_its_own_folder(tmp_path):
    keys = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {key: getattr(jax.config, key) for key in keys}
    try:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        for number, name in enumerate(("first", "second"), start=1):
            devices.keep_compiled(str(tmp_path / name))
            jax.jit(lambda x, number=number: x * number + 1).lower(jnp.zeros(5)).compile()
            assert list((tmp_path / name).iterdir())
    finally:
        for key, value in before.items():
            jax.config.update(key, value)
        compilation_cache.reset_cache()


def test_no_folder_for_compiled_programs(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        RunError, match=r"compiled=.*file/b cannot be made: Not a directory; name another folder"
    ):
        devices.keep_compiled(str(tmp_path / "file" / "b"))


IMAGES, KERNEL = np.ones((16, 14, 14, 64), np.float32), np.ones((3, 3, 64, 64), np.float32)


def convolve(images, kernel):
    return jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.fixture
def new_compiler():
    """What the compiler can do is found out anew, and once more afterwards."""
    devices._compiler_options.cache_clear()
    yield
    devices._compiler_options.cache_clear()


def test_convolutions_are_not_left_to_what_is_slow_on_cpu():
    assert "ynn" in jax.jit(convolve).lower(IMAGES, KERNEL).compile().as_text()
    assert "ynn" not in devices.jit(convolve).lower(IMAGES, KERNEL).compile().as_text()


def test_a_compiler_without_that_option_is_not_asked_for_it(new_compiler, monkeypatch):
    plain, asked = jax.jit, []

    def jit(function, compiler_options=None, **options):
        asked.append(compiler_options)
        if compiler_options:
            return plain(function, compiler_options={"xla_cpu_no_such_option": "1"})
        return plain(function, **options)

    monkeypatch.setattr(jax, "jit", jit)
    assert devices.jit(lambda x: x + 1)(1) == 2
    assert len(asked) == 2
    assert asked[1] is None


def test_other_platforms_are_not_asked_for_it(new_compiler, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert devices._compiler_options() is None
