"""Retrieval beside pytorch-metric-learning's AccuracyCalculator, pytrec_eval and faiss, on rows without ties.

PML casts rows and labels to float32 and leaves equal distances in the order of its sort. So the rows here are exact in
float32, have no ties, and are ranked by its own search in float64.
"""

import faiss
import numpy as np
import pytest
import pytrec_eval
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from sklearn.datasets import load_digits

import metric_jax as mj

NAMES = {
    "precision@1": "precision_at_1",
    "r_precision": "r_precision",
    "map_at_r": "mean_average_precision_at_r",
    "mrr": "mean_reciprocal_rank",
    "map": "mean_average_precision",
}


def digits(n):
    """Raw pixels: integers, so that many distances tie, until a little noise decides."""
    images, labels = load_digits(return_X_y=True)
    noise = np.random.default_rng(0).uniform(0, 0.01, images.shape)
    return (images + noise)[:n].astype(np.float32), labels[:n].astype(int)


def search(query, k, reference, own_gallery):
    exact = CustomKNN(LpDistance(normalize_embeddings=False))
    return exact(query.double(), k, reference.double(), own_gallery)


def pml(queries, labels, gallery, gallery_labels, *, own_gallery):
    calculator = AccuracyCalculator(
        include=tuple(NAMES.values()),
        k=len(gallery) - own_gallery,
        knn_func=search,
        kmeans_func=lambda *_: None,
    )
    arrays = [torch.tensor(x) for x in (queries, labels, gallery, gallery_labels)]
    return calculator.get_accuracy(*arrays, ref_includes_query=own_gallery)


@pytest.mark.parametrize("rows", ["random", "digits"])
def test_leave_one_out(rows, x64):
    generator = np.random.default_rng(0)
    if rows == "random":
        embeddings, labels = generator.normal(size=(120, 4)).astype(np.float32), np.arange(120) % 13
    else:
        embeddings, labels = digits(600)
    expected = pml(embeddings, labels, embeddings, labels, own_gallery=True)
    found = mj.evaluation.retrieval(embeddings.astype(np.float64), labels, metrics=list(NAMES))
    assert found["left_out"] == 0
    for ours, theirs in NAMES.items():
        assert found[ours] == pytest.approx(expected[theirs], rel=1e-6), ours


def test_query_and_gallery(x64):
    embeddings, labels = digits(600)
    expected = pml(embeddings[:100], labels[:100], embeddings[100:], labels[100:], own_gallery=False)
    embeddings = embeddings.astype(np.float64)
    found = mj.evaluation.retrieval(
        embeddings[:100],
        labels[:100],
        gallery=embeddings[100:],
        gallery_labels=labels[100:],
        metrics=list(NAMES),
    )
    for ours, theirs in NAMES.items():
        assert found[ours] == pytest.approx(expected[theirs], rel=1e-6), ours


def test_gain_beside_pytrec_eval(x64):
    embeddings, labels = digits(300)
    relevant = {
        str(i): {str(j): 1 for j in np.flatnonzero(labels == labels[i]) if j != i} for i in range(300)
    }
    distances = ((embeddings[:, None] - embeddings[None]) ** 2).sum(axis=-1, dtype=np.float64)
    ranked = {str(i): {str(j): -distances[i, j] for j in range(300) if j != i} for i in range(300)}
    evaluator = pytrec_eval.RelevanceEvaluator(relevant, {"ndcg_cut.1,5,20", "P.5,20"})
    theirs = evaluator.evaluate(ranked).values()
    ours = mj.evaluation.retrieval(
        embeddings.astype(np.float64), labels, metrics=["ndcg@k", "precision@k"], ks=(1, 5, 20)
    )
    for name, key in (("ndcg@1", "ndcg_cut_1"), ("ndcg@5", "ndcg_cut_5"), ("ndcg@20", "ndcg_cut_20")):
        assert ours[name] == pytest.approx(np.mean([found[key] for found in theirs]), rel=1e-6)
    for k in (5, 20):
        assert ours[f"precision@{k}"] == pytest.approx(
            np.mean([found[f"P_{k}"] for found in theirs]), rel=1e-6
        )


def test_recall_beside_faiss():
    embeddings, labels = digits(1797)
    index = faiss.IndexFlatL2(embeddings.shape[1])
    index.add(embeddings)
    ks = (1, 2, 4, 8)
    neighbours = index.search(embeddings, max(ks) + 1)[1]
    others = np.stack([row[row != i][: max(ks)] for i, row in enumerate(neighbours)])
    hits = labels[others] == labels[:, None]
    found = mj.evaluation.retrieval(embeddings, labels, ks=ks)
    for k in ks:
        assert found[f"recall@{k}"] == pytest.approx(hits[:, :k].any(axis=1).mean(), abs=1e-12)
