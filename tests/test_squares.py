"""Batch-hard mining square by square, with squares much smaller than the batch, against the reference loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references_mining
from suite import assert_same_triplets, random_rows, tied_rows

import metric_jax as mj
from metric_jax import anchors
from metric_jax.mining import hardest, squares

N = 13
FEW, OTHERS = ((random_rows(seed, n), np.arange(n) % 3) for seed, n in ((1, 5), (2, 7)))
DISTANCES = [mj.euclidean, mj.squared_euclidean, mj.cosine, mj.manhattan, mj.signal_to_noise]


def in_squares(monkeypatch, side):
    """Batch-hard mining in squares of that side, compiled for this test alone."""
    monkeypatch.setattr(squares, "SIDE", side)

    @anchors.miner
    def batch_hard_in_squares(batch):
        """As `mj.mining.batch_hard`."""
        return hardest(batch)

    return batch_hard_in_squares


@pytest.fixture(params=[1, 5, 12])
def mine(request, monkeypatch):
    return in_squares(monkeypatch, request.param)


def expected(rows, labels, *, distance=mj.euclidean, **options):
    measured = {
        "positive": "hard",
        "negative": "hard",
        "distance": lambda x, y: np.asarray(
            distance(*np.broadcast_arrays(np.float64(x), np.float64(y))), np.float64
        ),
    }
    return references_mining.batch_easy_hard(rows, labels, **measured, **options)


@pytest.mark.parametrize("distance", DISTANCES, ids=lambda distance: distance.name)
def test_a_batch_with_itself(mine, distance):
    rows, labels = random_rows(1, N), np.arange(N) % 4
    assert_same_triplets(mine(rows, labels, distance=distance), expected(rows, labels, distance=distance))


def test_ties_go_to_the_lowest_index(mine):
    rows, labels = tied_rows(31)
    assert_same_triplets(mine(rows, labels), expected(rows, labels))


def test_other_references_fill_no_square(mine):
    (rows, labels), (references, others) = FEW, OTHERS
    options = {"references": references, "reference_labels": others}
    assert_same_triplets(mine(rows, labels, **options), expected(rows, labels, **options))


def test_what_is_masked_and_a_match_that_differs_from_either_end(mine):
    rows, labels = random_rows(3, N), np.arange(N) % 5
    options = {"where": np.arange(N) % 6 != 2, "match": lambda a, b: (a <= b) & (b < a + 3)}
    assert_same_triplets(mine(rows, labels, **options), expected(rows, labels, **options))


@pytest.mark.parametrize("tile", [1, 5, N, 100])
def test_rows_of_a_tile_that_the_caller_chose(mine, tile):
    rows, labels = random_rows(1, N), np.arange(N) % 4
    assert_same_triplets(mine(rows, labels, tile=tile), expected(rows, labels))


def test_references_with_the_batch(mine):
    (rows, labels), (references, others) = FEW, OTHERS
    both, all_labels = np.concatenate([rows, references]), np.concatenate([labels, others])
    mined = mine(rows, labels, references=references, reference_labels=others, with_batch=True)
    wanted = expected(both, all_labels)
    assert_same_triplets(mined, tuple(column[:5] for column in wanted))


@pytest.mark.parametrize("kind", [jnp.int8, jnp.bfloat16], ids=["int8", "bfloat16"])
def test_distances_need_not_be_of_the_type_of_the_rows(mine, kind):
    def against(x, ys, precision):
        return mj.squared_euclidean.against(x.astype(jnp.float32), ys.astype(jnp.float32), precision)

    coded = mj.Distance(
        "coded", mj.squared_euclidean.between, against, lambda rows, middle: (8 * rows).astype(kind)
    )
    rows, labels = random_rows(1, N), np.arange(N) % 4
    codes = np.asarray((8 * jnp.asarray(rows)).astype(kind), np.float32)
    assert_same_triplets(mine(rows, labels, distance=coded), expected(codes, labels))


def test_devices_with_a_match_of_their_own(mine):
    """Inside shard_map, a loop's state must vary over devices as what the loop computes does."""
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, labels = random_rows(1, N), np.arange(N)

    def of_device(rows, labels, reach):
        return mine(rows, labels, match=lambda a, b: jnp.abs(a - b) <= reach[0]).negative[None]

    whole, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("d")
    found = jax.jit(jax.shard_map(of_device, mesh=mesh, in_specs=(whole, whole, split), out_specs=split))(
        rows, labels, np.array([1, 3])
    )
    for negative, reach in zip(found, (1, 3), strict=True):
        wanted = expected(rows, labels, match=lambda a, b, reach=reach: abs(a - b) <= reach)
        np.testing.assert_array_equal(negative, wanted[1])


@pytest.mark.parametrize("broken", [0, 5, N - 1])
def test_the_first_nan_is_farthest_and_nearest(mine, broken):
    rows, labels = random_rows(1, N).copy(), np.arange(N) % 2
    rows[broken, 0] = np.nan
    mined = jax.tree.map(np.asarray, mine(rows, labels))
    assert mined.valid.all()
    for anchor in set(range(N)) - {broken}:
        found = mined.positive if labels[anchor] == labels[broken] else mined.negative
        assert found[anchor] == broken
    same = np.flatnonzero(labels == labels[broken])
    assert mined.positive[broken] == same[same != broken][0]
    assert mined.negative[broken] == np.flatnonzero(labels != labels[broken])[0]


def test_a_batch_with_itself_computes_half_of_the_squares(monkeypatch):
    mined = in_squares(monkeypatch, 4)
    computed = []

    def against(x, ys, precision):
        jax.debug.callback(lambda _: computed.append(1), x[0])
        return mj.squared_euclidean.against(x, ys, precision)

    counted = mj.Distance(
        "counted", mj.squared_euclidean.between, against, mj.squared_euclidean.prepare, is_symmetric=True
    )

    rows, labels = jnp.asarray(random_rows(1, 12)), jnp.arange(12) % 4
    counts = []
    for options in ({}, {"references": rows, "reference_labels": labels}):
        computed.clear()
        jax.block_until_ready(mined(rows, labels, distance=counted, **options))
        jax.effects_barrier()
        counts.append(len(computed))
    assert counts[1] - counts[0] == (9 - 6) * 4
