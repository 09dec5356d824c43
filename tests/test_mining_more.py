"""Miners beyond batch-hard: what they choose by hand, options, what a loss makes of it, random draws, bad input."""

import functools
import math

import jax
import numpy as np
import pytest
import references
import references_mining
from catalogue import MINERS, uniform
from subjects import LABELS, Miner, N
from suite import assert_close, assert_same_triplets, every, random_rows

import metric_jax as mj

# Anchor 0 has positives at 1 and 3, negatives at 2 and 4.5.
LINE = np.array([[0.0], [1.0], [3.0], [2.0], [4.5]], np.float32)
LINE_LABELS = np.array([0, 0, 0, 1, 1])


def first(mined):
    """What was mined for anchor 0, as tuples."""
    columns = [np.asarray(column)[0].reshape(-1) for column in mined]
    return [tuple(int(x) for x in row[1:-1]) for row in zip(*columns, strict=True) if row[-1]]


EASY_HARD_BY_HAND = [
    ({"positive": "easy", "negative": "hard"}, [(1, 3)]),
    ({"positive": "hard", "negative": "easy"}, [(2, 4)]),
    ({"positive": "hard", "negative": "semi_hard"}, [(2, 4)]),
    ({"positive": "easy", "negative": "semi_hard"}, [(1, 3)]),
    ({"positive": "semi_hard", "negative": "hard"}, [(1, 3)]),
    ({"positive": "semi_hard", "negative": "easy"}, [(2, 4)]),
    ({"positive": "hard", "negative": "hard", "negative_ranks": (1, None)}, [(2, 4)]),
    ({"positive": "hard", "negative": "hard", "positive_ranks": (1, 2)}, [(1, 3)]),
    ({"positive": "hard", "negative": "easy", "negative_ranks": (0, 1)}, [(2, 3)]),
    ({"positive": "hard", "negative": "hard", "negative_ranks": (2, None)}, []),
    ({"positive": "hard", "negative": "hard", "positive_range": (0.0, 2.5)}, [(1, 3)]),
    ({"positive": "hard", "negative": "hard", "negative_range": (2.0, 4.0)}, [(2, 3)]),
    ({"positive": "hard", "negative": "hard", "negative_range": (2.5, 4.0)}, []),
    # ranks count from the hardest of those in range
    (
        {"positive": "hard", "positive_range": (0, 2.5), "positive_ranks": (0, 1), "negative": "hard"},
        [(1, 3)],
    ),
]


@pytest.mark.parametrize(("own", "expected"), EASY_HARD_BY_HAND, ids=range(len(EASY_HARD_BY_HAND)))
def test_easy_hard_by_hand(own, expected):
    assert first(mj.mining.batch_easy_hard(LINE, LINE_LABELS, **own)) == expected


@pytest.mark.parametrize("positive", ["easy", "semi_hard", "hard"])
@pytest.mark.parametrize("negative", ["easy", "semi_hard", "hard"])
@pytest.mark.parametrize("ranks", [(0, None), (1, None), (0, 2), (1, 3)])
def test_easy_hard_strategies(positive, negative, ranks):
    if positive == negative == "semi_hard":
        return
    own = {"positive": positive, "negative": negative, "negative_ranks": ranks, "positive_ranks": ranks}
    labels = np.arange(N) % 2
    miner = Miner("", mj.mining.batch_easy_hard, references_mining.batch_easy_hard, own)
    assert_same_triplets(miner(random_rows(), labels), miner.expected(random_rows(), labels))


def test_easy_hard_of_the_hardest_is_batch_hard():
    mined = mj.mining.batch_easy_hard(random_rows(), LABELS, positive="hard", negative="hard")
    assert_same_triplets(mined, mj.mining.batch_hard(random_rows(), LABELS))


def test_a_skipped_rank_does_not_skip_nan():
    rows = random_rows()
    rows[5] = np.nan
    mined = mj.mining.batch_easy_hard(
        rows, LABELS, positive="hard", negative="hard", negative_ranks=(3, None)
    )
    assert mined.negative[1] == 5


@pytest.mark.parametrize(
    ("kind", "expected"),
    # gaps d(a, n) - d(a, p): (1, 3): 1, (1, 4): 3.5, (2, 3): -1, (2, 4): 1.5
    [
        ("all", [(2, 3), (1, 3), (2, 4)]),
        ("hard", [(2, 3)]),
        ("semi_hard", [(1, 3), (2, 4)]),
        ("easy", [(1, 4)]),
    ],
)
def test_triplet_margin_by_hand(kind, expected):
    mined = functools.partial(mj.mining.triplet_margin, LINE, LINE_LABELS, margin=2.0, kind=kind)
    assert first(mined()) == expected
    assert first(mined(max_triplets=1)) == expected[:1]
    assert first(mined(max_triplets=100)) == expected


