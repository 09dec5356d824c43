"""A convolution that computes its gradient to the kernel in parts is the one it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from suite import assert_close

from metric_jax.models import convolution
from metric_jax.models.convolution import conv_general_dilated, parts_of

LAYOUT = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
CASES = {
    "same": ((1, 1), "SAME", {}),
    "strided": ((2, 2), "VALID", {}),
    "dilated": ((1, 1), [(2, 1), (0, 3)], {"rhs_dilation": (2, 1)}),
    "grouped": ((1, 1), "SAME", {"feature_group_count": 2}),
}


@pytest.fixture
def in_three_parts(monkeypatch):
    monkeypatch.setattr(convolution, "parts_of", lambda rows, size: 3)


def arrays(groups):
    generator = np.random.default_rng(0)
    return generator.normal(size=(12, 7, 6, 4)), generator.normal(size=(3, 3, 4 // groups, 6))


def value(convolve, case):
    strides, padding, options = CASES[case]

    def value(images, kernel):
        return jnp.sum(jnp.sin(convolve(images, kernel, strides, padding, **LAYOUT, **options)))

    return value


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_those_of_lax(case, in_three_parts, x64):
    images, kernel = arrays(CASES[case][2].get("feature_group_count", 1))
    found = jax.jit(jax.value_and_grad(value(conv_general_dilated, case), argnums=(0, 1)))(images, kernel)
    expected = jax.value_and_grad(value(jax.lax.conv_general_dilated, case), argnums=(0, 1))(
        jnp.asarray(images), jnp.asarray(kernel)
    )
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-12), found, expected)


def test_a_part_has_rows_of_every_device(in_three_parts):
    """Rows 3 apart: none of them has to change devices, so that all that is exchanged is the kernel's gradient."""
    images, kernel = (x.astype(np.float32) for x in arrays(1))
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4], axis_types=(AxisType.Auto,))
    images = jax.device_put(images, NamedSharding(mesh, P("data")))
    compiled = (
        jax.jit(jax.grad(value(conv_general_dilated, "same"), argnums=1)).lower(images, kernel).compile()
    )
    text = compiled.as_text()
    assert "all-reduce" in text
    assert not any(exchange in text for exchange in ("all-gather", "all-to-all", "collective-permute"))


@pytest.mark.parametrize("rows", [1, 7, 12, 64, 100, 509, 512, 4096])
@pytest.mark.parametrize("size", [1, 4000, 100_000])
def test_parts_are_equal_and_fit(rows, size):
    parts = parts_of(rows, rows * size)
    assert rows % parts == 0
    assert parts == 1 or rows * size / parts <= convolution.PART_SIZE
    assert parts <= convolution.MOST_PARTS
