"""The pairs of verification: none missing, none twice, none likelier than another; and their distances."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import references
from subjects import DISTANCES

import metric_jax as mj
from metric_jax.evaluation import all_pairs, pair_distances, relative_distances
from metric_jax.evaluation.pairs import compare

LABELS = np.array([4, 9, 4, 4, 7, 9, 4])  # 7 pairs of one class, 14 of two


def tuples(found):
    return [(int(i), int(j), bool(same)) for i, j, same in zip(*found, strict=True)]


ALL = [(i, j, bool(LABELS[i] == LABELS[j])) for i, j in itertools.combinations(range(7), 2)]


@pytest.mark.parametrize("limit", [None, 14, 10**9])
def test_all_pairs(limit):
    assert tuples(all_pairs(LABELS, limit=limit)) == ALL
    assert tuples(all_pairs(LABELS.tolist(), limit=limit)) == ALL
    assert tuples(all_pairs(jnp.asarray(LABELS), limit=limit)) == ALL


@pytest.mark.parametrize("limit", [1, 2, 4, 6, 7, 8, 13])
def test_as_many_of_either_kind_as_the_limit(limit):
    for seed in range(20):
        found = tuples(all_pairs(LABELS, limit=limit, seed=seed))
        assert found == sorted(set(found) & set(ALL))
        genuine = sum(same for _, _, same in found)
        assert (genuine, len(found) - genuine) == (min(limit, 7), min(limit, 14))


@pytest.mark.parametrize("limit", [1, 3, 5])
def test_no_pair_is_likelier_than_another(limit):
    draws = 2000
    counts = dict.fromkeys(ALL, 0)
    for seed in range(draws):
        for pair in tuples(all_pairs(LABELS, limit=limit, seed=seed)):
            counts[pair] += 1
    for pair, count in counts.items():
        p = limit / (7 if pair[2] else 14)
        assert abs(count - draws * p) < 4.5 * np.sqrt(draws * p * (1 - p)), pair


def test_more_pairs_than_any_memory_holds():
    labels = np.arange(300_000) // 3
    first, second, is_same = all_pairs(labels, limit=50_000)
    assert (is_same.sum(), (~is_same).sum()) == (50_000, 50_000)
    np.testing.assert_array_equal(labels[first] == labels[second], is_same)
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == 100_000
    assert (first < second).all()


def test_a_seed_gives_the_same_pairs():
    assert tuples(all_pairs(LABELS, limit=3, seed=5)) == tuples(all_pairs(LABELS, limit=3, seed=5))
    assert len({tuple(tuples(all_pairs(LABELS, limit=3, seed=seed))) for seed in range(5)}) == 5


def test_all_pairs_refuses():
    with pytest.raises(ValueError, match="labels name 1 classes for 3 items"):
        all_pairs([2, 2, 2])
    for labels in ([1, 2, 3], [1], np.zeros(0, int)):
        with pytest.raises(ValueError, match="two classes, and one with two items"):
            all_pairs(labels)
    with pytest.raises(
        TypeError, match=r"labels must be an array of integers, got <U1: number them with np\.unique"
    ):
        all_pairs(list("aab"))
    with pytest.raises(ValueError, match=r"labels must be one for each of the 7 items, got shape \[7, 1\]"):
        all_pairs(LABELS[:, None])
    for limit in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=f"limit must be an integer of at least 1, got {limit}"):
            all_pairs(LABELS, limit=limit)
    with pytest.raises(ValueError, match="seed must be an integer of at least 0"):
        all_pairs(LABELS, limit=1, seed=-1)


@pytest.mark.parametrize("distance", DISTANCES, ids=lambda d: d.name)
def test_distances_of_pairs(distance):
    rows = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    first, second = np.array([0, 8, 3, 3, 8]), np.array([1, 0, 3, 4, 0])
    found = pair_distances(rows, first, second, distance=distance)
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(
        found, references.DISTANCES[distance.name](exact[first], exact[second]), rtol=1e-6, atol=1e-6
    )
    assert (found.dtype, found[1]) == (np.float64, found[4])


def test_indices_are_integers_and_may_be_none():
    rows = np.zeros((3, 2), np.float32)
    assert pair_distances(rows, [], []).shape == (0,)
    with pytest.raises(
        TypeError, match="first must be an array of integers, got float64: pass them as integers"
    ):
        pair_distances(rows, [0.0, 1.0], [1, 2])


@pytest.mark.parametrize("at_a_time", [1, 16, 10**6])
def test_distances_a_few_at_a_time(monkeypatch, at_a_time):
    monkeypatch.setattr("metric_jax.evaluation.pairs.NUMBERS_AT_A_TIME", at_a_time)
    pair_distances.__globals__["_between"].clear_cache()
    rows = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    first, second, _ = all_pairs(np.array([0, 0, 1, 1, 2, 2]))
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(
        pair_distances(rows, first, second), references.euclidean(exact[first], exact[second]), rtol=1e-6
    )
    pair_distances.__globals__["_between"].clear_cache()


def test_N2_distances_are_by_difference():
    rows = np.array([[1000.0], [1000.0 + 2**-10], [-1000.0]], np.float32)
    assert pair_distances(rows, [0, 0], [1, 0]).tolist() == [2**-10, 0.0]


def test_pair_distances_refuses():
    rows = np.ones((4, 2), np.float32)
    with pytest.raises(
        ValueError, match=r"second must be one for each of the 2 pairs of first, got shape \[3\]"
    ):
        pair_distances(rows, [0, 1], [1, 2, 3])
    with pytest.raises(ValueError, match="second holds 4 at pair 1, and there are only 4 rows to index"):
        pair_distances(rows, [0, 1], [1, 4])
    with pytest.raises(ValueError, match="first holds -1 at pair 0"):
        pair_distances(rows, [-1, 1], [1, 3])
    with pytest.raises(TypeError, match="first must be an array of integers, got float64"):
        pair_distances(rows, [0.0], [1])
    with pytest.raises(TypeError, match="embeddings must be floating"):
        pair_distances(rows.astype(int), [0], [1])
    with pytest.raises(
        ValueError, match="embeddings are so large in row 0 that their euclidean distances are infinite"
    ):
        pair_distances(np.array([[1e30], [-1e30]], np.float32), [0], [1])
    opposite = np.array([[3e38, 3e38], [-3e38, -3e38]], np.float32)
    with pytest.raises(ValueError, match="embeddings are so large in row 0 that their manhattan distances"):
        pair_distances(opposite, [0], [1], distance=mj.manhattan)
    for shape in ((4,), (0, 2)):
        with pytest.raises(ValueError, match=r"embeddings must be \[rows, dim\] with at least one row"):
            pair_distances(np.ones(shape, np.float32), [0], [1])
    rows[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"embeddings hold NaN or infinity in row 2 \(1 rows in all\)"):
        pair_distances(rows, [0], [1])
    with pytest.raises(TypeError, match="distance must be a metric_jax Distance"):
        pair_distances(rows, [0], [1], distance="cosine")
    with pytest.raises(ValueError, match=r"distance must be a distance .* got cosine_similarity"):
        pair_distances(rows, [0], [1], distance=mj.cosine_similarity)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("k", [1, 3, 6])
def test_relative_distances(distance, k):
    generator = np.random.default_rng(k)
    rows, cohort = (generator.normal(size=(count, 4)).astype(np.float32) for count in (5, 6))
    first, second = [0, 1, 4, 2], [1, 3, 0, 2]
    reference = getattr(references, distance.name)

    def to_strangers(row):
        return np.sort([reference(np.float64(row), np.float64(one)) for one in cohort])[:k].mean()

    expected = [
        reference(np.float64(rows[i]), np.float64(rows[j]))
        - (to_strangers(rows[i]) + to_strangers(rows[j])) / 2
        for i, j in zip(first, second, strict=True)
    ]
    found = relative_distances(rows, cohort, first, second, k=k, distance=distance)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_cohort_mends_a_threshold_that_hubs_spoil():
    """A class spread out and far from all, and two dense ones among the strangers: only relatively are they parted."""
    rows = np.array([[0.0], [8.0], [100.0], [101.0], [104.0], [105.0]])
    cohort = np.repeat([[97.0], [108.0]], 10, axis=0)
    pairs = all_pairs(np.arange(6) // 2)
    bare, relative = compare(rows, pairs), compare(rows, pairs, cohort=cohort)
    assert bare.distances[bare.is_same].max() > bare.distances[~bare.is_same].min()
    assert relative.distances[relative.is_same].max() < relative.distances[~relative.is_same].min()
    assert (relative.first == bare.first).all()


def test_relative_distances_refuses():
    rows = np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match="k must be at most the 4 items of the cohort, got 10"):
        relative_distances(rows, np.zeros((4, 2), np.float32), [0], [1])
    with pytest.raises(ValueError, match="embeddings have dimension 2 and those of the cohort 3"):
        relative_distances(rows, np.zeros((12, 3), np.float32), [0], [1])
    with pytest.raises(ValueError, match="cohort hold NaN or infinity in row 0"):
        relative_distances(rows, np.full((12, 2), np.nan, np.float32), [0], [1])
    with pytest.raises(ValueError, match="cohort are so large in row 0 that their euclidean distances"):
        relative_distances(rows, np.full((12, 2), 3e19, np.float32), [0], [1])


def test_relative_distances_of_no_pairs_are_none():
    rows = np.zeros((3, 2), np.float32)
    assert relative_distances(rows, np.ones((10, 2), np.float32), [], []).shape == (0,)
