"""Distances and explicit losses beside torch, optax and scipy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from scipy.spatial.distance import cdist
from suite import assert_close
from torch.nn import functional

import metric_jax as mj

A, P, N = np.random.default_rng(0).normal(size=(3, 30, 5))
LABELS = np.random.default_rng(1).permutation(np.arange(30) % 7)


@pytest.mark.parametrize(
    ("distance", "metric"),
    [
        (mj.euclidean, "euclidean"),
        (mj.squared_euclidean, "sqeuclidean"),
        (mj.manhattan, "cityblock"),
        (mj.cosine, "cosine"),
    ],
)
def test_pairwise_distances_beside_scipy(distance, metric, x64):
    expected = cdist(A, P, metric)
    assert_close(distance.pairwise(A, P), expected, 1e-6)
    assert_close(distance(A, P), np.diag(expected), 1e-6)


def test_cosine_similarity_beside_torch(x64):
    expected = functional.cosine_similarity(torch.tensor(A), torch.tensor(P))
    assert_close(mj.cosine_similarity(A, P), expected.numpy(), 1e-6)


@pytest.mark.parametrize("margin", [0.2, 2.0])
@pytest.mark.parametrize(("distance", "p"), [(mj.euclidean, 2), (mj.manhattan, 1)])
def test_triplet_loss_beside_torch(distance, p, margin, x64):
    theirs = torch.nn.TripletMarginLoss(margin=margin, p=p, eps=0.0)
    rows = [torch.tensor(x, requires_grad=True) for x in (A, P, N)]
    expected = theirs(*rows)
    expected.backward()

    def mean(*rows):
        return jnp.mean(mj.triplet_loss(*rows, margin=margin, distance=distance))

    value, gradients = jax.value_and_grad(mean, argnums=(0, 1, 2))(A, P, N)
    assert_close(value, expected.item(), 1e-6)
    for gradient, row in zip(gradients, rows, strict=True):
        assert_close(gradient, row.grad.numpy(), 1e-6)


@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_triplet_loss_beside_optax(margin, x64):
    expected = optax.losses.triplet_margin_loss(
        jnp.asarray(A), jnp.asarray(P), jnp.asarray(N), margin=margin, eps=0.0
    )
    assert_close(mj.triplet_loss(A, P, N, margin=margin), expected, 1e-6)


def test_batch_contrastive_loss_beside_torch(x64):
    """No loss of torch or PML is the paper's, so it is written out here, in their arrays and with their gradients."""
    embeddings, labels = torch.tensor(A, requires_grad=True), torch.tensor(LABELS)
    i, j = torch.tensor([(i, j) for i in range(len(A)) for j in range(len(A)) if i != j]).T
    d = functional.pairwise_distance(embeddings[i], embeddings[j], eps=0.0)
    expected = torch.where(labels[i] == labels[j], d**2, functional.relu(2.5 - d) ** 2).mean()
    expected.backward()
    value, gradient = jax.value_and_grad(lambda e: mj.batch_contrastive_loss(e, LABELS, margin=2.5))(
        jnp.asarray(A)
    )
    assert_close(value, expected.item(), 1e-6)
    assert_close(gradient, embeddings.grad.numpy(), 1e-6)
