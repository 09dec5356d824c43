"""Fixtures of the numerical tests. Being here, it also lets `tests/oracles` import this folder's modules."""

import jax
import numpy as np
import pytest
from subjects import PRECISIONS


@pytest.fixture(params=PRECISIONS.values(), ids=PRECISIONS)
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
