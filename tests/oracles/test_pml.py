"""Losses and miners beside pytorch-metric-learning, value and gradient in float64.

PML normalises embeddings and averages over non-zero triplets unless told otherwise. Its contrastive loss is not the
paper's under any arguments: that one is compared in `test_torch`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer, SumReducer
from suite import assert_close

import metric_jax as mj

E = LpDistance(normalize_embeddings=False)
E2 = LpDistance(normalize_embeddings=False, power=2)

EMBEDDINGS = np.random.default_rng(0).normal(size=(40, 6))
LABELS = np.random.default_rng(1).permutation(np.arange(40) % 9)  # classes of 4 and 5

TRIPLETS = [
    ("batch_all", {}, TripletMarginLoss(0.2, distance=E, reducer=MeanReducer())),
    ("batch_all", {"reduction": "mean_active"}, TripletMarginLoss(0.2, distance=E)),
    ("batch_all", {"reduction": "sum"}, TripletMarginLoss(0.2, distance=E, reducer=SumReducer())),
    (
        "batch_all",
        {"distance": mj.squared_euclidean},
        TripletMarginLoss(0.2, distance=E2, reducer=MeanReducer()),
    ),
    (
        "batch_all",
        {"margin": 0.0, "penalty": jax.nn.softplus},
        TripletMarginLoss(0.0, distance=E, smooth_loss=True, reducer=MeanReducer()),
    ),
    ("batch_hard", {}, TripletMarginLoss(0.2, distance=E, reducer=MeanReducer())),
    ("batch_hard", {"reduction": "mean_active"}, TripletMarginLoss(0.2, distance=E)),
    (
        "batch_hard",
        {"reduction": "sum", "margin": 1.0},
        TripletMarginLoss(1.0, distance=E, reducer=SumReducer()),
    ),
]


@pytest.mark.parametrize(("name", "options", "theirs"), TRIPLETS, ids=range(len(TRIPLETS)))
def test_triplet_losses(name, options, theirs, x64):
    embeddings, labels = torch.tensor(EMBEDDINGS, requires_grad=True), torch.tensor(LABELS)
    mined = BatchHardMiner(distance=E)(embeddings, labels) if name == "batch_hard" else None
    expected = theirs(embeddings, labels, mined)
    expected.backward()
    ours = {"batch_all": mj.batch_all_triplet_loss, "batch_hard": mj.batch_hard_triplet_loss}[name]
    value, gradient = jax.value_and_grad(functools.partial(ours, **options))(jnp.asarray(EMBEDDINGS), LABELS)
    assert_close(value, expected.item(), 1e-6)
    assert_close(gradient, embeddings.grad.numpy(), 1e-6)


def test_batch_hard_mining(x64):
    anchor, positive, negative = BatchHardMiner(distance=E)(torch.tensor(EMBEDDINGS), torch.tensor(LABELS))
    mined = mj.mining.batch_hard(EMBEDDINGS, LABELS)
    assert mined.valid.all()
    np.testing.assert_array_equal(mined.anchor, anchor)
    np.testing.assert_array_equal(mined.positive, positive)
    np.testing.assert_array_equal(mined.negative, negative)


def test_references(x64):
    """PML's ref_emb: anchors against a memory, of which none is left out."""
    memory, memory_labels = np.random.default_rng(2).normal(size=(25, 6)), np.arange(25) % 9
    expected = TripletMarginLoss(0.2, distance=E, reducer=MeanReducer())(
        torch.tensor(EMBEDDINGS),
        torch.tensor(LABELS),
        ref_emb=torch.tensor(memory),
        ref_labels=torch.tensor(memory_labels),
    )
    value = mj.batch_all_triplet_loss(EMBEDDINGS, LABELS, references=memory, reference_labels=memory_labels)
    assert_close(value, expected.item(), 1e-6)
