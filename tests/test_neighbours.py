"""Nearest items against sorting."""

import numpy as np
import pytest
import references
from subjects import DISTANCES

import metric_jax as mj

nearest = mj.evaluation.nearest
ROWS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
QUERIES = np.random.default_rng(1).normal(size=(11, 3)).astype(np.float32)


def expected(queries, gallery, k, distance, itself=False):
    """By sorting, in float64; the lower index first."""
    far = references.DISTANCES[distance.name](queries.astype(float)[:, None], gallery.astype(float)[None])
    if itself:
        np.fill_diagonal(far, np.inf)
    order = np.argsort(far, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(far, order, axis=1)


def check(found, wanted):
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("distance", DISTANCES, ids=lambda d: d.name)
def test_of_a_gallery_and_of_each_other(distance):
    check(nearest(QUERIES, ROWS, k=7, distance=distance), expected(QUERIES, ROWS, 7, distance))
    check(nearest(ROWS, k=7, distance=distance, tile=3), expected(ROWS, ROWS, 7, distance, itself=True))


@pytest.mark.parametrize("k", [1, 6, 40])
def test_a_gallery_in_parts_is_one_gallery(k, tmp_path):
    for i, part in enumerate(np.split(ROWS, [5, 6, 30])):
        np.save(tmp_path / f"{i}.npy", part)
    parts = [np.load(tmp_path / f"{i}.npy", mmap_mode="r") for i in range(4)]
    check(nearest(QUERIES, parts, k=k), expected(QUERIES, ROWS, k, mj.euclidean))


def test_duplicates_stand_at_distance_0_in_their_order_and_none_meets_itself():
    rows = np.tile(ROWS[:1] + 100, (4, 1))
    items, distances = nearest(rows, k=3)
    np.testing.assert_array_equal(items, [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    np.testing.assert_array_equal(distances, 0)


def test_near_duplicates_have_their_exact_distance():
    """The matrix product sees no distance at all here."""
    rows = np.array([[1.0, 0.0], [1.0, 1e-5], [1.0, 3e-5], [-1.0, 0.0]], np.float32)
    items, distances = nearest(rows[:1], rows[1:], k=2)
    np.testing.assert_array_equal(items, [[0, 1]])
    np.testing.assert_allclose(distances, [[1e-5, 3e-5]], rtol=1e-6)


def test_the_nearest_is_found_though_the_product_cannot_tell():
    items, distances = nearest([[0.0], [2000.0]], [[0.3], [0.0], [2000.0]], k=1)
    np.testing.assert_array_equal(items, [[1], [2]])
    np.testing.assert_array_equal(distances, 0)


def test_memory_is_bounded_however_many_are_asked_for(monkeypatch):
    """Of 200 queries the rows of 2,900 nearest, in 512 dimensions, are 300 million numbers."""
    search, held = nearest.__globals__["_search"], []

    def lowered(*arrays, k, **options):
        compiled = search.lower(*arrays, k=k, **options).compile()
        held.append(compiled.memory_analysis().temp_size_in_bytes)
        return np.zeros((200, k)), np.zeros((200, k), int)

    monkeypatch.setitem(nearest.__globals__, "_search", lowered)
    nearest(np.ones((200, 512), np.float32), np.ones((3000, 512), np.float32), k=2900)
    assert held[0] < 100e6


def test_bad_input():
    with pytest.raises(ValueError, match="so large in row 0 that their euclidean distances are infinite"):
        nearest(ROWS * np.float32(1e25), k=1)
    far = np.array([[3e19], [2e19]], np.float32)
    for gallery, name in ((far, "gallery"), ([far[:0], far * 0, far], "gallery part 2")):
        with pytest.raises(ValueError, match=f"^{name} are so large in row 0 that their euclidean distances"):
            nearest(np.zeros((1, 1), np.float32), gallery, k=1)
    far = np.full((2, 2), 3e38, np.float32)
    with pytest.raises(ValueError, match=r"^gallery are so large in row 0 that their manhattan distances"):
        nearest(np.zeros((1, 2), np.float32), far, k=1, distance=mj.manhattan)
    with pytest.raises(
        ValueError, match="k must be at most the 39 items that a query is compared with, got 40"
    ):
        nearest(ROWS, k=40)
    with pytest.raises(ValueError, match="k must be an integer of at least 1, got 0"):
        nearest(ROWS, k=0)
    with pytest.raises(ValueError, match="queries have dimension 3 and gallery has 2"):
        nearest(QUERIES, ROWS[:, :2], k=1)
    broken = ROWS.copy()
    broken[3] = np.nan
    with pytest.raises(ValueError, match="gallery part 1 hold NaN or infinity in row 3"):
        nearest(QUERIES, [ROWS, broken], k=1)
    with pytest.raises(TypeError, match="distance must be a metric_jax Distance"):
        nearest(ROWS, k=1, distance="cosine")
