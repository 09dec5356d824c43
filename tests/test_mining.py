"""Miners against the reference loops: indices, slots, options; and the search for a minimum that they share."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from catalogue import MINERS
from subjects import DIM, LABELS, Miner, N
from suite import assert_same_triplets, every, every_miner, random_rows, tied_rows

import metric_jax as mj
from metric_jax.mining import ARGMIN_BLOCK, first_argmax, first_argmin

every_miner_and_measure = pytest.mark.parametrize(
    ("miner", "distance"),
    [
        pytest.param(miner, distance, id=f"{miner.name}-{distance.name}")
        for miner in MINERS
        for distance in miner.measures
    ],
)


@pytest.mark.parametrize("seed", range(3))
@every_miner_and_measure
def test_against_the_reference(miner, distance, seed):
    labels = np.random.default_rng(seed).integers(0, 4, N)
    mined = miner(random_rows(seed), labels, distance=distance)
    assert_same_triplets(mined, miner.expected(random_rows(seed), labels, distance=distance))


@every("miner", MINERS[:3])
def test_ties_in_rows_longer_than_a_block(miner):
    rows, labels = tied_rows(2 * ARGMIN_BLOCK + 45, classes=7)
    assert_same_triplets(miner(rows, labels), miner.expected(rows, labels))


@every_miner
def test_what_is_mined_is_of_its_kind(miner):
    mined = miner(random_rows(), LABELS)
    assert isinstance(mined, mj.Triplets | mj.Pairs)
    assert len(jax.tree.leaves(mined)) == 4
    assert len({column.shape for column in mined}) == 1
    columns = {name: np.asarray(column) for name, column in mined._asdict().items()}
    anchor, valid = columns.pop("anchor"), columns.pop("valid")
    assert valid.any()
    assert valid.ndim in (1, 2)
    own_index = np.arange(N).reshape(-1, *[1] * (anchor.ndim - 1))
    np.testing.assert_array_equal(anchor, np.where(valid, own_index, 0))
    for column in columns.values():
        np.testing.assert_array_equal(column[~valid], 0)
    pairs = mj.pairs.as_pairs(mined, "mined")
    anchor, reference, is_positive, valid = (np.asarray(column) for column in pairs)
    np.testing.assert_array_equal(is_positive[valid], (LABELS[anchor] == LABELS[reference])[valid])
    assert (anchor != reference)[valid].all()


@every_miner
def test_columns_have_their_types_whatever_the_precision(miner, precision):
    mined = miner(random_rows().astype(precision.dtype), LABELS)
    third = np.int32 if isinstance(mined, mj.Triplets) else bool
    assert [column.dtype for column in mined] == [np.int32, np.int32, third, bool]


@every_miner
def test_references_masks_and_matches(miner):
    options = {
        "references": random_rows(1, n=5),
        "reference_labels": np.array([0, 1, 2, 1, 0]),
        "reference_where": np.array([True, True, True, True, False]),
        "where": np.arange(N) != 3,
        "match": lambda a, b: a % 2 == b % 2,
    }
    mined = miner(random_rows(), LABELS, **options)
    assert_same_triplets(mined, miner.expected(random_rows(), LABELS, **options))


@every_miner
def test_no_gradient_flows(miner):
    def gathered(embeddings):
        mined = miner(embeddings, LABELS)
        return jnp.sum(embeddings[mined[1]] * mined.valid[..., None])

    gradient = jax.grad(gathered)(random_rows())
    mined = miner(random_rows(), LABELS)
    hits = np.bincount(np.asarray(mined[1])[np.asarray(mined.valid)], minlength=N)
    np.testing.assert_allclose(gradient, np.tile(hits[:, None], DIM))


def test_semi_hard_by_hand():
    batch, labels = jnp.array([[0.0], [2.0], [1.0], [3.0], [4.0], [-2.0]]), jnp.array([0, 0, 0, 1, 1, 2])
    mined = mj.mining.batch_semi_hard(batch, labels, max_positives=2)
    # anchor 0: positives 1 (at 2) and 2 (at 1); negatives 3, 4, 5 at 3, 4, 2: 5 is as far as the first, not farther
    np.testing.assert_array_equal(mined.positive[0], [1, 2])
    np.testing.assert_array_equal(mined.negative[0], [3, 5])
    # anchor 5 has no positive; anchor 4's positive is at 1, and its nearest negative farther than that is 1, at 2
    assert not mined.valid[5].any()
    np.testing.assert_array_equal(mined.negative[4], [1, 0])
    np.testing.assert_array_equal(mined.valid[4], [True, False])


@pytest.mark.parametrize("max_positives", [1, 2, N, N + 3])
@pytest.mark.parametrize("labels", [LABELS, np.arange(N) % 2, np.zeros(N, int)], ids=["mixed", "two", "one"])
def test_semi_hard_slots(labels, max_positives):
    own = {"max_positives": max_positives}
    miner = Miner("", mj.mining.batch_semi_hard, references.mine_semi_hard, own)
    assert_same_triplets(miner(random_rows(), labels), miner.expected(random_rows(), labels))


def test_semi_hard_slots_must_be_positive():
    for slots in (0, -1):
        with pytest.raises(ValueError, match=f"max_positives must be at least 1 or None, got {slots}"):
            mj.mining.batch_semi_hard(random_rows(), LABELS, max_positives=slots)


def test_nan_is_mined_so_that_it_reaches_the_loss():
    batch = random_rows()
    batch[5] = np.nan
    assert mj.mining.batch_hard(batch, LABELS).positive[0] == 5
    assert mj.mining.batch_hard(batch, LABELS).negative[1] == 5
    assert mj.mining.batch_semi_hard(batch, LABELS).negative[1, 0] == 5


@every_miner
def test_nan_is_mined_by_every_anchor(miner):
    batch = random_rows()
    batch[5] = np.nan  # a positive of 0 and 2, a negative of the others
    pairs = mj.pairs.as_pairs(miner(batch, LABELS), "mined")
    anchor, reference, _, valid = (np.asarray(column) for column in pairs)
    others = {0, 1, 2, 3, 4, 7}  # which have both a positive and a negative
    assert set(anchor[valid & (reference == 5)]) >= others
    assert set(reference[valid & (anchor == 5)]) > {0}


def test_miners_are_listed():
    public = {name for name, thing in vars(mj.mining).items() if hasattr(thing, "__signature__")}
    assert {miner.function.__name__ for miner in MINERS} == public


# The search for a minimum, in rows of one block and of several.

SEARCHES = ((jax.jit(jax.vmap(first_argmin)), operator.lt), (jax.jit(jax.vmap(first_argmax)), operator.gt))
every_length = pytest.mark.parametrize(
    "length", [1, ARGMIN_BLOCK - 1, ARGMIN_BLOCK, ARGMIN_BLOCK + 1, 300, 1000]
)


def first_best(values, where, is_better):
    """By a loop: the first NaN that is selected, else the first of the best; ``len(values)`` if nothing is."""
    best = len(values)
    for i in np.flatnonzero(where):
        if np.isnan(values[i]):
            return i
        if best == len(values) or is_better(values[i], values[best]):
            best = i
    return best


def check_search(values, where):
    """Both searches in every row of ``values`` and ``where``, each ``[rows, length]``."""
    values = np.asarray(values, np.float32)
    for search, is_better in SEARCHES:
        expected = [first_best(*row, is_better) for row in zip(values, where, strict=True)]
        np.testing.assert_array_equal(search(values, where), expected)


def masks(length, generator):
    """Of every density, none and all among them."""
    return generator.random((12, length)) < np.linspace(0, 1, 12)[:, None]


@every_length
def test_search_in_random_rows(length):
    generator = np.random.default_rng(length)
    check_search(generator.normal(size=(12, length)), masks(length, generator))


@every_length
def test_search_takes_the_lowest_index_at_ties(length):
    generator = np.random.default_rng(length)
    check_search(generator.integers(-1, 2, size=(12, length)), masks(length, generator))
    check_search(np.zeros((12, length)), masks(length, generator))


def test_search_at_ties_within_a_block_and_across_blocks():
    for places in ([3, 9], [3, 200], [127, 128], [130, 140], [130, 299], [299]):
        values = np.zeros(300, np.float32)
        values[places] = -1.0
        assert first_argmin(values, np.ones(300, bool)) == places[0]
        assert first_argmax(-values, np.ones(300, bool)) == places[0]


@every_length
def test_search_finds_nothing(length):
    values = np.repeat([[0.0], [np.inf], [-np.inf], [np.nan]], length, axis=1)
    check_search(values, np.zeros((4, length), bool))


@every_length
def test_search_chooses_nan_if_it_is_selected(length):
    generator = np.random.default_rng(length)
    values = generator.normal(size=(12, length))
    values[:, -1] = np.nan  # in the last block
    values[::2, length // 2] = np.nan
    values[:, 0] = -np.inf  # which is not smaller than NaN
    check_search(values, np.ones((12, length), bool))
    check_search(values, masks(length, generator))


@every_length
def test_search_tells_a_selected_infinity_from_what_is_not_selected(length):
    generator = np.random.default_rng(length)
    for infinity in (np.inf, -np.inf):
        check_search(np.full((12, length), infinity), masks(length, generator))
        mixed = np.where(generator.random((12, length)) < 0.5, infinity, generator.normal(size=(12, length)))
        check_search(mixed, masks(length, generator))
        check_search(mixed, np.isinf(mixed))
        check_search(mixed, ~np.isinf(mixed))


def test_N9_rows_in_one_direction_are_equally_near_by_cosine():
    """Rounding tells them apart, and the lowest index is taken all the same."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        row, other = generator.normal(size=(2, 16))
        rows = np.concatenate([[row, other], generator.uniform(0.1, 9.0, (8, 1)) * row]).astype(np.float32)
        mined = mj.mining.batch_hard(rows, np.r_[0, 0, np.ones(8, int)], distance=mj.cosine)
        assert mined.negative[0] == 2
