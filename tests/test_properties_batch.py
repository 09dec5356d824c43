"""A batch is a set of rows: P3 their order and masked rows among them, P6 the tiles they are computed in.

In float64, to 1e-10, which shows a wrong formula, and in float32, to 1e-5, which shows a wrong implementation.
"""

import itertools

import numpy as np
from subjects import DIM, LABELS, N
from suite import (
    assert_close,
    assert_same_triplets,
    every_loss_in,
    every_loss_with,
    every_miner_with,
    mine,
    random_rows,
    tied_rows,
    value_and_gradient,
)

import metric_jax as mj
from metric_jax.pairs import as_pairs

# P3: the order of the rows, and rows that are not there.

ORDER = np.random.default_rng(0).permutation(N)


@every_loss_in("float64")
def test_P3_permuting_the_rows(loss, precision):
    rows = loss.batch().astype(precision.dtype)
    value, gradient = value_and_gradient(loss)(rows, LABELS)
    permuted_value, permuted_gradient = value_and_gradient(loss)(rows[ORDER], LABELS[ORDER])
    assert_close(permuted_value, value, precision.tolerance)
    assert_close(permuted_gradient, gradient[ORDER], precision.tolerance)


def padded(rows):
    """The rows with seven others before, between and behind them, masked: these hold NaN, inf and labels that exist."""
    generator = np.random.default_rng(3)
    where = generator.permutation(np.arange(len(rows) + 7) < len(rows))
    assert not where[0]
    assert not where[-1]
    embeddings = np.full((len(where), DIM), np.nan, rows.dtype)
    embeddings[::2] = np.inf
    embeddings[where] = rows
    labels = generator.integers(0, 4, len(where))
    labels[where] = LABELS
    return embeddings, labels, where


@every_loss_in("float64")
def test_P3_padding_changes_nothing(loss, precision):
    rows = loss.batch().astype(precision.dtype)
    value, gradient = value_and_gradient(loss)(rows, LABELS)
    embeddings, labels, where = padded(rows)
    padded_value, padded_gradient = value_and_gradient(loss)(embeddings, labels, where)
    assert_close(padded_value, value, precision.tolerance)
    assert_close(padded_gradient[where], gradient, precision.tolerance)
    np.testing.assert_array_equal(padded_gradient[~where], 0)


def as_set(mined, places):
    """The pairs that were mined, or those of the triplets, each index replaced by the place it stands for."""
    anchor, reference, is_positive, valid = map(np.asarray, as_pairs(mined, "mined"))
    pairs = (places[anchor[valid]], places[reference[valid]], is_positive[valid])
    return set(zip(*(column.tolist() for column in pairs), strict=True))


@every_miner_with([], [()], lambda miner: [] if miner.is_random else [()])
def test_P3_mining_permuted_rows(miner, precision):
    rows = random_rows(3).astype(precision.dtype)
    mined = mine(miner)(rows, LABELS, None)
    permuted = mine(miner)(rows[ORDER], LABELS[ORDER], None)
    assert as_set(permuted, ORDER) == as_set(mined, np.arange(N))


@every_miner_with([], [()], lambda miner: [] if miner.is_random else [()])
def test_P3_mining_padded_rows(miner, precision):
    rows = random_rows(4).astype(precision.dtype)
    embeddings, labels, where = padded(rows)
    mined = mine(miner)(embeddings, labels, where)
    assert as_set(mined, np.arange(len(where))) == as_set(
        mine(miner)(rows, LABELS, None), np.flatnonzero(where)
    )


# P6: tiles.


def three_if_tiled(loss):
    return [3] if loss.takes("tile") else []


@every_loss_with("tile", [1, 3, N], three_if_tiled, precisions=["float64"])
def test_P6_tiles_equal_dense(loss, tile, precision):
    rows = loss.batch().astype(precision.dtype)
    value, gradient = value_and_gradient(loss)(rows, LABELS)
    tiled_value, tiled_gradient = value_and_gradient(loss, tile=tile)(rows, LABELS)
    assert_close(tiled_value, value, precision.tolerance)
    assert_close(tiled_gradient, gradient, precision.tolerance)


@every_loss_with("tile", [1, 3], three_if_tiled, precisions=["float64"])
def test_P6_ties_across_tile_edges(loss, tile, precision):
    rows, labels = tied_rows(N)
    value, gradient = value_and_gradient(loss)(rows.astype(precision.dtype), labels)
    tiled_value, tiled_gradient = value_and_gradient(loss, tile=tile)(
        rows.astype(precision.dtype), labels, None
    )
    assert_close(value, loss.expected(rows, labels), precision.tolerance)
    assert_close(tiled_value, value, precision.tolerance)
    assert_close(tiled_gradient, gradient, precision.tolerance)


EXACT = [mj.euclidean, mj.squared_euclidean, mj.manhattan]


@every_miner_with(
    ["tile", "distance"],
    list(itertools.product([1, 3, 10], EXACT)),
    lambda miner: [(3, distance) for distance in EXACT[:1] if distance in miner.measures],
)
def test_P6_mined_ties_take_the_lowest_index_in_every_tile(miner, tile, distance, precision):
    rows, labels = tied_rows(10)
    mined = mine(miner, distance, tile)(rows.astype(precision.dtype), labels, None)
    assert_same_triplets(mined, miner.expected(rows, labels, distance=distance))