def test_angular_by_hand():
    # a, p at (±1, 0): from (0, y) the angle's tangent is 1 / y
    rows = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 0.5], [0.0, 1.0]], np.float32)
    labels = np.array([0, 0, 1, 2, 3])
    assert first(mj.mining.angular(rows, labels, angle=math.atan(1.0) - 0.01)) == [(1, 3), (1, 4)]
    assert first(mj.mining.angular(rows, labels, angle=math.atan(1.0) + 0.01)) == [(1, 3)]
    assert first(mj.mining.angular(rows, labels, angle=math.atan(1 / 3) - 0.01)) == [(1, 3), (1, 4), (1, 2)]


def test_a_negative_at_the_center_sees_a_right_angle():
    rows = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]], np.float32)
    assert first(mj.mining.angular(rows, np.array([0, 0, 1]), angle=math.pi / 2 - 0.01)) == [(1, 2)]


@pytest.mark.parametrize("name", ["angular", "distance_weighted"])
def test_only_where_geometry_is_euclidean(name):
    own = {"key": jax.random.key(0)} if name == "distance_weighted" else {}
    with pytest.raises(ValueError, match=f"{name} is about Euclidean geometry.*got manhattan"):
        getattr(mj.mining, name)(random_rows(), LABELS, distance=mj.manhattan, **own)


def test_pair_margin_by_hand():
    mined = functools.partial(
        mj.mining.pair_margin, LINE, LINE_LABELS, positive_margin=0.5, negative_margin=5.0
    )
    assert first(mined()) == [(1, True), (2, True), (3, False), (4, False)]
    assert first(mined(max_positives=1, max_negatives=1)) == [(2, True), (3, False)]  # the hardest of each
    assert first(mined(positive_margin=1.0, negative_margin=2.0)) == [(2, True)]  # neither margin is included


def test_multi_similarity_by_hand():
    # positives at 1 and 3, negatives at 2 and 4.5
    mined = functools.partial(mj.mining.multi_similarity, LINE, LINE_LABELS, distance=mj.euclidean)
    assert first(mined(epsilon=0.1)) == [(2, True), (3, False)]
    assert first(mined(epsilon=1.1)) == [(1, True), (2, True), (3, False)]
    assert first(mined(epsilon=1.6)) == [(1, True), (2, True), (3, False), (4, False)]
    assert first(mined(epsilon=-1.0)) == []


@pytest.mark.parametrize(("max_positives", "max_negatives"), [(1, 1), (2, None), (None, 3), (N + 3, N + 3)])
@pytest.mark.parametrize("name", ["pair_margin", "multi_similarity"])
def test_pair_slots(name, max_positives, max_negatives):
    own = {"max_positives": max_positives, "max_negatives": max_negatives}
    miner = Miner("", getattr(mj.mining, name), getattr(references_mining, name), own)
    labels = np.arange(N) % 2
    assert_same_triplets(miner(random_rows(), labels), miner.expected(random_rows(), labels))


# A loss of what was mined.

PAIR_LOSSES = {
    "contrastive": (mj.batch_contrastive_loss, references.contrastive),
    "batch_all": (mj.batch_all_triplet_loss, references.batch_all),
}


def loss_of_pairs(terms_of, rows, mined):
    """A reference loss whose only pairs are the mined ones."""
    anchor, reference, is_positive, valid = (
        np.asarray(column) for column in mj.pairs.as_pairs(mined, "mined")
    )
    masks = np.zeros((2, N, N), bool)
    for a, r, same in zip(anchor[valid], reference[valid], is_positive[valid], strict=True):
        masks[int(same), a, r] = True
    terms = [
        terms_of(references.euclidean(row[None], rows), masks[1, i], masks[0, i])
        for i, row in enumerate(rows)
    ]
    return references.reduced(terms, "mean")


@pytest.mark.parametrize("name", PAIR_LOSSES)
@every("miner", MINERS)
def test_loss_of_what_was_mined(miner, name, x64):
    loss, terms_of = PAIR_LOSSES[name]
    rows = random_rows(11).astype(np.float64)

    def mine_and_measure(embeddings):
        return loss(embeddings, None, pairs=miner(embeddings, LABELS))

    value, gradient = jax.jit(jax.value_and_grad(mine_and_measure))(rows)
    mined = miner(rows, LABELS)  # held fixed: choosing is not differentiated
    assert_close(value, loss_of_pairs(terms_of, rows, mined), 1e-10)
    assert_close(
        gradient, references.central_differences(lambda e: loss_of_pairs(terms_of, e, mined), rows), 1e-7
    )


