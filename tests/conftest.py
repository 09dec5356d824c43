"""Fixtures of the numerical tests. Being here, it also lets `tests/oracles` import this folder's modules."""

import gc
import itertools
import pathlib

import jax
import numpy as np
import pytest
from subjects import PRECISIONS
from suite import compiled, mine, with_references


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


TESTS_BETWEEN_LOOKS, MANY_MAPS = 20, 30_000
_ended = itertools.count(1)


def pytest_runtest_teardown():
    """Forgets what was compiled before there is too much of it.

    Every compiled function maps memory, Linux allows a process 65,530 maps, and beyond these XLA crashes.
    """
    maps = pathlib.Path("/proc/self/maps")
    if next(_ended) % TESTS_BETWEEN_LOOKS or not maps.exists():
        return
    with maps.open("rb") as lines:
        if sum(1 for _ in lines) > MANY_MAPS:
            for cached in (compiled, with_references, mine):
                cached.cache_clear()
            jax.clear_caches()
            gc.collect()
