"""Retrieval against rankings made by sorting: N14, values, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
import references
from subjects import DISTANCES

import metric_jax as mj
from metric_jax.evaluation import ranks

retrieval = mj.evaluation.retrieval
every_tile = pytest.mark.parametrize("tile", ["auto", 1, 5])


def labelled(n, classes, seed=0, dim=3):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, dim)).astype(np.float32), generator.integers(0, classes, n)


def check(found, expected):
    for key in found:
        value = expected[key]
        assert type(found[key]) is (int if key in ("queries", "left_out") else float)
        np.testing.assert_allclose(found[key], value, rtol=1e-6, err_msg=key)


def expect(embeddings, labels, gallery=None, distance=mj.euclidean, **options):
    rows = [None if x is None else np.asarray(x, float) for x in (embeddings, gallery)]
    distance = references.DISTANCES[distance.name]
    return references.retrieval(rows[0], labels, gallery=rows[1], distance=distance, **options)


def test_by_hand():
    batch = np.array([[0.0], [1.0], [1.5], [9.0], [10.0]], np.float32)
    labels = np.array([0, 0, 1, 1, 1])
    # ranks of the relevant: 0: [1]; 1: 1 comes after 1.5: [2]; 2: [3, 4]; 9: [1, 2]; 10: [1, 2]
    found = retrieval(batch, labels, ks=(1, 2, 3, 4))
    check(
        found,
        {
            "map_at_r": (1 + 0 + 0 + 1 + 1) / 5,
            "precision@1": 3 / 5,
            "r_precision": 3 / 5,
            "recall@1": 3 / 5,
            "recall@2": 4 / 5,
            "recall@3": 1.0,
            "recall@4": 1.0,
            "mrr": (1 + 1 / 2 + 1 / 3 + 1 + 1) / 5,
            "queries": 5,
            "left_out": 0,
        },
    )


@every_tile
@pytest.mark.parametrize(
    "distance", [mj.euclidean, mj.squared_euclidean, mj.manhattan, mj.cosine], ids=lambda d: d.name
)
def test_leave_one_out(distance, tile):
    batch, labels = labelled(23, 5)
    options = {"ks": (1, 2, 3, 8, 22), "distance": distance}
    check(retrieval(batch, labels, tile=tile, **options), expect(batch, labels, **options))


@every_tile
def test_query_and_gallery(tile):
    queries, labels = labelled(11, 5)
    gallery, gallery_labels = labelled(17, 4, seed=1)
    options = {"gallery": gallery, "gallery_labels": gallery_labels, "ks": (1, 17)}
    found = retrieval(queries, labels, tile=tile, **options)
    check(found, expect(queries, labels, **options))
    assert found["left_out"] == np.sum(labels == 4) > 0


def test_more_relevant_items_than_fit_a_small_class():
    batch, labels = labelled(60, 2)
    check(retrieval(batch, labels), expect(batch, labels))


@every_tile
def test_N14_ties_and_duplicates(tile):
    generator = np.random.default_rng(2)
    for n in (9, 14):
        batch = generator.integers(0, 3, size=(n, 2)).astype(np.float32)
        labels = generator.integers(0, 3, n)
        for distance in (mj.euclidean, mj.squared_euclidean, mj.manhattan):
            found = retrieval(batch, labels, ks=(1, 2), distance=distance, tile=tile)
            check(found, expect(batch, labels, ks=(1, 2), distance=distance))


def test_N14_a_query_never_meets_itself():
    """Not even when a duplicate lies at the same distance 0, which is a fair hit."""
    batch, labels = np.array([[0.0], [0.0], [5.0]], np.float32), np.array([0, 0, 1])
    found = retrieval(batch, labels, ks=(1, 2))
    assert (found["precision@1"], found["queries"], found["left_out"]) == (1.0, 2, 1)
    found = retrieval(batch, np.array([0, 1, 0]), ks=(1, 2))
    assert (found["precision@1"], found["recall@2"], found["mrr"]) == (0.0, 1.0, 0.5)


def test_N14_constant_embeddings_score_the_same_in_any_order():
    labels = np.repeat(np.arange(3), 4)
    constant = np.full((12, 5), 0.1, np.float32)
    found = retrieval(constant, labels)
    check(found, expect(constant, labels))
    assert found["recall@8"] == 0.0  # all 8 irrelevant items come first
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(12)
        assert retrieval(constant, labels[order]) == found
        gallery = {"gallery": constant, "gallery_labels": labels[order]}
        assert retrieval(constant[:4], labels[:4], **gallery) == retrieval(
            constant[:4], labels[:4], **{**gallery, "gallery_labels": labels}
        )


@pytest.mark.parametrize("distance", DISTANCES, ids=lambda d: d.name)
def test_N14_many_constant_embeddings(distance):
    """Enough of them that a matrix product may round the last in another way than the first."""
    generator = np.random.default_rng(5)
    lengths = generator.uniform(1, 2, (183, 1)) if distance is mj.cosine else np.ones((183, 1))
    constant = (generator.normal(size=(1, 7)) * lengths).astype(np.float32)
    labels = np.arange(183) % 20
    found = retrieval(constant, labels, distance=distance)
    check(found, expect(np.zeros((183, 1)), labels, distance=mj.euclidean))
    assert found["recall@8"] == 0.0


@pytest.mark.parametrize("distance", DISTANCES, ids=lambda d: d.name)
@pytest.mark.parametrize("dim", [7, 64])
def test_N14_order_of_a_gallery_of_duplicates(distance, dim):
    generator = np.random.default_rng(dim)
    queries = generator.normal(size=(50, dim)).astype(np.float32)
    gallery, labels = (
        np.tile(generator.normal(size=(61, dim)).astype(np.float32), (3, 1)),
        np.arange(183) % 10,
    )

    def search(order):
        return retrieval(
            queries,
            np.arange(50) % 10,
            gallery=gallery[order],
            gallery_labels=labels[order],
            distance=distance,
        )

    for _ in range(3):
        assert search(generator.permutation(183)) == pytest.approx(search(np.arange(183)), rel=1e-12)


@pytest.mark.parametrize("distance", [mj.euclidean, mj.cosine], ids=lambda d: d.name)
def test_N14_a_tie_that_rounding_hides(distance):
    """Two items at one distance, on either side of the query or in one direction, are a tie whichever is relevant."""
    generator = np.random.default_rng(11)
    for _ in range(40):
        query, step = generator.normal(size=(2, 64)).astype(np.float16).astype(np.float32)
        pair = [query + step, query - step] if distance is mj.euclidean else [step, 3 * step]
        for labels in ([0, 1], [1, 0]):
            found = retrieval(
                query[None], [0], gallery=pair, gallery_labels=labels, metrics="mrr", distance=distance
            )
            assert found["mrr"] == 0.5


def test_N14_order_of_the_gallery_does_not_matter_at_ties():
    batch = np.random.default_rng(3).integers(0, 2, size=(16, 2)).astype(np.float32)
    labels = np.arange(16) % 4
    found = retrieval(batch, labels)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(16)
        assert retrieval(batch[order], labels[order]) == pytest.approx(found)


def test_N14_k_beyond_the_gallery():
    batch, labels = labelled(6, 2)
    retrieval(batch, labels, ks=(5,))
    with pytest.raises(ValueError, match=r"k must lie between 1 and the 5 items .* got \(1, 6\)"):
        retrieval(batch, labels, ks=(1, 6))
    retrieval(batch, labels, gallery=batch, gallery_labels=labels, ks=(6,))
    with pytest.raises(ValueError, match="between 1 and the 6 items"):
        retrieval(batch, labels, gallery=batch, gallery_labels=labels, ks=(7,))
    for ks in ((0,), ()):
        with pytest.raises(ValueError, match="k must lie between 1"):
            retrieval(batch, labels, ks=ks)


def test_N14_queries_without_a_relevant_item_are_left_out_and_counted():
    batch = np.array([[0.0], [1.0], [5.0], [0.5]], np.float32)
    labels = np.array([0, 0, 1, 2])
    found = retrieval(batch, labels, ks=(1, 2))
    assert (found["queries"], found["left_out"]) == (2, 2)
    assert found["recall@2"] == 1.0
    with pytest.raises(ValueError, match="no query has a relevant item"):
        retrieval(batch, np.arange(4), ks=(1,))
    with pytest.raises(ValueError, match="no query has a relevant item"):
        retrieval(batch, labels, gallery=batch, gallery_labels=labels + 3, ks=(1,))


def test_N14_an_outlier_changes_nothing():
    """The rounding of a far item is no reason to take near ones for ties."""
    generator = np.random.default_rng(9)
    batch = np.concatenate(
        [generator.normal(0, 0.01, (30, 3)), 1 + generator.normal(0, 0.01, (30, 3)), [[1e4] * 3]]
    )
    for distance in (mj.euclidean, mj.manhattan):
        found = retrieval(batch.astype(np.float32), np.repeat([0, 1, 2], [30, 30, 1]), distance=distance)
        assert found["map_at_r"] == 1.0


def test_rows_whose_squares_are_infinite():
    batch, labels = labelled(12, 3)
    with pytest.raises(
        ValueError, match="so large in row 0 that their squared_euclidean distances are infinite"
    ):
        retrieval(batch * np.float32(1e25), labels)
    check(
        retrieval(batch * np.float32(1e25), labels, distance=mj.cosine),
        expect(batch, labels, distance=mj.cosine),
    )


@pytest.mark.parametrize("scale", [1e30, 3e38])
def test_manhattan_distances_are_finite_or_an_error(scale):
    """Relevant items lie opposite, so that the rows of the other class are nearer to every query."""
    batch = np.float32(scale) * np.array([[1, 1], [-1, -1]] * 2, np.float32)
    labels = np.array([0, 0, 1, 1])
    if scale == 1e30:
        assert retrieval(batch, labels, ks=(1,), distance=mj.manhattan)["map_at_r"] == 0
        return
    with pytest.raises(ValueError, match="so large in row 0 that their manhattan distances are infinite"):
        retrieval(batch, labels, ks=(1,), distance=mj.manhattan)
    small = batch / np.float32(3e38)
    with pytest.raises(ValueError, match="gallery are so large in row 0 that their manhattan distances"):
        retrieval(small, labels, gallery=batch, gallery_labels=labels, ks=(1,), distance=mj.manhattan)


def test_N13_nan_is_an_error_that_names_the_row():
    batch, labels = labelled(8, 2)
    for junk in (np.nan, np.inf):
        broken = batch.copy()
        broken[5, 1] = junk
        with pytest.raises(ValueError, match="embeddings hold NaN or infinity in row 5"):
            retrieval(broken, labels)
        with pytest.raises(ValueError, match="gallery hold NaN or infinity in row 5"):
            retrieval(batch, labels, gallery=broken, gallery_labels=labels)


def test_what_is_finite_in_float64_alone_is_not_taken_for_nan():
    batch, labels = labelled(9, 3)
    batch = batch.astype(np.float64)
    batch[5, 0] = 1e40
    with pytest.raises(ValueError, match="embeddings are too large for float32 in row 5: scale them down"):
        retrieval(batch, labels)
    batch[7, 0] = np.nan
    with pytest.raises(ValueError, match=r"embeddings hold NaN or infinity in row 7 \(1 rows"):
        retrieval(batch, labels)


def test_N2_far_from_the_origin():
    batch, labels = labelled(20, 4)
    batch = np.round(batch * 64) / 64
    assert retrieval(batch + 1000, labels) == pytest.approx(retrieval(batch, labels))


def test_N8_labels_beyond_float32():
    batch, labels = labelled(12, 3)
    assert retrieval(batch, labels + 2**24 - 1) == retrieval(batch, labels)


def test_half_precision():
    batch, labels = labelled(15, 3)
    half = jnp.asarray(batch, jnp.bfloat16)
    check(retrieval(half, labels), expect(half, labels))


def test_float64(x64):
    batch, labels = labelled(15, 3)
    check(retrieval(batch.astype(np.float64), labels), expect(batch, labels))


def test_a_second_call_compiles_nothing(compilations):
    batch, labels = labelled(16, 3)
    retrieval(batch, labels)
    before = compilations()
    retrieval(batch[::-1], labels)
    assert compilations() == before
    gallery = {"gallery": [batch, batch + 1, batch + 2], "gallery_labels": np.tile(labels, 3)}
    retrieval(batch, labels, **gallery)
    before = compilations()
    retrieval(batch[::-1], labels, **gallery)
    assert compilations() == before


def test_bad_input():
    batch, labels = labelled(9, 2)
    with pytest.raises(ValueError, match="gallery and gallery_labels belong together"):
        retrieval(batch, labels, gallery=batch)
    with pytest.raises(ValueError, match="gallery and gallery_labels belong together"):
        retrieval(batch, labels, gallery_labels=labels)
    with pytest.raises(ValueError, match=r"queries have dimension 3 and gallery has 2"):
        retrieval(batch, labels, gallery=batch[:, :2], gallery_labels=labels)
    with pytest.raises(TypeError, match="labels must be an array of integers, got float32"):
        retrieval(batch, labels.astype(np.float32))
    with pytest.raises(ValueError, match=r"labels must be one for each of the 9 rows of .* shape \[9, 1\]"):
        retrieval(batch, labels[:, None])
    with pytest.raises(ValueError, match=r"labels must be one for each of the 9 rows of .* shape \[5\]"):
        retrieval(batch, labels[:5])
    with pytest.raises(TypeError, match="embeddings must be floating"):
        retrieval(batch.astype(int), labels)
    with pytest.raises(ValueError, match=r"embeddings must be \[rows, dim\]"):
        retrieval(batch[0], labels, ks=(1,))
    with pytest.raises(ValueError, match="at least one row"):
        retrieval(batch[:0], labels[:0])
    far = batch.copy()
    far[4] = [3e19, 0, 0]
    for gallery, name in ((far, "gallery"), ([batch, far], "gallery part 1")):
        with pytest.raises(ValueError, match=f"^{name} are so large in row 4 that their squared_euclidean"):
            retrieval(
                batch,
                labels,
                gallery=gallery,
                gallery_labels=np.resize(labels, 9 * (1 + (gallery is not far))),
            )
    parts = {"gallery": [batch[:0], batch, far], "gallery_labels": np.resize(labels, 18)}
    with pytest.raises(ValueError, match=r"^gallery part 2 are so large in row 4"):
        retrieval(batch, labels, **parts)
    with pytest.raises(ValueError, match=r"^embeddings are so large in row 4"):
        retrieval(far, labels)
    with pytest.raises(TypeError, match="distance must be"):
        retrieval(batch, labels, distance="cosine")
    with pytest.raises(ValueError, match=r"distance must be a distance .* got cosine_similarity"):
        retrieval(batch, labels, distance=mj.cosine_similarity)
    with pytest.raises(ValueError, match=r"labels must be \[queries\], got shape \[\]"):
        retrieval(batch, np.int64(3), where=[True] * 9)
    with pytest.raises(ValueError, match="tile must be"):
        retrieval(batch, labels, tile=0)


def test_wrong_types_are_named():
    batch, labels = labelled(6, 2)
    with pytest.raises(TypeError, match="ks must be a sequence of integers, got 1"):
        retrieval(batch, labels, ks=1)
    with pytest.raises(TypeError, match=r"ks must be a sequence of integers, got \(1.5,\)"):
        retrieval(batch, labels, ks=(1.5,))
    with pytest.raises(ValueError, match="gallery_labels must be one for each of the 6 items"):
        retrieval(batch, labels, gallery=batch, gallery_labels=labels[:2])
    with pytest.raises(TypeError, match=r"mesh must be a jax\.sharding\.Mesh, got 4"):
        retrieval(batch, labels, ks=(1,), mesh=4)
    with pytest.raises(TypeError, match="labels must be an array of integers, got <U1"):
        retrieval(batch, list("abcabc"))
    expected = retrieval(batch, labels, ks=(1, 2, 4))
    assert retrieval(batch.tolist(), labels.tolist(), ks=np.array([1, 2, 4])) == expected


@pytest.mark.parametrize("count", [7, 250, 400])
def test_the_smallest_are_those_of_a_whole_sort(count):
    """By insertion or by sorting, of scores of either sign, that tie, and that are of no item."""
    values = np.random.default_rng(count).integers(-99, 99, (300, 5)).astype(np.float32) / 7
    values[::9], values[3] = np.inf, -0.0
    expected = np.sort(np.concatenate([values, np.full((100, 5), np.inf, np.float32)]), axis=0)[:count]
    np.testing.assert_array_equal(ranks._smallest(jnp.asarray(values), count), expected)