def test_triplets_of_another_batch_are_mined_in_references():
    memory, memory_labels = random_rows(1, n=5), np.array([0, 1, 2, 1, 0])
    others = {"references": memory, "reference_labels": memory_labels}
    mined = mj.mining.triplet_margin(random_rows(), LABELS, max_triplets=3, **others)
    loss = jax.jit(functools.partial(mj.batch_contrastive_loss, labels=None, margin=2.0))
    assert np.isfinite(loss(random_rows(), pairs=mined, references=memory))
    assert set(np.asarray(mined.positive)[np.asarray(mined.valid)]) <= set(range(5))


# Random miners.


def unit_rows(n, dim, seed=0):
    rows = np.random.default_rng(seed).normal(size=(n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_a_distance_weighted_draw_has_the_papers_probabilities():
    # anchor 0 and its positive, and three negatives on the circle; n = 2: q(d) ∝ (1 - d²/4)^(-1/2)
    angles = np.array([0.0, 0.1, 0.3, 0.8, 1.3, 2.0])
    rows = np.stack([np.cos(angles), np.sin(angles), np.zeros(6), np.zeros(6)], axis=1).astype(np.float32)
    labels = np.array([0, 0, 1, 2, 3, 4])
    keys = jax.random.split(jax.random.key(3), 4000)
    drawn = jax.jit(
        jax.vmap(
            lambda key: mj.mining.distance_weighted(rows, labels, key=key, max_positives=1).negative[0, 0]
        )
    )(keys)
    d = np.maximum(2 * np.sin(angles / 2), 0.5)[2:]
    weights = d ** (2 - 4) * (1 - d**2 / 4) ** (-(4 - 3) / 2) * (d < 1.4)
    assert weights[-1] == 0  # the last is too far to be drawn
    frequencies = np.bincount(np.asarray(drawn), minlength=6)[2:] / len(keys)
    np.testing.assert_allclose(frequencies, weights / weights.sum(), atol=0.03)


@pytest.mark.parametrize("cutoffs", [(0.5, 1.4), (1e-6, 3.0)])
def test_distance_weighted_in_512_dimensions_and_at_every_distance(cutoffs):
    rows = unit_rows(64, 512)
    rows[1] = -rows[0]  # at 2
    rows[2] = rows[0]  # at 0
    labels = np.r_[5, 6, 7, np.arange(61) % 4]
    labels[3] = 5
    mined = mj.mining.distance_weighted(
        rows,
        labels,
        key=jax.random.key(0),
        cutoff=cutoffs[0],
        nonzero_loss_cutoff=cutoffs[1],
        max_positives=1,
    )
    # far fewer rows are at 0 and at 2 than at √2, so these are drawn
    assert mined.valid[0, 0]
    assert mined.negative[0, 0] == 2 if cutoffs[0] == 0.5 else mined.negative[0, 0] in (1, 2)
    assert (labels[mined.negative[:, 0]] != labels)[mined.valid[:, 0]].all()


def test_without_a_negative_near_enough_nothing_is_drawn():
    rows = np.array([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]], np.float32)
    mined = mj.mining.distance_weighted(rows, np.array([0, 0, 1]), key=jax.random.key(0))
    assert not mined.valid.any()


RANDOM = [miner for miner in MINERS if miner.is_random]


@every("miner", RANDOM)
def test_another_key_is_another_draw(miner):
    rows, labels = unit_rows(40, 3), np.arange(40) % 4
    draws = [miner.function(rows, labels, key=jax.random.key(seed))[2] for seed in (0, 0, 1)]
    draws += [miner.function(rows, labels, key=jax.random.PRNGKey(0))[2]]
    if miner.name == "uniform_histogram":
        draws = [miner.function(rows, labels, key=jax.random.key(seed)).reference for seed in (0, 0, 1, 0)]
    np.testing.assert_array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[0], draws[3])
    assert (np.asarray(draws[0]) != np.asarray(draws[2])).any()


@every("miner", RANDOM)
def test_a_key_is_asked_for(miner):
    with pytest.raises(TypeError, match=r"missing a required argument: 'key'; it takes embeddings"):
        miner.function(random_rows(), LABELS)
    for wrong in (0, jax.random.split(jax.random.key(0)), jax.random.key_data(jax.random.key(0))[:1]):
        with pytest.raises(
            TypeError, match=r"key must be one jax\.random\.key, got .* pass jax\.random\.key\(0\)"
        ):
            miner.function(random_rows(), LABELS, key=wrong)


def test_uniform_histogram_covers_the_range():
    # one far positive among many near ones: a uniform draw over the pairs would rarely find it
    rows = np.concatenate([[0.0], np.linspace(1.0, 1.1, 30), [9.0]]).astype(np.float32)[:, None]
    mined = mj.mining.uniform_histogram(rows, np.zeros(32, int), key=jax.random.key(0), bins=4)
    drawn = first(mined)
    assert len(drawn) == 2  # of the four bins two hold anything
    assert drawn[-1] == (31, True)


