"""What every test and doctest runs under: at the root, so that `pytest metric_jax` finds it too."""

import collections
import importlib.util
import ipaddress
import os
import pathlib
import socket

# Eight devices stand in for a pod. XLA reads this once, when the first array is made; flags of the caller's stay.
_DEVICES = "--xla_force_host_platform_device_count"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()
os.environ["JAX_PLATFORMS"] = "cpu"  # also for the processes that tests start
os.environ["MPLBACKEND"] = "agg"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_platforms", "cpu")
# [n] + [n, 1] is meant far less often than it is written
jax.config.update("jax_numpy_rank_promotion", "raise")

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


def pytest_addoption(parser):
    parser.addoption(
        "--thorough", action="store_true", help="every property of every loss, some ten minutes more"
    )


# Losses whose every property is tested every time; of the others only what would show a wrong formula or a NaN.
STARRED = {
    *("ntxent", "supcon", "multi_similarity", "circle", "infonce", "siglip", "normalized_softmax", "arcface"),
    *("cosface", "subcenter_arcface", "proxy_anchor", "proxy_nca", "proxy_nca_pp", "soft_triple"),
}
THOROUGH = (
    "test_P2",
    "test_P3",
    "test_P4",
    "test_P5",
    "test_P7",
    "test_P8",
    "test_N8",
    "test_N10",
    "test_N13_nan_reaches",
)
# Tests of many costly cases, of which every third is run every time.
THINNED = {
    "test_is_its_loss_with_its_hyperparameters",
    "test_explicit_pairs",
    "test_explicit_pairs_on_four_devices",
    "test_degenerate_points_are_finite",
    "test_easy_hard_strategies",
    "test_loss_of_what_was_mined",
    "test_against_the_reference",
    "test_proxies_may_be_of_another_type",
    "test_one_class_is_no_loss_or_its_own",
    "test_a_row_whose_class_has_no_proxy_is_as_if_it_were_not_there",
    "test_nan_in_a_proxy_reaches_the_loss",
    "test_P5_classes_on_four_devices_differentiated_inside",
    "test_value_and_gradient_are_those_of_the_whole_batch",
    "test_two_views_without_masked_rows",
    "test_two_views_on_four_devices",
    "test_no_gradient_flows",
}


def pytest_collection_modifyitems(config, items):
    """On several cores the tests of one loss share a process, and with it what was compiled; so do those of a file."""
    if not config.getoption("--thorough"):
        seen, chosen, left_out = collections.Counter(), [], []
        for item in items:
            (chosen if _runs_every_time(item, seen) else left_out).append(item)
        config.hook.pytest_deselected(items=left_out)
        items[:] = chosen
    for item in items:
        item.add_marker(pytest.mark.xdist_group(getattr(_loss_of(item), "name", item.path.name)))


def _runs_every_time(item, seen):
    name, loss = getattr(item, "originalname", item.name), _loss_of(item)
    if name in THINNED:
        seen[item.path, name] += 1
        return seen[item.path, name] % 3 == 1
    is_other = not getattr(loss, "is_core", True) and loss.name not in STARRED
    return not (is_other and name.startswith(THOROUGH))


def _loss_of(item):
    return item.callspec.params.get("loss") if hasattr(item, "callspec") else None
