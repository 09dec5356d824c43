"""Proxy losses and heads beside pytorch-metric-learning, value and both gradients in float64.

PML keeps the proxies of a head as columns, takes the margin of ArcFace in degrees, and starts from random weights: each
is set by hand. Two of its losses are others than ours:

*   ProxyNCALoss keeps the row's own proxy in the denominator. The paper's does not; `proxy_nca_pp_loss` does.
*   InstanceLoss compares the rows of a batch with each other. The paper's classifies instances.

P2SGradLoss averages over rows and classes, as `p2sgrad_loss` does, and overwrites its weights with unit ones.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses
from suite import assert_close

import metric_jax as mj

ROWS, CLASSES, CENTERS, DIM = 40, 9, 3, 6
EMBEDDINGS = np.random.default_rng(0).normal(size=(ROWS, DIM))
LABELS = np.random.default_rng(1).permutation(np.arange(ROWS) % (CLASSES - 1))  # the last class has no row
PROXIES = np.random.default_rng(2).normal(size=(CLASSES, DIM))
SUB_CENTERS = np.random.default_rng(3).normal(size=(CLASSES, CENTERS, DIM))
SIZES = {"num_classes": CLASSES, "embedding_size": DIM}
ANGLE = np.degrees(0.5)

CASES = {
    "normalized_softmax": (
        mj.normalized_softmax_loss,
        {},
        PROXIES,
        "W",
        functools.partial(losses.NormalizedSoftmaxLoss, **SIZES),
    ),
    "cosface": (mj.cosface_loss, {}, PROXIES, "W", functools.partial(losses.CosFaceLoss, **SIZES)),
    "arcface": (
        mj.arcface_loss,
        {},
        PROXIES,
        "W",
        functools.partial(losses.ArcFaceLoss, **SIZES, margin=ANGLE),
    ),
    "arcface_beyond_pi": (
        mj.arcface_loss,
        {"margin": 2.0, "scale": 8.0},
        PROXIES,
        "W",
        functools.partial(losses.ArcFaceLoss, **SIZES, margin=np.degrees(2.0), scale=8),
    ),
    "subcenter_arcface": (
        mj.subcenter_arcface_loss,
        {},
        SUB_CENTERS,
        "W",
        functools.partial(losses.SubCenterArcFaceLoss, **SIZES, margin=ANGLE, sub_centers=CENTERS),
    ),
    "sphereface": (mj.sphereface_loss, {}, PROXIES, "W", functools.partial(losses.SphereFaceLoss, **SIZES)),
    "large_margin_softmax": (
        mj.large_margin_softmax_loss,
        {},
        PROXIES,
        "W",
        functools.partial(losses.LargeMarginSoftmaxLoss, **SIZES),
    ),
    "large_margin_softmax_3": (
        mj.large_margin_softmax_loss,
        {"margin": 3},
        PROXIES,
        "W",
        functools.partial(losses.LargeMarginSoftmaxLoss, **SIZES, margin=3),
    ),
    "soft_triple": (
        mj.soft_triple_loss,
        {},
        SUB_CENTERS,
        "fc",
        functools.partial(losses.SoftTripleLoss, **SIZES, centers_per_class=CENTERS),
    ),
    "proxy_anchor": (
        mj.proxy_anchor_loss,
        {},
        PROXIES,
        "proxies",
        functools.partial(losses.ProxyAnchorLoss, **SIZES),
    ),
    "proxy_nca_pp": (
        mj.proxy_nca_pp_loss,
        {},
        PROXIES,
        "proxies",
        functools.partial(losses.ProxyNCALoss, **SIZES, softmax_scale=9),
    ),
    "p2sgrad": (
        mj.p2sgrad_loss,
        {},
        PROXIES / np.linalg.norm(PROXIES, axis=1, keepdims=True),
        "weight",
        functools.partial(losses.P2SGradLoss, DIM, CLASSES),
    ),
}


@pytest.mark.filterwarnings("ignore:__array_wrap__")  # PML's own, on NumPy 2
@pytest.mark.parametrize(("loss", "own", "proxies", "name", "build"), CASES.values(), ids=CASES)
def test_proxy_losses(loss, own, proxies, name, build, x64):
    theirs = build()
    flat = proxies.reshape(-1, DIM)
    weights = flat if name == "proxies" else flat.T
    parameter = getattr(theirs, name)
    parameter.data = torch.tensor(weights.copy())
    embeddings = torch.tensor(EMBEDDINGS, requires_grad=True)
    expected = theirs(embeddings, torch.tensor(LABELS))
    expected.backward()
    to_weights = parameter.grad.numpy()
    value, (to_rows, to_proxies) = jax.value_and_grad(functools.partial(loss, **own), argnums=(0, 2))(
        jnp.asarray(EMBEDDINGS), LABELS, jnp.asarray(proxies)
    )
    assert_close(value, expected.item(), 1e-6)
    assert_close(to_rows, embeddings.grad.numpy(), 1e-6)
    to_weights = (to_weights if name == "proxies" else to_weights.T).reshape(proxies.shape)
    if name == "weight":  # PML's weights have length 1 already, and what it does to keep that has no gradient
        unit = proxies
        to_weights = to_weights - np.sum(to_weights * unit, axis=1, keepdims=True) * unit
    assert_close(to_proxies, to_weights, 1e-6)


def test_proxy_nca_with_the_own_proxy_in_the_denominator_is_another_loss(x64):
    """softplus turns the one into the other: -log(p / (p + q)) = log(1 + exp(-log(p / q)))."""
    theirs = losses.ProxyNCALoss(**SIZES)
    theirs.proxies.data = torch.tensor(PROXIES)
    expected = theirs(torch.tensor(EMBEDDINGS), torch.tensor(LABELS)).item()
    values = mj.proxy_nca_loss(EMBEDDINGS, LABELS, PROXIES, reduction="none")
    assert_close(np.mean(np.logaddexp(0, values)), expected, 1e-6)
    assert abs(np.mean(values) - expected) > 0.1
