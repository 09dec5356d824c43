"""Weighting and structure beside pytorch-metric-learning, value and gradient in float64.

Where PML differs on purpose is said at each: it averages terms that are not zero, and lets gradients through weights.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.distances import LpDistance, SNRDistance
from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer
from suite import assert_close

import metric_jax as mj

E = LpDistance(normalize_embeddings=False)
EMBEDDINGS = np.random.default_rng(0).normal(size=(24, 6))
LABELS = np.random.default_rng(1).permutation(np.arange(24) % 6)
UNIT = EMBEDDINGS / np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)
MEMORY, MEMORY_LABELS = np.random.default_rng(2).normal(size=(15, 6)), np.arange(15) % 6


def both(ours, theirs, embeddings=EMBEDDINGS, miner=None, pairs=None, **memory):
    """``(value, gradient)`` of ours and of theirs."""
    rows, labels = torch.tensor(embeddings, requires_grad=True), torch.tensor(LABELS)
    given = {f"ref_{name}": torch.tensor(x) for name, x in memory.items()}
    mined = pairs if miner is None else miner(rows, labels, **given)
    expected = theirs(rows, labels, mined, **given)
    expected.backward()
    options = {"references": memory["emb"], "reference_labels": memory["labels"]} if memory else {}
    found = jax.value_and_grad(lambda e: ours(e, LABELS, **options))(jnp.asarray(embeddings))
    return found, (expected.item(), rows.grad.numpy())


def assert_same(found, expected, tolerance=1e-6):
    assert found[0] > 0
    jax.tree.map(functools.partial(assert_close, tolerance=tolerance), tuple(found), expected)


LOSSES = {
    "multi_similarity": (
        functools.partial(mj.multi_similarity_loss, epsilon=None),
        losses.MultiSimilarityLoss(2, 50, 0.5),
    ),
    "circle": (mj.circle_loss, losses.CircleLoss(0.25, 256, reducer=MeanReducer())),
    "circle_of_images": (
        functools.partial(mj.circle_loss, margin=0.4, scale=80.0, reduction="mean_active"),
        losses.CircleLoss(0.4, 80),
    ),
    "lifted": (mj.lifted_structure_loss, losses.LiftedStructureLoss(distance=E)),
    "lifted_margin": (
        functools.partial(mj.lifted_structure_loss, margin=2.5),
        losses.LiftedStructureLoss(neg_margin=2.5, distance=E),
    ),
    "generalized_lifted": (
        mj.generalized_lifted_structure_loss,
        losses.GeneralizedLiftedStructureLoss(distance=E),
    ),
    "intra_pair_variance": (
        functools.partial(mj.intra_pair_variance_loss, positive_epsilon=0.05, negative_epsilon=0.02),
        losses.IntraPairVarianceLoss(pos_eps=0.05, neg_eps=0.02),
    ),
    "signal_to_noise": (
        functools.partial(mj.signal_to_noise_loss, negative_margin=2.0, reduction="mean_active"),
        losses.SignalToNoiseRatioContrastiveLoss(
            neg_margin=2.0, distance=SNRDistance(normalize_embeddings=False)
        ),
    ),
    "signal_to_noise_of_all": (
        functools.partial(mj.signal_to_noise_loss, negative_margin=2.0, positive_margin=0.5),
        losses.SignalToNoiseRatioContrastiveLoss(
            pos_margin=0.5,
            neg_margin=2.0,
            distance=SNRDistance(normalize_embeddings=False),
            reducer=MeanReducer(),
        ),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, x64):
    assert_same(*both(*LOSSES[name]))


@pytest.mark.parametrize("name", [n for n in LOSSES if "lifted" not in n and n != "intra_pair_variance"])
def test_losses_with_references(name, x64):
    """The lifted structure is left out: PML's second end has the negatives of the batch's row of the same index."""
    assert_same(*both(*LOSSES[name], emb=MEMORY, labels=MEMORY_LABELS))


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
@pytest.mark.parametrize(
    "memory", [{}, {"emb": MEMORY, "labels": MEMORY_LABELS}], ids=["batch", "references"]
)
def test_multi_similarity_with_its_mining(epsilon, memory, x64):
    ours = functools.partial(mj.multi_similarity_loss, epsilon=epsilon)
    miner = miners.MultiSimilarityMiner(epsilon)
    assert_same(*both(ours, losses.MultiSimilarityLoss(2, 50, 0.5), miner=miner, **memory))


@pytest.mark.parametrize("bins", [10, 100])
def test_histogram(bins, monkeypatch, x64):
    """PML takes triplets, so that negatives of an anchor without positives do not count there; here all have one.

    It also indexes by a list of two lists, which torch has come to read as something else.
    """
    module = losses.histogram_loss
    filter_pairs = module.filter_pairs
    monkeypatch.setattr(module, "filter_pairs", lambda *indices: tuple(filter_pairs(*indices)))
    ours = functools.partial(mj.histogram_loss, bins=bins)
    assert_same(*both(ours, losses.HistogramLoss(n_bins=bins)))


@pytest.mark.parametrize("degrees", [30, 40, 45])
def test_angular(degrees, x64):
    """PML normalises anchors and positives but not the negatives, and its angle is float32 when given an integer."""
    ours = functools.partial(mj.angular_loss, alpha=math.radians(degrees))
    rows, labels = torch.tensor(EMBEDDINGS, requires_grad=True), torch.tensor(LABELS)
    expected = losses.AngularLoss(alpha=float(degrees))(torch.nn.functional.normalize(rows), labels)
    expected.backward()
    found = jax.value_and_grad(lambda e: ours(e, LABELS))(jnp.asarray(EMBEDDINGS))
    assert_same(found, (expected.item(), rows.grad.numpy()))


def test_margin(x64):
    """PML sums over triplets and divides by those triplets' pairs: its pairs count as often as they are in a triplet.

    With one positive and one negative for every anchor both are one: so it is compared on such triplets, by pairs.
    """
    mined = mj.mining.batch_hard(EMBEDDINGS, LABELS)
    triplets = tuple(torch.tensor(np.asarray(column)) for column in mined[:3])
    ours = functools.partial(mj.margin_loss, pairs=mined, reduction="mean_active")
    theirs = losses.MarginLoss(0.25, beta=1.25, distance=E)
    assert_same(*both(functools.partial(ours, beta=1.25, margin=0.25), theirs, pairs=triplets))


def test_ranked_list_without_temperatures(x64):
    """With equal weights PML's is the paper's but for the 1e-5 that it adds to each of the 24 weights of a row."""
    ours = functools.partial(
        mj.ranked_list_loss, margin=0.4, alpha=1.2, balance=0.3, negative_temperature=0.0
    )
    theirs = losses.RankedListLoss(0.4, Tn=0, imbalance=0.3, alpha=1.2)
    found, expected = both(ours, theirs, UNIT)
    assert_close(found[0], expected[0], 1e-3)


def test_ranked_list_weights(x64):
    """PML lets the gradient through its weights; the value is the same."""
    ours = functools.partial(mj.ranked_list_loss, positive_temperature=1.0, negative_temperature=4.0)
    theirs = losses.RankedListLoss(0.4, Tn=4, Tp=1, alpha=1.2)
    found, expected = both(ours, theirs, UNIT)
    assert_close(found[0], expected[0], 1e-3)


# Triplets.


@pytest.mark.parametrize("reducer", [MeanReducer, AvgNonZeroReducer])
@pytest.mark.parametrize("otherwise", ["farthest", "drop"])
@pytest.mark.parametrize("swap", [True, False])
def test_semi_hard_triplets(swap, otherwise, reducer, x64):
    mined = mj.mining.batch_semi_hard(EMBEDDINGS, LABELS)
    a, p, n = (np.asarray(column)[np.asarray(mined.valid)] for column in mined[:3])
    d = np.linalg.norm(EMBEDDINGS[:, None] - EMBEDDINGS[None], axis=-1)
    kept = d[a, n] > d[a, p] if otherwise == "drop" else np.ones(len(a), bool)
    triplets = tuple(torch.tensor(column[kept]) for column in (a, p, n))
    theirs = losses.TripletMarginLoss(0.5, distance=E, swap=swap, reducer=reducer())
    reduction = "mean" if reducer is MeanReducer else "mean_active"
    ours = functools.partial(
        mj.batch_semi_hard_triplet_loss, margin=0.5, swap=swap, otherwise=otherwise, reduction=reduction
    )
    assert_same(*both(ours, theirs, pairs=triplets))
    given = mj.Triplets(a[kept], p[kept], n[kept], np.ones(kept.sum(), bool))

    def explicit(rows, labels):
        return mj.batch_triplet_loss(rows, given, margin=0.5, swap=swap, reduction=reduction)

    assert_same(*both(explicit, theirs, pairs=triplets))


def test_batch_hard_triplets_with_the_swap(x64):
    ours = functools.partial(mj.batch_hard_triplet_loss, margin=0.5, swap=True)
    theirs = losses.TripletMarginLoss(0.5, distance=E, swap=True, reducer=MeanReducer())
    assert_same(*both(ours, theirs, miner=miners.BatchHardMiner(distance=E)))
