"""Softmax losses beside pytorch-metric-learning, and InfoNCE beside torch's cross-entropy: value, gradient, float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from pytorch_metric_learning.distances import DotProductSimilarity
from pytorch_metric_learning.losses import NCALoss, NPairsLoss, NTXentLoss, SupConLoss, TupletMarginLoss
from pytorch_metric_learning.reducers import MeanReducer
from suite import assert_close

import metric_jax as mj

EMBEDDINGS = np.random.default_rng(0).normal(size=(40, 6))
LABELS = np.random.default_rng(1).permutation(np.arange(40) % 9)  # classes of 4 and 5
PAIRED = np.arange(40) % 20  # two rows of every class

# PML averages SupCon over anchors whose loss is not zero; here none is.
LOSSES = {
    "ntxent": (mj.ntxent_loss, {"temperature": 0.2}, PAIRED, NTXentLoss(0.2)),
    "ntxent_of_many_positives": (mj.ntxent_loss, {"temperature": 0.2}, LABELS, NTXentLoss(0.2)),
    "supcon": (mj.supcon_loss, {"temperature": 0.1}, LABELS, SupConLoss(0.1, reducer=MeanReducer())),
    "tuplet_margin": (
        mj.tuplet_margin_loss,
        {"margin": math.radians(5.73), "scale": 64.0},
        LABELS,
        TupletMarginLoss(5.73, 64),
    ),
}


def theirs_of(loss, embeddings, labels):
    rows = torch.tensor(embeddings, requires_grad=True)
    value = loss(rows, torch.tensor(labels))
    value.backward()
    return value.item(), rows.grad.numpy()


@pytest.mark.parametrize(("ours", "own", "labels", "theirs"), LOSSES.values(), ids=LOSSES)
def test_losses_of_cosines(ours, own, labels, theirs, x64):
    expected_value, expected_gradient = theirs_of(theirs, EMBEDDINGS, labels)
    value, gradient = jax.value_and_grad(functools.partial(ours, **own))(jnp.asarray(EMBEDDINGS), labels)
    assert_close(value, expected_value, 1e-6)
    assert_close(gradient, expected_gradient, 1e-6)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("name", ["nca", "soft_nearest_neighbor"])
def test_neighbourhood_losses_on_unit_rows(name, scale, x64):
    """PML normalises, and its scale is the inverse of a temperature."""
    expected_value, expected_gradient = theirs_of(NCALoss(softmax_scale=scale), EMBEDDINGS, LABELS)

    def ours(rows):
        if name == "nca":
            return mj.nca_loss(math.sqrt(scale) * mj.normalize(rows), LABELS)
        return mj.soft_nearest_neighbor_loss(mj.normalize(rows), LABELS, temperature=1 / scale)

    value, gradient = jax.value_and_grad(ours)(jnp.asarray(EMBEDDINGS))
    assert_close(value, expected_value, 1e-6)
    assert_close(gradient, expected_gradient, 1e-6)


def test_npairs(x64):
    """PML keeps the first pair of every class, and takes the positives of the other pairs for its negatives."""
    loss = NPairsLoss(distance=DotProductSimilarity(normalize_embeddings=False))
    expected_value, expected_gradient = theirs_of(loss, EMBEDDINGS, PAIRED)

    def ours(rows):
        anchors, positives = rows[:20], rows[20:]
        return mj.npairs_loss(anchors, PAIRED[:20], references=positives, reference_labels=PAIRED[20:])

    value, gradient = jax.value_and_grad(ours)(jnp.asarray(EMBEDDINGS))
    assert_close(value, expected_value, 1e-6)
    assert_close(gradient, expected_gradient, 1e-6)


def test_npairs_of_a_pair_is_pml_of_that_pair_with_all_negatives(x64):
    """On a plain batch N-pairs is NT-Xent of dot products at temperature 1."""
    loss = NTXentLoss(1.0, distance=DotProductSimilarity(normalize_embeddings=False))
    expected_value, expected_gradient = theirs_of(loss, EMBEDDINGS, LABELS)
    value, gradient = jax.value_and_grad(mj.npairs_loss)(jnp.asarray(EMBEDDINGS), LABELS)
    assert_close(value, expected_value, 1e-6)
    assert_close(gradient, expected_gradient, 1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_infonce_is_cross_entropy(symmetric, x64):
    x, y = (torch.tensor(rows, requires_grad=True) for rows in (EMBEDDINGS[:20], EMBEDDINGS[20:]))
    normalised = (torch.nn.functional.normalize(rows) for rows in (x, y))
    logits = torch.matmul(*(rows if i == 0 else rows.T for i, rows in enumerate(normalised))) / 0.07
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(20))
    if symmetric:
        expected = (expected + torch.nn.functional.cross_entropy(logits.T, torch.arange(20))) / 2
    expected.backward()
    ours = jax.value_and_grad(functools.partial(mj.infonce_loss, symmetric=symmetric), argnums=(0, 1))
    value, gradients = ours(jnp.asarray(EMBEDDINGS[:20]), jnp.asarray(EMBEDDINGS[20:]))
    assert_close(value, expected.item(), 1e-6)
    for found, theirs in zip(gradients, (x, y), strict=True):
        assert_close(found, theirs.grad.numpy(), 1e-6)


def test_ntxent_does_not_saturate_where_pml_does():
    """In float32 PML's logarithm ends at that of the smallest number it adds."""
    rows = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], np.float32)
    labels = np.array([0, 0, 1, 1])
    expected = 2 / 0.01 + math.log(1 + math.exp(-2 / 0.01))
    np.testing.assert_allclose(mj.ntxent_loss(rows, labels, temperature=0.01), expected, rtol=1e-6)
    assert NTXentLoss(0.01)(torch.tensor(rows), torch.tensor(labels)).item() < 0.5 * expected


def test_tuplet_margin_of_duplicates_is_finite_where_pml_is_not(x64):
    rows = np.array([[0.6, 0.8], [0.6, 0.8], [1.0, 0.0]])
    labels = np.array([0, 0, 1])
    value, gradient = jax.value_and_grad(mj.tuplet_margin_loss)(jnp.asarray(rows), labels)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert not np.isfinite(theirs_of(TupletMarginLoss(5.73, 64), rows, labels)[1]).all()
