"""Agreement of clusters and classes against loops, on embeddings whose clusters are plain to see."""

import numpy as np
import pytest
import references_evaluation as references

from metric_jax.evaluation.clustering import clustering


def blobs(seed, sizes=(7, 5, 8)):
    """Embeddings in as many far-apart groups, and which group each is of."""
    generator = np.random.default_rng(seed)
    groups = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return (generator.normal(size=(sum(sizes), 4)) + 100.0 * np.eye(4)[groups]).astype(np.float32), groups


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("wrong", [0, 3, 10])
def test_values_are_those_of_counting(seed, wrong):
    embeddings, groups = blobs(seed)
    labels = groups.copy()
    moved = np.random.default_rng(seed).permutation(20)[:wrong]
    labels[moved] = (labels[moved] + 1) % 3
    found = clustering(embeddings, labels * 10 - 4)
    labels, groups = labels.tolist(), groups.tolist()
    assert found == pytest.approx(
        {
            "nmi": references.nmi(labels, groups),
            "ami": references.ami(labels, groups),
            "purity": references.purity(labels, groups),
            "clusters": 3,
        },
        rel=1e-9,
    )
    assert (found["nmi"] > 0.999) == (wrong == 0)


def test_purity_counts_in_clusters():
    """Two classes in one cluster, one class over two clusters: of items in a cluster, the largest class is right."""
    embeddings, groups = blobs(1, sizes=(6, 4, 3))
    labels = np.where(groups == 2, 1, groups)
    labels[np.flatnonzero(groups == 0)[:2]] = 2
    assert clustering(embeddings, labels)["purity"] == pytest.approx((4 + 4 + 3) / 13)


def test_meaningless_embeddings_agree_by_chance_only():
    generator = np.random.default_rng(0)
    found = clustering(generator.normal(size=(200, 3)), generator.permutation(np.arange(200) // 5))
    assert found["nmi"] > 0.5  # with so many classes that is nothing
    assert abs(found["ami"]) < 0.1


def test_a_collapse_is_one_cluster():
    labels = np.arange(12) // 4
    found = clustering(np.full((12, 3), 0.1, np.float32), labels)
    assert found == {"nmi": 0.0, "ami": 0.0, "purity": pytest.approx(1 / 3), "clusters": 1}


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**100])
def test_squares_beyond_float32_change_nothing(scale):
    embeddings, labels = blobs(0)
    assert clustering(embeddings * np.float32(scale), labels) == clustering(embeddings, labels)
    found = clustering(np.repeat(np.eye(3), 4, axis=0) * scale, np.arange(12) // 4)
    assert (found["clusters"], found["purity"]) == (3, 1.0)


def test_a_seed_gives_the_same_clusters():
    generator = np.random.default_rng(0)
    embeddings, labels = generator.normal(size=(90, 2)), np.arange(90) // 10
    assert clustering(embeddings, labels, seed=1) == clustering(embeddings, labels, seed=1)
    assert len({clustering(embeddings, labels, seed=seed)["nmi"] for seed in range(4)}) > 1


def test_refuses():
    embeddings, labels = blobs(0)
    with pytest.raises(ValueError, match="labels name 1 classes for 20 items: clustering needs two classes"):
        clustering(embeddings, labels * 0)
    with pytest.raises(ValueError, match=r"labels name 20 classes for 20 items: .* one with two items"):
        clustering(embeddings, np.arange(20))
    with pytest.raises(
        ValueError, match=r"labels must be one for each of the 20 rows of embeddings, got shape \[4\]"
    ):
        clustering(embeddings, labels[:4])
    with pytest.raises(TypeError, match="labels must be an array of integers, got float64"):
        clustering(embeddings, labels.astype(float))
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        clustering(embeddings, labels, seed=-1)
    with pytest.raises(ValueError, match="seed must be at most 4294967295, got 4294967296"):
        clustering(embeddings, labels, seed=2**32)
    embeddings[3, 0] = np.nan
    with pytest.raises(ValueError, match=r"embeddings hold NaN or infinity in row 3 \(1 rows in all\)"):
        clustering(embeddings, labels)
