"""Losses without labels beside pytorch-metric-learning, in float64. PML has neither Barlow twins, KoLeo nor uniformity.

Its `LpRegularizer` is the mean length, or with ``power=2`` the mean square length, which is ours.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses, miners, regularizers
from pytorch_metric_learning.losses import VICRegLoss
from pytorch_metric_learning.regularizers import LpRegularizer, ZeroMeanRegularizer
from suite import assert_close

import metric_jax as mj
from docs import losses_table

X = np.random.default_rng(0).normal(size=(24, 6)) * np.linspace(0.3, 1.5, 6)
Y = X + 0.3 * np.random.default_rng(1).normal(size=X.shape)

WEIGHTS = [
    ({}, {}),
    (
        {"invariance": 3.0, "variance": 7.0, "covariance": 2.0, "epsilon": 0.1},
        {"invariance_lambda": 3.0, "variance_mu": 7.0, "covariance_v": 2.0, "eps": 0.1},
    ),
]


@pytest.mark.parametrize(("own", "theirs"), WEIGHTS, ids=["defaults", "weights"])
def test_vicreg(own, theirs, x64):
    x, y = (torch.tensor(rows, requires_grad=True) for rows in (X, Y))
    expected = VICRegLoss(**theirs)(x, ref_emb=y)
    expected.backward()
    value, gradients = jax.value_and_grad(lambda x, y: mj.vicreg_loss(x, y, **own), argnums=(0, 1))(
        jnp.asarray(X), jnp.asarray(Y)
    )
    assert_close(value, expected.item(), 1e-6)
    for gradient, rows in zip(gradients, (x, y), strict=True):
        assert_close(gradient, rows.grad.numpy(), 1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (mj.embedding_norm_loss, LpRegularizer(p=2, power=2)),
        (mj.zero_mean_loss, ZeroMeanRegularizer()),
    ],
    ids=["embedding_norm", "zero_mean"],
)
def test_regularizers(ours, theirs, x64):
    rows = torch.tensor(X, requires_grad=True)
    expected = theirs(rows)
    expected.backward()
    value, gradient = jax.value_and_grad(ours)(jnp.asarray(X))
    assert_close(value, expected.item(), 1e-6)
    assert_close(gradient, rows.grad.numpy(), 1e-6)


@pytest.mark.parametrize("name", losses_table.PEERS)
def test_what_the_table_of_losses_says_that_pml_has(name):
    theirs = losses_table.PEERS[name].get(losses_table.PML)
    assert theirs is None or any(hasattr(module, theirs) for module in (losses, miners, regularizers))
