"""Ranking losses beside pytorch-metric-learning, value and gradient in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import FastAPLoss, PNPLoss, SmoothAPLoss
from suite import assert_close

import metric_jax as mj

EMBEDDINGS = np.random.default_rng(0).normal(size=(36, 6))
LABELS = np.random.default_rng(1).permutation(np.arange(36) % 8)  # classes of 4 and 5


def theirs_of(loss, embeddings, labels):
    rows = torch.tensor(embeddings, requires_grad=True)
    value = loss(rows, torch.tensor(labels))
    value.backward()
    return value.item(), rows.grad.numpy()


@pytest.mark.parametrize("bins", [1, 5, 10])
@pytest.mark.parametrize("squared", [False, True], ids=["cosine", "squared_euclidean"])
def test_fastap(bins, squared, x64):
    """PML sorts squared distances of unit rows: by cosine distances, half of these, the histogram is the same."""
    expected_value, expected_gradient = theirs_of(FastAPLoss(num_bins=bins), EMBEDDINGS, LABELS)

    def ours(rows):
        if squared:
            rows = mj.normalize(rows)
            return mj.fastap_loss(rows, LABELS, bins=bins, largest=4.0, distance=mj.squared_euclidean)
        return mj.fastap_loss(rows, LABELS, bins=bins)

    value, gradient = jax.value_and_grad(ours)(jnp.asarray(EMBEDDINGS))
    assert_close(value, expected_value, 1e-6)
    assert_close(gradient, expected_gradient, 1e-6)


def with_itself(loss, labels, **own):
    """The loss with every anchor in its own ranking, as PML has it: its first hit."""

    def value(rows):
        return loss(rows, labels, references=rows, reference_labels=labels, **own)

    return jax.value_and_grad(value)


@pytest.mark.parametrize("variant", PNPLoss.VARIANTS)
def test_pnp(variant, x64):
    theirs = PNPLoss(b=3, alpha=2, anneal=0.1, variant=variant)
    expected_value, expected_gradient = theirs_of(theirs, EMBEDDINGS, LABELS)
    own = {"b": 3.0, "alpha": 2.0, "temperature": 0.1, "variant": variant}
    value, gradient = with_itself(mj.pnp_loss, LABELS, **own)(jnp.asarray(EMBEDDINGS))
    assert_close(value, expected_value, 1e-6)
    assert_close(gradient, expected_gradient, 1e-6)


def test_smooth_ap_of_as_many_classes_as_samples_of_each(x64):
    labels = np.arange(36) // 6
    expected_value, expected_gradient = theirs_of(SmoothAPLoss(temperature=0.1), EMBEDDINGS, labels)
    value, gradient = with_itself(mj.smooth_ap_loss, labels, temperature=0.1)(jnp.asarray(EMBEDDINGS))
    # PML adds up the average precisions in float32.
    assert_close(value, expected_value, 1e-6)
    assert_close(gradient, expected_gradient, 1e-6)


def test_smooth_ap_of_fewer_classes_is_another_number_in_pml(x64):
    """PML takes a batch of 4 classes of 9 for 9 classes of 4."""
    labels = np.arange(36) // 9
    theirs, _ = theirs_of(SmoothAPLoss(temperature=0.1), EMBEDDINGS, labels)
    value, _ = with_itself(mj.smooth_ap_loss, labels, temperature=0.1)(jnp.asarray(EMBEDDINGS))
    hard = functools.partial(mj.smooth_ap_loss, references=EMBEDDINGS, reference_labels=labels)
    np.testing.assert_allclose(
        hard(EMBEDDINGS, labels, temperature=1e-9), 1 - average_precision(labels), rtol=1e-9
    )
    assert abs(value - theirs) > 1e-3


def average_precision(labels):
    """The mean over anchors, from their sorted rankings, each with itself at the top."""
    unit = EMBEDDINGS / np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)
    found = []
    for i, similarities in enumerate(unit @ unit.T):
        relevant = labels[np.argsort(-similarities)] == labels[i]
        ranks = 1 + np.flatnonzero(relevant)
        found.append(np.mean((1 + np.arange(len(ranks))) / ranks))
    return np.mean(found)
