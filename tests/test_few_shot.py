"""Few-shot episodes: that they are drawn fairly, and scored as loops score them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import references_evaluation
from subjects import DISTANCES

import metric_jax as mj
from metric_jax.evaluation.few_shot import _draw, _members, _right, centred_on, few_shot

KEY = jax.random.key(3)
LABELS = np.random.default_rng(0).permutation(np.repeat([5, -1, 8, 2, 3], [4, 6, 9, 5, 4]))
ROWS = np.random.default_rng(1).normal(size=(len(LABELS), 3)).astype(np.float32) + LABELS[:, None] / 4
SMALLEST = 4
HALVES = np.zeros_like(LABELS)  # two groups, of which each class has as many, or one more of the second
for label in np.unique(LABELS):
    HALVES[np.flatnonzero(label == LABELS)[::2]] = 1


def episodes(key, number, ways, shots, queries, groups=None):
    """The rows of the episodes that the key draws, ``[episodes, ways, shots + queries]``."""
    class_of = np.unique(LABELS, return_inverse=True)[1]
    members, sizes = _members(class_of, np.zeros_like(class_of) if groups is None else groups)
    draw = jax.jit(jax.vmap(lambda key: _draw(key, members, jnp.asarray(sizes), ways, shots, queries)))
    return np.asarray(draw(jax.random.split(key, number)))


@pytest.mark.parametrize("method", ["prototype", "nearest"])
@pytest.mark.parametrize(
    ("distance", "ways", "shots", "queries", "centred", "groups"),
    [
        (mj.euclidean, 3, 2, 1, False, None),
        (mj.manhattan, 5, 1, None, False, None),
        (mj.cosine, 3, 2, 2, False, None),
        (mj.euclidean, 3, 2, 2, True, None),
        (mj.manhattan, 3, 2, None, False, HALVES),
        (mj.cosine, 4, 1, None, True, HALVES),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_accuracy_is_that_of_loops(method, distance, ways, shots, queries, centred, groups):
    options = {"ways": ways, "shots": shots, "queries": queries, "method": method, "distance": distance}
    found = few_shot(ROWS, LABELS, episodes=12, key=KEY, centred=centred, groups=groups, **options)
    left = SMALLEST - shots if groups is None else SMALLEST // 2
    drawn = episodes(KEY, 12, ways, shots, queries or left, groups)
    score = references.DISTANCES[distance.name]
    accuracies = [
        references_evaluation.few_shot(ROWS.astype(float), episode, shots, method, score, centred)
        for episode in drawn
    ]
    assert 0.2 < np.mean(accuracies) < 1.0
    half = 1.959964 * np.std(accuracies, ddof=1) / np.sqrt(12)
    assert found == pytest.approx(
        {
            "accuracy": np.mean(accuracies),
            "accuracy_low": np.mean(accuracies) - half,
            "accuracy_high": np.mean(accuracies) + half,
            "episodes": 12,
        },
        rel=1e-6,
    )


@pytest.mark.parametrize(("shots", "queries", "different"), [(2, 1, 4), (1, 2, 4), (1, 1, 8)])
def test_as_many_of_either_group_as_are_asked_for(shots, queries, different):
    drawn = episodes(KEY, 400, 3, shots, queries, HALVES)
    of = HALVES[drawn]
    assert (of[..., :shots] == of[:, :1, :1]).all()
    assert (of[..., shots:] == 1 - of[:, :1, :1]).all()
    assert all(len(set(row)) == shots + queries for episode in drawn for row in episode)
    # What is shown says nothing of what is asked: of two images in each half, all that there can be comes up.
    of_three = drawn[LABELS[drawn[..., 0]] == 3]
    assert len(np.unique(np.sort(of_three[:, :shots], axis=1), axis=0)) == (4 if shots == 1 else 2)
    pairs = np.concatenate(
        [np.sort(of_three[:, :shots], axis=1), np.sort(of_three[:, shots:], axis=1)], axis=1
    )
    assert len(np.unique(pairs, axis=0)) == different


def test_support_and_queries_are_of_two_groups():
    """Each pair of groups equally often, in either order, and each image of a class in a group."""
    number, groups = 3000, np.random.default_rng(5).permutation(np.arange(len(LABELS)) % 3)
    for label in np.unique(LABELS):
        groups[np.flatnonzero(label == LABELS)[:3]] = np.arange(3)
    drawn = episodes(KEY, number, 3, 1, 1, groups)
    assert (LABELS[drawn] == LABELS[drawn][:, :, :1]).all()
    of = groups[drawn]
    assert (of == of[:, :1]).all()
    for shown in range(3):
        for asked in range(3):
            share = ((of[:, 0, 0] == shown) & (of[:, 0, 1] == asked)).mean()
            p = 0.0 if shown == asked else 1 / 6
            assert abs(share - p) <= 4.5 * np.sqrt(p * (1 - p) / number)
    for row in range(len(LABELS)):
        p = 1 / np.sum((LABELS[row] == LABELS) & (groups == groups[row]))
        for place in range(2):
            there = drawn[..., place][
                (LABELS[drawn[..., place]] == LABELS[row]) & (of[..., place] == groups[row])
            ]
            assert abs((there == row).mean() - p) <= 4.5 * np.sqrt(p * (1 - p) / len(there))


def test_episodes_are_drawn_fairly():
    number, ways, images = 4000, 3, 4
    drawn = episodes(KEY, number, ways, 1, images - 1)
    classes = LABELS[drawn]
    assert (classes == classes[:, :, :1]).all()
    assert all(len(set(episode[:, 0])) == ways for episode in classes)
    assert all(len(set(row)) == images for episode in drawn for row in episode)
    # Each class in each way, and each image of a class in each place, equally often.
    for label in np.unique(LABELS):
        for way in range(ways):
            assert abs((classes[:, way, 0] == label).mean() - 1 / 5) < 4.5 * np.sqrt(0.16 / number)
        of_class = drawn[classes[:, :, 0] == label]
        rows = np.flatnonzero(label == LABELS)
        for place in range(images):
            for row in rows:
                p = 1 / len(rows)
                share = (of_class[:, place] == row).mean()
                assert abs(share - p) < 4.5 * np.sqrt(p * (1 - p) / len(of_class))


def test_a_tie_with_another_class_is_wrong():
    """So constant embeddings score 0, in any order of the classes; but a tie within the own class is no tie."""
    options = {"ways": 3, "shots": 2, "episodes": 5, "key": KEY}
    for method in ("prototype", "nearest"):
        for distance in DISTANCES:
            constant = np.full(ROWS.shape, 0.1, np.float32)
            found = few_shot(constant, LABELS, method=method, distance=distance, **options)
            assert (found["accuracy"], found["accuracy_low"], found["accuracy_high"]) == (0.0, 0.0, 0.0)
        points = np.eye(9, dtype=np.float32)[LABELS]
        assert few_shot(points, LABELS, method=method, **options)["accuracy"] == 1.0


def test_what_all_rows_share_is_gone_once_they_are_centred():
    far = few_shot(ROWS + 50, LABELS, ways=3, shots=2, episodes=20, key=KEY, centred=True)
    assert far == few_shot(ROWS, LABELS, ways=3, shots=2, episodes=20, key=KEY, centred=True)
    support, rows = ROWS[:6].reshape(3, 2, 3), ROWS[6:].reshape(2, 11, 3)
    found = centred_on(support, rows)
    for row, expected in zip(found.reshape(-1, 3), rows.reshape(-1, 3).astype(float), strict=True):
        shown = support.reshape(-1, 3).astype(float)
        np.testing.assert_allclose(row, references_evaluation.centred_on(shown, expected), atol=1e-6)
    constant = np.full(ROWS.shape, 0.1, np.float32)
    np.testing.assert_array_equal(centred_on(constant[:7], constant), 0)
    assert few_shot(constant, LABELS, ways=3, shots=2, episodes=5, key=KEY, centred=True)["accuracy"] == 0
    with pytest.raises(TypeError, match="support must be floating, got int32"):
        centred_on(np.zeros((2, 3), np.int32), ROWS)
    with pytest.raises(ValueError, match="support has dimension 2 and embeddings has 3: they must agree"):
        centred_on(ROWS[:, :2], ROWS)


def test_meaningless_embeddings_are_right_by_chance():
    labels = np.arange(200) // 10
    rows = np.random.default_rng(0).normal(size=(200, 8))
    found = few_shot(rows, labels, ways=4, shots=3, episodes=400, key=KEY)
    assert found["accuracy_low"] < 0.25 + 0.01
    assert found["accuracy_high"] > 0.25 - 0.01
    wide = few_shot(rows, labels, ways=4, shots=3, episodes=400, key=KEY, level=0.99)
    assert wide["accuracy_high"] - wide["accuracy_low"] == pytest.approx(
        (found["accuracy_high"] - found["accuracy_low"]) * 2.575829 / 1.959964, rel=1e-5
    )


def test_one_shot_is_the_same_by_either_method_and_a_key_gives_the_same_episodes():
    options = {"ways": 3, "shots": 1, "episodes": 10}
    found = few_shot(ROWS, LABELS, key=KEY, **options)
    assert few_shot(ROWS, LABELS, key=KEY, method="nearest", **options) == found
    assert few_shot(ROWS, LABELS, key=jax.random.key(4), **options) != found
    assert few_shot(ROWS, LABELS, key=KEY, queries=SMALLEST - 1, **options) == found
    half = jnp.asarray(ROWS, jnp.bfloat16)
    upcast = np.asarray(half, np.float32)
    assert few_shot(half, jnp.asarray(LABELS), key=KEY, **options) == few_shot(
        upcast, LABELS, key=KEY, **options
    )


def test_a_second_call_compiles_nothing(compilations):
    options = {"ways": 3, "shots": 1, "episodes": 10}
    few_shot(ROWS, LABELS, key=KEY, **options)
    before = compilations()
    few_shot(ROWS[::-1], LABELS[::-1], key=jax.random.key(8), **options)
    assert compilations() == before


@pytest.mark.parametrize("distance", [mj.cosine, mj.manhattan], ids=lambda d: d.name)
def test_queries_beyond_a_tile_are_sorted_alike(monkeypatch, distance):
    options = {"ways": 3, "shots": 2, "queries": 2, "method": "nearest", "distance": distance}
    expected = few_shot(ROWS, LABELS, episodes=12, key=KEY, **options)
    monkeypatch.setitem(few_shot.__globals__, "tile_size", lambda *_: 4)  # of six queries
    _right.clear_cache()
    assert few_shot(ROWS, LABELS, episodes=12, key=KEY, **options) == expected
    _right.clear_cache()


def test_memory_is_that_of_a_few_queries():
    """Of 10 classes with 995 queries each, in 256 dimensions: their differences alone are 500 million numbers."""
    shapes = ((10_000, 256), jnp.float32), ((10, 1, 1000), jnp.int32), ((10, 1), jnp.int32)
    arrays = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    options = {"ways": 10, "shots": 5, "queries": 995, "method": "nearest", "centred": False}
    lowered = _right.lower(jax.random.split(KEY, 4), *arrays, distance=mj.cosine, **options)
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 100e6


def test_refuses():
    good = {"ways": 3, "shots": 1, "episodes": 10, "key": KEY}
    with pytest.raises(
        ValueError, match=r"4 shots and 1 queries need 5 images a class, and class 3 has 4 \(2 such classes\)"
    ):
        few_shot(ROWS, LABELS, **{**good, "shots": 4})
    with pytest.raises(ValueError, match="1 shots and 4 queries need 5 images a class"):
        few_shot(ROWS, LABELS, **good, queries=4)
    with pytest.raises(
        ValueError, match="6 ways need as many classes, and labels name 5: ask for fewer ways"
    ):
        few_shot(ROWS, LABELS, **{**good, "ways": 6})
    for name, least in (("ways", 2), ("shots", 1), ("episodes", 2), ("queries", 1)):
        for value in (least - 1, 1.5, True):
            with pytest.raises(
                ValueError, match=f"{name} must be an integer of at least {least}, got {value}"
            ):
                few_shot(ROWS, LABELS, **{**good, name: value})
    with pytest.raises(ValueError, match="method must be one of prototype, nearest, got 'knn'"):
        few_shot(ROWS, LABELS, method="knn", **good)
    for key in (0, np.zeros(2, np.uint32), jnp.zeros(2)):
        with pytest.raises(
            TypeError, match=r"key must be a jax\.random\.key, got .*: pass jax\.random\.key\(0\)"
        ):
            few_shot(ROWS, LABELS, **{**good, "key": key})
    with pytest.raises(ValueError, match=r"key must be one jax\.random\.key, got shape \[2\]: pass one"):
        few_shot(ROWS, LABELS, **{**good, "key": jax.random.split(KEY)})
    with pytest.raises(ValueError, match=r"support must have at least one row, got shape \[0, 3\]"):
        centred_on(jnp.zeros((0, 3)), jnp.ones((1, 3)))
    with pytest.raises(ValueError, match="level must be a number between 0 and 1"):
        few_shot(ROWS, LABELS, level=95, **good)
    with pytest.raises(
        ValueError, match=r"labels must be one for each of the 28 rows of embeddings, got shape \[27\]"
    ):
        few_shot(ROWS, LABELS[1:], **good)
    with pytest.raises(TypeError, match="labels must be an array of integers, got float64"):
        few_shot(ROWS, LABELS + 0.5, **good)
    with pytest.raises(
        ValueError, match=r"groups must be one for each of the 28 rows of embeddings, got shape \[27\]"
    ):
        few_shot(ROWS, LABELS, groups=HALVES[1:], **good)
    with pytest.raises(
        ValueError, match="groups are all 7, and queries are to be of another than the support"
    ):
        few_shot(ROWS, LABELS, groups=np.full_like(LABELS, 7), **good)
    with pytest.raises(
        ValueError,
        match=r"class 3 has images of 1 groups of 2. \(5 such classes\), .*: leave out these classes",
    ):
        few_shot(ROWS, LABELS, groups=np.where(LABELS == 3, 0, np.arange(28)), **good)
    with pytest.raises(
        ValueError,
        match=r"need 3 images a class in every group, and class 2 has 2 in one \(3 such classes\): leave",
    ):
        few_shot(ROWS, LABELS, groups=HALVES, **{**good, "shots": 3})
    with pytest.raises(ValueError, match="distance must be a distance"):
        few_shot(ROWS, LABELS, distance=mj.dot_product, **good)
    broken = ROWS.copy()
    broken[[4, 6], 0] = np.inf
    with pytest.raises(ValueError, match=r"embeddings hold NaN or infinity in row 4 \(2 rows in all\)"):
        few_shot(broken, LABELS, **good)
    with pytest.raises(
        ValueError, match="embeddings are so large in row 0 that their euclidean distances are infinite"
    ):
        few_shot(np.float32(1e30) * ROWS, LABELS, **good)