def test_uniform_histogram_draws_no_reference_twice():
    rows, labels = random_rows(2, n=30), np.arange(30) % 2
    mined = mj.mining.uniform_histogram(
        rows, labels, key=jax.random.key(0), bins=2, positives_per_bin=20, negatives_per_bin=3
    )
    for reference, valid in zip(np.asarray(mined.reference), np.asarray(mined.valid), strict=True):
        assert len(set(reference[valid])) == valid.sum()
        assert valid[:40].sum() == 14  # all positives are there, as no bin overflows


@pytest.mark.parametrize("per_bin", [1, 4, N, N + 5])
def test_uniform_histogram_slots(per_bin):
    own = {"key": jax.random.key(0), "bins": 2, "positives_per_bin": per_bin, "negatives_per_bin": per_bin}
    reference = functools.partial(references_mining.uniform_histogram, noise=uniform)
    miner = Miner("", mj.mining.uniform_histogram, reference, own)
    labels = np.arange(N) % 2
    assert_same_triplets(miner(random_rows(), labels), miner.expected(random_rows(), labels))


# Bad input.


@pytest.mark.parametrize(
    ("name", "own", "message"),
    [
        ("batch_easy_hard", {"positive": "hardest"}, "positive must be one of easy, semi_hard, hard, got"),
        ("batch_easy_hard", {"positive": "semi_hard"}, "cannot both be semi_hard"),
        ("batch_easy_hard", {"negative_ranks": (2, 2)}, r"negative_ranks must be .* got \(2, 2\)"),
        ("batch_easy_hard", {"positive_ranks": (-1, None)}, "positive_ranks must be"),
        ("batch_easy_hard", {"positive_ranks": None}, r"positive_ranks must be .*, got None"),
        (
            "batch_easy_hard",
            {"negative_ranks": (0.5, None)},
            r"negative_ranks must be .*, got \(0\.5, None\)",
        ),
        (
            "batch_easy_hard",
            {"positive_range": (0,)},
            r"positive_range must be \(least, most\), two distances",
        ),
        ("batch_easy_hard", {"positive_range": (np.nan, 1.0)}, r"positive_range must be .*, got \(nan, 1\.0"),
        ("batch_easy_hard", {"negative_range": (2.0, 1.0)}, r"negative_range must be .*, got \(2\.0, 1\.0"),
        ("batch_easy_hard", {"negative_range": (None, 1.0)}, r"negative_range must be .*, got \(None"),
        ("triplet_margin", {"kind": "semihard"}, "kind must be one of all, hard, semi_hard, easy, got 'semi"),
        ("triplet_margin", {"max_triplets": 0}, "max_triplets must be at least 1 or None, got 0"),
        ("angular", {"angle": 20.0}, r"angular: angle must be in \[0, 1.5708\], got 20"),
        ("angular", {"max_triplets": -1}, "max_triplets must be at least 1"),
        ("pair_margin", {"max_positives": 0}, "max_positives must be at least 1"),
        ("multi_similarity", {"max_negatives": 0}, "max_negatives must be at least 1"),
        ("distance_weighted", {"key": 0, "cutoff": 0.0}, "cutoff must be positive, got 0"),
        ("uniform_histogram", {"key": jax.random.key(0), "bins": 0}, "bins must be at least 1"),
    ],
)
def test_bad_options(name, own, message):
    with pytest.raises(ValueError, match=message):
        getattr(mj.mining, name)(random_rows(), LABELS, **own)


# Memory.


@pytest.mark.parametrize(
    "name", ["triplet_margin", "batch_easy_hard", "angular", "multi_similarity", "distance_weighted"]
)
def test_memory_is_linear_in_the_batch(name):
    """No array of batch² distances, and none of an anchor's positives times its negatives."""
    own = {
        "triplet_margin": {"max_triplets": 8},
        "angular": {"max_triplets": 8},
        "batch_easy_hard": {"negative_ranks": (2, None)},
        "multi_similarity": {"max_positives": 8, "max_negatives": 8},
        "distance_weighted": {"max_positives": 8, "key": jax.random.key(0)},
    }[name]
    batch = 8192

    def mine(embeddings, labels):
        return getattr(mj.mining, name)(embeddings, labels, **own)

    shapes = jax.ShapeDtypeStruct((batch, 16), np.float32), jax.ShapeDtypeStruct((batch,), np.int32)
    temporary = jax.jit(mine).lower(*shapes).compile().memory_analysis().temp_size_in_bytes
    assert temporary < batch * batch  # a quarter of the square of float32 distances
