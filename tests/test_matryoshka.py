"""Matryoshka: a sum over prefixes of whatever a loss takes, under jit, for losses of every kind."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from subjects import LABELS, N
from suite import assert_close

import metric_jax as mj

ROWS = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
MEMORY = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
DIMS, WEIGHTS = (2, 3, 6), (1.0, 0.5, 2.0)


def check(loss, of_prefix, *rows, **options):
    """Value and gradient of the nested loss beside the sum written out."""
    nested = jax.jit(jax.value_and_grad(mj.matryoshka(loss, DIMS, WEIGHTS)))
    value, gradient = nested(*rows, **options)

    def written_out(embeddings):
        return sum(w * of_prefix(embeddings[:, :d], d) for w, d in zip(WEIGHTS, DIMS, strict=True))

    expected_value, expected_gradient = jax.value_and_grad(written_out)(jnp.asarray(rows[0]))
    assert_close(value, expected_value, 1e-6)
    assert_close(gradient, expected_gradient, 1e-6)


@pytest.mark.parametrize(
    "loss", [mj.batch_contrastive_loss, mj.batch_all_triplet_loss, mj.supcon_loss, mj.multi_similarity_loss]
)
def test_a_loss_of_a_batch(loss):
    check(loss, lambda rows, d: loss(rows, LABELS), ROWS, LABELS)


def test_references_are_cut_too():
    loss, labels = mj.batch_contrastive_loss, np.array([0, 1, 2, 1, 0])

    def of_prefix(rows, d):
        return loss(rows, LABELS, references=MEMORY[:, :d], reference_labels=labels, margin=2.0)

    check(loss, of_prefix, ROWS, LABELS, references=MEMORY, reference_labels=labels, margin=2.0)


def test_proxies_are_cut_too():
    proxies = MEMORY[:4]
    loss = mj.proxy_anchor_loss
    check(loss, lambda rows, d: loss(rows, LABELS, proxies[:, :d]), ROWS, LABELS, proxies)


def test_both_views_are_cut():
    other = ROWS[::-1].copy()
    loss = mj.infonce_loss
    check(loss, lambda rows, d: loss(rows, other[:, :d]), ROWS, other)


def test_points_of_a_triplet_are_cut():
    def loss(anchor, positive, negative):
        return mj.triplet_loss(anchor, positive, negative, margin=1.0).sum()

    p, n = ROWS[::-1].copy(), np.roll(ROWS, 1)
    check(loss, lambda rows, d: loss(rows, p[:, :d], n[:, :d]), ROWS, p, n)


def test_each_prefix_is_normalised_by_itself():
    rows = np.array([[1.0, 0.0], [1.0, 100.0]], np.float32)
    loss = mj.matryoshka(mj.batch_contrastive_loss, dims=(1,))
    assert loss(rows, np.array([0, 0]), distance=mj.cosine) == 0


def test_weights_default_to_one_and_are_learnable():
    loss, labels = mj.batch_contrastive_loss, LABELS
    each = np.array([loss(ROWS[:, :d], labels) for d in DIMS])
    assert_close(mj.matryoshka(loss, DIMS)(ROWS, labels), each.sum(), 1e-6)
    gradient = jax.grad(lambda weights: mj.matryoshka(loss, DIMS, weights)(ROWS, labels))(jnp.ones(3))
    assert_close(gradient, each, 1e-6)


def test_one_value_an_anchor():
    loss = mj.batch_contrastive_loss
    value = mj.matryoshka(loss, DIMS)(ROWS, LABELS, reduction="none")
    expected = sum(np.asarray(loss(ROWS[:, :d], LABELS, reduction="none")) for d in DIMS)
    assert_close(value, expected, 1e-6)


def test_it_looks_like_the_loss():
    nested = mj.matryoshka(mj.supcon_loss, (2,))
    assert inspect.signature(nested) == inspect.signature(mj.supcon_loss)
    assert nested.__name__ == "supcon_loss"


@pytest.mark.parametrize("dims", [(), (0, 2), (-1,), (2, 2), (2.0, 4), ("2",)])
def test_bad_dims(dims):
    with pytest.raises(ValueError, match="dims must be positive integers and all different"):
        mj.matryoshka(mj.supcon_loss, dims)


def test_a_number_is_no_dims():
    with pytest.raises(ValueError, match=r"dims must list dimensions, got 2: pass \(2,\)"):
        mj.matryoshka(mj.supcon_loss, dims=2)


def test_a_dimension_too_many():
    with pytest.raises(ValueError, match=r"embeddings have dimension 6: too few for dims=\(2, 8\)"):
        mj.matryoshka(mj.supcon_loss, (2, 8))(ROWS, LABELS)
    with pytest.raises(ValueError, match="2 weights for 3 dims"):
        mj.matryoshka(mj.supcon_loss, DIMS, (1.0, 2.0))
