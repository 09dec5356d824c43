"""What every test and doctest runs under: at the root, so that `pytest metric_jax` finds it too."""

import atexit
import gc
import importlib.util
import ipaddress
import os
import pathlib
import shutil
import socket
import tempfile

# Eight devices stand in for a pod. The rest is about time: of a test's, most goes to XLA compiling functions that run
# once, and without optimizations it compiles them five times as fast. What tests the optimized code too asks for it by
# `suite.AS_SHIPPED`. Flags of the caller's stay, and processes that tests start have them alone.
_FLAGS = {
    "xla_force_host_platform_device_count": "8",
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": "true",
    "xla_cpu_use_fusion_emitters": "false",
    "xla_cpu_parallel_codegen_split_count": "1",
}
_GIVEN = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join(
    [_GIVEN, *(f"--{flag}={value}" for flag, value in _FLAGS.items() if flag not in _GIVEN)]
)
os.environ["JAX_PLATFORMS"] = "cpu"  # also for the processes that tests start
os.environ["MPLBACKEND"] = "agg"

import jax  # noqa: E402
import pytest  # noqa: E402

# What the tests hold, mostly programs and caches, lives to the end: to look through it for garbage takes a tenth of the
# time.
gc.freeze()
gc.set_threshold(50_000, 20, 50)

# What XLA compiled for one test of this process serves the others: nearly all training runs here are one program.
_COMPILED = tempfile.mkdtemp(prefix="compiled-")
atexit.register(shutil.rmtree, _COMPILED, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", _COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

# Where in the source an operation was written serves messages and profiles that no test reads.
jax.config.update("jax_traceback_in_locations_limit", 0)

jax.config.update("jax_platforms", "cpu")
# [n] + [n, 1] is meant far less often than it is written
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.devices()  # XLA reads its flags now
os.environ["XLA_FLAGS"] = _GIVEN

ROOT = pathlib.Path(__file__).parent
SHARED = ROOT.parent / "shared"
SHARED_PARTS = ("tfds/omniglot", "tfds/mnist", "tfds/fashion_mnist", "omniglot", "faces/orl")

# Without the extra `oracle` there is nothing to compare with: `make test-oracles` installs it.
collect_ignore = [] if importlib.util.find_spec("pytorch_metric_learning") else ["tests/oracles"]


def _stays_on_this_machine(host: object) -> bool:
    if host in (None, "", "localhost", b"localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def _guarded(call, host_of):
    def guard(*args, **kwargs):
        host = host_of(*args, **kwargs)
        if not _stays_on_this_machine(host):
            raise RuntimeError(f"tests use no network, and something wants to reach {host!r}")
        return call(*args, **kwargs)

    return guard


def _host_of_address(sock, address):
    """The host that a socket is to be connected to; None for a Unix socket, which has no other end elsewhere."""
    return address[0] if sock.family in (socket.AF_INET, socket.AF_INET6) else None


for _name in ("connect", "connect_ex"):
    setattr(socket.socket, _name, _guarded(getattr(socket.socket, _name), _host_of_address))
socket.getaddrinfo = _guarded(socket.getaddrinfo, lambda host, *_, **__: host)


@pytest.fixture
def x64():
    """64-bit arrays, for tests of the formula rather than of its rounding."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The real data beside the project. A machine without it skips; in CI, half of it is a fault to be seen."""
    missing = [part for part in SHARED_PARTS if not (SHARED / part).is_dir()]
    if missing and SHARED.is_dir() and os.environ.get("CI") == "true":
        pytest.fail(f"{SHARED} is there but lacks {', '.join(missing)}")
    if missing:
        pytest.skip(f"needs real data that is not beside this project: {', '.join(missing)} in {SHARED}")
    return SHARED


@pytest.hookimpl(tryfirst=True)  # xdist looks at the marks right after
def pytest_collection_modifyitems(items):
    """On several cores the tests of one loss share a process, and with it what was compiled; so do those of a file."""
    for item in items:
        loss = item.callspec.params.get("loss") if hasattr(item, "callspec") else None
        item.add_marker(pytest.mark.xdist_group(getattr(loss, "name", item.path.name)))
