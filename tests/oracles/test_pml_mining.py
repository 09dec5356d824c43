"""Miners beside pytorch-metric-learning, in float64: the same sets of triplets and pairs.

PML lists what it finds in arrays of any length, and normalises embeddings unless told otherwise. Its random miners draw
other numbers, so of them the sets they may draw from are compared.
"""

import functools
import itertools

import jax
import numpy as np
import pytest
import torch
from pytorch_metric_learning import miners
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance

import metric_jax as mj

E = LpDistance(normalize_embeddings=False)
EMBEDDINGS = np.random.default_rng(0).normal(size=(40, 6))
LABELS = np.random.default_rng(1).permutation(np.arange(40) % 9)  # classes of 4 and 5
UNIT = EMBEDDINGS / np.linalg.norm(EMBEDDINGS, axis=1, keepdims=True)
BATCH = {"embeddings": EMBEDDINGS, "labels": LABELS}


def triplets(found):
    """Ours or theirs as a set; PML repeats the anchor when it speaks of pairs."""
    if isinstance(found, mj.Triplets):
        anchor, positive, negative, valid = (np.asarray(column) for column in found)
        return set(zip(anchor[valid], positive[valid], negative[valid], strict=True))
    columns = [column.numpy() for column in found]
    return set(zip(*(columns if len(columns) == 3 else (columns[0], columns[1], columns[3])), strict=True))


def pairs(found):
    """``(anchor, reference, whether it is positive)``, ours or theirs."""
    if isinstance(found, mj.Pairs):
        anchor, reference, is_positive, valid = (np.asarray(column) for column in found)
        return set(zip(anchor[valid], reference[valid], is_positive[valid], strict=True))
    anchor, positive, other_anchor, negative = (column.numpy() for column in found)
    return {(a, p, True) for a, p in zip(anchor, positive, strict=True)} | {
        (a, n, False) for a, n in zip(other_anchor, negative, strict=True)
    }


def theirs(miner, embeddings=EMBEDDINGS):
    return miner(torch.tensor(embeddings), torch.tensor(LABELS))


@pytest.mark.parametrize("kind", ["all", "hard", "semi_hard", "easy"])
@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_triplet_margin(kind, margin, x64):
    expected = theirs(miners.TripletMarginMiner(margin, kind.replace("_", ""), distance=E))
    found = mj.mining.triplet_margin(**BATCH, margin=margin, kind=kind, max_triplets=None)
    assert triplets(found) == triplets(expected)
    assert len(triplets(found)) > 100


STRATEGIES = ("easy", "semi_hard", "hard")


@pytest.mark.parametrize(
    ("positive", "negative"),
    [both for both in itertools.product(STRATEGIES, STRATEGIES) if both != ("semi_hard", "semi_hard")],
)
@pytest.mark.parametrize("ranges", [(None, None), ((1.0, 4.0), (2.5, 4.0))], ids=["all", "ranges"])
def test_batch_easy_hard(positive, negative, ranges, x64):
    names = (positive.replace("_", ""), negative.replace("_", ""))
    expected = theirs(miners.BatchEasyHardMiner(*names, *ranges, distance=E))
    own = {} if ranges[0] is None else {"positive_range": ranges[0], "negative_range": ranges[1]}
    found = mj.mining.batch_easy_hard(**BATCH, positive=positive, negative=negative, **own)
    assert triplets(found) == triplets(expected)
    assert triplets(found)


@pytest.mark.parametrize(("near", "far"), [(0.2, 0.8), (3.0, 2.5)])
def test_pair_margin(near, far, x64):
    expected = theirs(miners.PairMarginMiner(near, far, distance=E))
    found = mj.mining.pair_margin(**BATCH, positive_margin=near, negative_margin=far)
    assert pairs(found) == pairs(expected)
    assert pairs(found)


@pytest.mark.parametrize("epsilon", [0.1, 0.0, 0.5])
def test_multi_similarity(epsilon, x64):
    expected = theirs(miners.MultiSimilarityMiner(epsilon, distance=CosineSimilarity()))
    found = mj.mining.multi_similarity(**BATCH, epsilon=epsilon)
    assert pairs(found) == pairs(expected)
    assert pairs(found)


@pytest.mark.parametrize("degrees", [20, 35, 45])
def test_angular(degrees, x64):
    """PML takes degrees, and demands a distance that normalises but then measures the rows as they are."""
    expected = theirs(miners.AngularMiner(degrees), UNIT)
    found = mj.mining.angular(UNIT, LABELS, angle=np.radians(degrees), max_triplets=None)
    assert triplets(found) == triplets(expected)
    assert triplets(found)


def test_distance_weighted(x64):
    """What may be drawn: PML leaves the same negatives out, and draws each with the same probability."""
    keys = jax.random.split(jax.random.key(0), 300)
    draw = jax.jit(
        functools.partial(mj.mining.distance_weighted, **BATCH, max_positives=4, nonzero_loss_cutoff=0.9)
    )
    found = set().union(*(triplets(draw(key=key)) for key in keys))
    torch.manual_seed(0)
    miner = miners.DistanceWeightedMiner(nonzero_loss_cutoff=0.9)
    expected = set().union(*(triplets(theirs(miner)) for _ in range(300)))
    assert found == expected
    assert len(found) < 40 * 4 * 35  # some negatives are too far


def test_uniform_histogram(x64):
    """PML cuts the range of the batch, and draws with replacement; with one bin and room for all both find all."""
    miner = miners.UniformHistogramMiner(num_bins=1, pos_per_bin=5000, neg_per_bin=20000, distance=E)
    torch.manual_seed(0)
    found = mj.mining.uniform_histogram(
        **BATCH, key=jax.random.key(0), bins=1, positives_per_bin=5, negatives_per_bin=40
    )
    assert pairs(found) == pairs(theirs(miner))
