"""Fixtures of the numerical tests. Being here, it also lets `tests/oracles` import this folder's modules."""

from typing import NamedTuple

import jax
import numpy as np
import pytest


class Precision(NamedTuple):
    """A type to compute in, and how near to a float64 reference that must come, relatively."""

    dtype: type
    tolerance: float


@pytest.fixture(
    params=[Precision(np.float64, 1e-10), Precision(np.float32, 1e-5)], ids=["float64", "float32"]
)
def precision(request):
    with jax.enable_x64(request.param.dtype is np.float64):
        yield request.param


@pytest.fixture
def compilations():
    """A function that tells how many compilations this test has caused so far."""
    seen = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda: len(seen)
    jax.monitoring.unregister_event_duration_listener(listen)
