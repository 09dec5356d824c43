"""Numerical faults seen in other libraries, N1 to N13, and that ours has none of them. N14 is in test_retrieval."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import (
    DIM,
    DISTANCES,
    LABELS,
    LOSSES,
    MINERS,
    assert_close,
    every_distance,
    every_loss,
    every_miner,
    value_and_gradient,
)

import metric_jax as mj

N = len(LABELS)
TRIPLET_LOSSES = [loss for loss in LOSSES if loss.name != "contrastive"]
HINGE_LOSSES = [loss for loss in TRIPLET_LOSSES if "penalty" not in loss.own]
every_triplet_loss = pytest.mark.parametrize(
    "loss", TRIPLET_LOSSES, ids=[loss.name for loss in TRIPLET_LOSSES]
)
every_hinge_loss = pytest.mark.parametrize("loss", HINGE_LOSSES, ids=[loss.name for loss in HINGE_LOSSES])
every_reduction = pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum", "none"])


def rows(seed=0, n=N):
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


# N1: the slope of a square root at 0.


@every_distance
def test_N1_distance_of_a_point_to_itself(distance):
    x = jnp.asarray(rows())
    with jax.debug_nans(True):
        for gradient in jax.grad(lambda x, y: jnp.sum(distance(x, y)), argnums=(0, 1))(x, x):
            np.testing.assert_allclose(gradient, 0, atol=1e-6)
        diagonal = jax.grad(lambda x, y: jnp.trace(distance.pairwise(x, y)), argnums=(0, 1))(x, x)
    for gradient in diagonal:
        np.testing.assert_allclose(gradient, 0, atol=2e-6)


@every_distance
@every_loss
def test_N1_duplicate_rows(loss, distance):
    batch = rows()
    batch[2], batch[3] = batch[0], batch[1]  # a positive pair, and a negative one
    with jax.debug_nans(True):
        value, gradient = value_and_gradient(loss, distance)(batch, LABELS, None)
    assert_close(value, loss.expected(batch.astype(float), LABELS, distance=distance), 1e-5)
    assert np.isfinite(gradient).all()


@every_distance
@every_loss
def test_N1_all_rows_equal(loss, distance):
    batch = np.tile(rows(n=1), (N, 1))
    with jax.debug_nans(True):
        value, gradient = value_and_gradient(loss, distance)(batch, LABELS, None)
    assert_close(value, loss.expected(batch.astype(float), LABELS, distance=distance), 1e-5)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)


# N2: cancellation in |a|² + |b|² - 2ab.

FAR = np.array([[0, 0], [0.3, 0], [0.1, 0], [0.2, 0]], np.float32) + np.float32(1000)
FAR_LABELS = np.array([0, 0, 1, 1])


def test_N2_batch_hard_far_from_the_origin():
    value = mj.batch_hard_triplet_loss(FAR, FAR_LABELS, margin=0.2)
    np.testing.assert_allclose(value, 0.3, atol=1e-3)
    mined = mj.mining.batch_hard(FAR, FAR_LABELS)
    np.testing.assert_array_equal(mined.positive, [1, 0, 3, 2])
    np.testing.assert_array_equal(mined.negative, [2, 3, 0, 1])


@pytest.mark.parametrize("distance", [mj.euclidean, mj.squared_euclidean, mj.manhattan], ids=lambda d: d.name)
@every_loss
def test_N2_losses_far_from_the_origin(loss, distance):
    value = loss(FAR, FAR_LABELS, distance=distance)
    assert_close(value, loss.expected(FAR.astype(float), FAR_LABELS, distance=distance), 1e-5)


def test_N2_one_apart_at_ten_thousand():
    x, y = jnp.array([[10000.0]]), jnp.array([[10001.0]])
    for distance in (mj.euclidean, mj.squared_euclidean, mj.manhattan):
        np.testing.assert_array_equal(distance(x, y), [1.0])
        np.testing.assert_array_equal(distance.pairwise(x, y), [[1.0]])
        both = jnp.concatenate([x, y])
        np.testing.assert_array_equal(distance.pairwise(both, both), [[0.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize("miner_loss", [mj.batch_hard_triplet_loss, mj.batch_semi_hard_triplet_loss])
def test_N2_near_duplicates_are_measured_by_difference(miner_loss):
    """The expansion loses a distance of 1e-4 between rows of length 1; the difference does not."""
    batch = np.array([[1.0, 0.0], [1.0, 1e-4], [0.0, 0.0]], np.float32)
    labels = np.array([0, 0, 1])
    value = mj.batch_hard_triplet_loss(batch, labels, margin=1.0)
    np.testing.assert_allclose(value, 1e-4, atol=2e-7)


# N3: float32 products that run in bfloat16 or TF32.


def product_precisions(fn, *arguments):
    """The precision of every matrix product in the jaxpr of fn, through all the jaxprs within."""

    def within(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                yield equation.params["precision"]
            for parameter in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
                if hasattr(parameter, "eqns"):
                    yield from within(getattr(parameter, "jaxpr", parameter))

    return list(within(jax.make_jaxpr(fn)(*arguments).jaxpr))


WITH_PRODUCTS = (mj.euclidean, mj.squared_euclidean, mj.cosine, mj.cosine_similarity)


@pytest.mark.parametrize("distance", WITH_PRODUCTS, ids=lambda d: d.name)
@pytest.mark.parametrize("precision", ["highest", "default"])
def test_N3_pairwise_products_have_the_callers_precision(distance, precision):
    expected = jax.lax.Precision(precision)
    if precision != "highest":  # which is the distance's own
        distance = dataclasses.replace(distance, precision=expected)

    def total(x, y):
        return jnp.sum(distance.pairwise(x, y))

    for fn in (total, jax.grad(total, argnums=(0, 1))):
        found = product_precisions(fn, rows(), rows(1))
        assert found
        assert set(found) == {(expected, expected)}


@pytest.mark.parametrize("distance", [mj.euclidean, mj.cosine], ids=lambda d: d.name)
@pytest.mark.parametrize("tile", ["auto", 3])
def test_N3_losses_and_miners_compute_at_highest_precision(distance, tile):
    highest = {(jax.lax.Precision.HIGHEST,) * 2}
    for function in (*LOSSES, *MINERS):
        found = product_precisions(lambda e, f=function: f(e, LABELS, distance=distance, tile=tile), rows())
        assert set(found) == highest, function.name
    for loss in LOSSES:
        found = product_precisions(
            jax.grad(lambda e, f=loss: f(e, LABELS, distance=distance, tile=tile)), rows()
        )
        assert set(found) == highest, loss.name
    found = product_precisions(lambda e: mj.diagnostics.summary(e, LABELS, distance=distance), rows())
    assert set(found) == highest


# N4: rows of length 0 under cosine.


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_N4_cosine_of_a_zero_row(dtype):
    x, y = jnp.zeros((2, DIM), dtype), jnp.asarray(rows(n=2), dtype).at[1].set(0)
    np.testing.assert_array_equal(mj.cosine_similarity(x, y), 0)
    np.testing.assert_array_equal(mj.cosine(x, y), 1)
    np.testing.assert_array_equal(mj.cosine_similarity.pairwise(x, y), 0)
    np.testing.assert_array_equal(mj.cosine.pairwise(x, y), 1)
    with jax.debug_nans(True):
        for fn in (mj.cosine, mj.cosine.pairwise):
            gradients = jax.grad(lambda x, y, fn=fn: jnp.sum(fn(x, y)), argnums=(0, 1))(x, y)
            assert all(jnp.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@every_loss
def test_N4_losses_with_a_zero_row(loss, dtype):
    batch = jnp.asarray(rows(), dtype).at[0].set(0)
    value, gradient = value_and_gradient(loss, mj.cosine)(batch, LABELS, None)
    assert_close(value, loss.expected(np.asarray(batch, float), LABELS, distance=mj.cosine), 1e-5)
    assert jnp.isfinite(gradient).all()


# N5: anchors without a positive or without a negative.


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 0], [0]], ids=str)
@every_triplet_loss
def test_N5_nothing_valid(loss, labels):
    batch, labels = rows(n=len(labels)), np.array(labels)
    value, gradient = value_and_gradient(loss)(batch, labels, None)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@every_reduction
@every_triplet_loss
def test_N5_nothing_valid_under_any_reduction(loss, reduction):
    value = loss(rows(n=4), np.arange(4), reduction=reduction)
    np.testing.assert_array_equal(value, np.zeros(4) if reduction == "none" else 0)


def test_N5_a_single_row_has_no_pair():
    loss = LOSSES[0]
    value, gradient = value_and_gradient(loss)(rows(n=1), np.array([0]), None)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 0, 0], [0]], ids=str)
@every_miner
def test_N5_nothing_to_mine(miner, labels):
    mined = miner(rows(n=len(labels)), np.array(labels))
    for column in mined:
        np.testing.assert_array_equal(column, 0)


@every_reduction
@every_loss
def test_N5_an_anchor_alone_in_its_class_does_not_count(loss, reduction):
    batch = np.array([[0.0], [0.5], [0.75]], np.float32)
    labels = np.array([0, 0, 1])
    value = loss(batch, labels, reduction=reduction)
    assert_close(value, loss.expected(batch.astype(float), labels, reduction=reduction), 1e-6)


def test_N5_mean_over_the_two_valid_anchors():
    batch = jnp.array([[0.0], [0.5], [0.75]])
    # anchors: 0.5 - 0.75 + 0.5 = 0.25, and 0.5 - 0.25 + 0.5 = 0.75
    np.testing.assert_allclose(mj.batch_hard_triplet_loss(batch, jnp.array([0, 0, 1]), margin=0.5), 0.5)


# N6: a mean over active terms when none is.


@every_reduction
@every_hinge_loss
def test_N6_separated_classes_cost_nothing(loss, reduction):
    batch = (rows() / 100 + 10 * LABELS[:, None]).astype(np.float32)
    value, gradient = jax.value_and_grad(lambda e: jnp.sum(loss(e, LABELS, reduction=reduction)))(
        jnp.asarray(batch)
    )
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@every_reduction
def test_N6_separated_points_cost_nothing(reduction):
    batch = jnp.asarray(10.0 * np.tile(LABELS[:, None], DIM))
    value = mj.batch_contrastive_loss(batch, LABELS, reduction=reduction)
    np.testing.assert_array_equal(value, np.zeros(N) if reduction == "none" else 0)


# N7: inf * 0 in masks.


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
@every_distance
@every_loss
def test_N7_masked_rows_change_nothing(loss, distance, junk):
    where = np.arange(N) != 5
    batch = rows()
    value, gradient = value_and_gradient(loss, distance)(batch[where], LABELS[where], None)
    batch[5] = junk
    masked_value, masked_gradient = value_and_gradient(loss, distance)(batch, LABELS, where)
    assert_close(masked_value, value, 1e-6)
    assert_close(masked_gradient[where], gradient, 1e-6)
    np.testing.assert_array_equal(masked_gradient[5], 0)


@every_loss
def test_N7_masked_references_change_nothing(loss):
    memory, memory_labels = rows(1), np.roll(LABELS, 3)
    keep = np.arange(N) % 3 != 1

    def value(embeddings, memory, memory_labels, keep):
        return loss(
            embeddings,
            LABELS,
            references=memory,
            reference_labels=memory_labels,
            reference_where=keep,
            reduction="sum",
        )

    step = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))
    expected, (to_batch, to_memory) = step(rows(), memory[keep], memory_labels[keep], None)
    memory[~keep] = np.nan
    value, (to_batch_masked, to_memory_masked) = step(rows(), memory, memory_labels, keep)
    assert_close(value, expected, 1e-6)
    assert_close(to_batch_masked, to_batch, 1e-6)
    assert_close(to_memory_masked[keep], to_memory, 1e-6)
    np.testing.assert_array_equal(to_memory_masked[~keep], 0)


@every_loss
def test_N7_nothing_left(loss):
    batch = np.full((N, DIM), np.nan, np.float32)
    value, gradient = value_and_gradient(loss)(batch, LABELS, np.zeros(N, bool))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


# N8: labels.


@pytest.mark.parametrize("big", [2**32 + 1, 2**40 + 1, -(2**32) + 1], ids=str)
def test_N8_labels_beyond_32_bits_stay_distinct_or_raise(big):
    """Cut down to 32 bits, all of these are 1."""
    labels = np.array([1, big, 1, big])
    batch = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    expected = mj.batch_hard_triplet_loss(batch, np.array([0, 1, 0, 1]))
    for function in (mj.batch_hard_triplet_loss, mj.mining.batch_hard, mj.evaluation.retrieval):
        with pytest.raises(ValueError, match="labels do not fit"):
            function(batch, labels)
    with jax.enable_x64(True):
        np.testing.assert_allclose(mj.batch_hard_triplet_loss(batch, labels), expected, rtol=1e-6)


@every_loss
def test_N8_labels_beyond_float32_stay_distinct(loss):
    """2²⁴ and 2²⁴ + 1 are one number in float32."""
    expected, _ = value_and_gradient(loss)(rows(), LABELS, None)
    value, _ = value_and_gradient(loss)(rows(), LABELS + 2**24 - 1, None)
    assert value == expected


@every_loss
def test_N8_only_equality_of_labels_counts(loss):
    expected, _ = value_and_gradient(loss)(rows(), LABELS, None)
    for names in ([-1, 0, -(2**31), 2**31 - 1], [7, 3, 5, 2]):
        assert value_and_gradient(loss)(rows(), np.array(names)[LABELS], None)[0] == expected
    for dtype in (np.int8, np.uint8, np.int64, np.uint32):
        assert loss(rows(), LABELS.astype(dtype)) == loss(rows(), LABELS)


@pytest.mark.parametrize("function", [*LOSSES, *MINERS], ids=lambda f: f.name)
def test_N8_labels_that_are_not_classes_raise(function):
    for labels in (LABELS.astype(np.float32), LABELS > 1):
        with pytest.raises(TypeError, match="labels must be integers"):
            function(rows(), labels)
    with pytest.raises(ValueError, match=r"labels.*\[rows\]"):
        function(rows(), LABELS[:, None])


# N9: ties and corners.


@pytest.mark.parametrize("loss", HINGE_LOSSES, ids=lambda loss: loss.name)
def test_N9_no_gradient_at_the_corner_of_the_hinge(loss):
    batch = jnp.array([[0.0], [1.0], [3.0]])  # anchor 1: d(a,p) - d(a,n) + margin = 1 - 2 + 1 = 0
    value, gradient = jax.value_and_grad(lambda e: loss.function(e, jnp.array([0, 0, 1]), margin=1.0))(batch)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
    triplet = jax.grad(lambda *rows: mj.triplet_loss(*rows, margin=1.0).sum(), argnums=(0, 1, 2))
    for row in triplet(jnp.array([[0.0]]), jnp.array([[1.0]]), jnp.array([[2.0]])):
        np.testing.assert_array_equal(row, 0)


def test_N9_ties_take_the_lowest_index():
    batch = jnp.array([[0.0], [1.0], [-1.0], [2.0], [-2.0], [1.0]])
    labels = jnp.array([0, 0, 0, 1, 1, 0])
    for run in (mj.mining.batch_hard, jax.jit(mj.mining.batch_hard)):
        mined = run(batch, labels)
        assert mined.positive[0] == 1  # of 1, 2, 5, all one away
        assert mined.negative[0] == 3  # of 3, 4, both two away
        assert mined.negative[3] == 1  # of 1, 5, both one away


# N10: overflow.


def test_N10_soft_margin_of_a_gap_of_a_thousand():
    value, gradient = jax.value_and_grad(
        lambda p: mj.triplet_loss(
            jnp.zeros(1), p, jnp.zeros(1), margin=0.0, distance=mj.manhattan, penalty=jax.nn.softplus
        )
    )(jnp.array([1000.0]))
    assert value == 1000.0
    np.testing.assert_array_equal(gradient, 1.0)


@pytest.mark.parametrize("loss", TRIPLET_LOSSES, ids=lambda loss: loss.name)
def test_N10_soft_margin_of_a_batch(loss):
    batch, labels = jnp.array([[0.0], [1000.0], [0.0]]), jnp.array([0, 0, 1])
    values = loss.function(batch, labels, margin=0.0, penalty=jax.nn.softplus, reduction="none")
    np.testing.assert_allclose(values, [1000.0, np.log(2.0), 0.0], rtol=1e-6)


@every_distance
@every_loss
def test_N10_float16_rows_of_length_300(loss, distance):
    batch = rows(3)
    batch = (300 * batch / np.linalg.norm(batch, axis=1, keepdims=True)).astype(np.float16)
    value, gradient = value_and_gradient(loss, distance)(batch, LABELS, None)
    assert value.dtype == jnp.float32
    assert_close(value, loss.expected(batch.astype(float), LABELS, distance=distance), 1e-5)
    upcast = value_and_gradient(loss, distance)(batch.astype(np.float32), LABELS, None)[1]
    assert np.isfinite(upcast).all()
    with np.errstate(over="ignore"):  # the slope of |x|⁴ at 300 is more than float16 can hold
        np.testing.assert_array_equal(gradient, np.asarray(upcast).astype(np.float16))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("distance", [*DISTANCES, mj.cosine_similarity], ids=lambda d: d.name)
def test_N10_distances_of_half_precision_rows(distance, dtype):
    x, y = jnp.full((2, DIM), 300, dtype), jnp.full((2, DIM), -300, dtype)
    for found in (distance(x, y), distance.pairwise(x, y)):
        assert found.dtype == jnp.float32
        assert jnp.isfinite(found).all()


# N11: counts of the order of batch³.


def test_N11_two_billion_triplets_are_counted():
    n = 2050
    embeddings, labels = np.zeros((n, 1), np.float32), np.arange(n) % 2
    triplets = 2 * 1025 * 1024 * 1025
    assert triplets == 2_151_680_000 > 2**31
    sums = {
        reduction: float(mj.batch_all_triplet_loss(embeddings, labels, margin=1.0, reduction=reduction))
        for reduction in ("sum", "mean", "mean_active")
    }
    assert sums == {"sum": triplets, "mean": 1.0, "mean_active": 1.0}


# N12: collapse.


@pytest.mark.parametrize("offset", [0.0, 1.0, 1000.0])
def test_N12_a_constant_model_is_collapsed(offset):
    found = mj.diagnostics.summary(jnp.full((N, DIM), offset), LABELS)
    assert found["collapsed"]
    assert found["spread"] == 0


def test_N12_a_batch_far_from_the_origin_is_not_collapsed():
    found = mj.diagnostics.summary(FAR, FAR_LABELS)
    assert not found["collapsed"]
    np.testing.assert_allclose(found["spread"], np.sqrt(0.0125), rtol=1e-3)


# N13: NaN in the input.


@pytest.mark.parametrize("row", [0, 6], ids=["in_a_class", "alone_in_its_class"])
@every_distance
@every_loss
def test_N13_nan_in_a_valid_row_reaches_the_loss(loss, distance, row):
    for coordinates in (0, slice(None)):
        batch = rows()
        batch[row, coordinates] = np.nan
        value, _ = value_and_gradient(loss, distance)(batch, LABELS, None)
        assert np.isnan(value)


@pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum"])
@every_loss
def test_N13_nan_reaches_every_reduction(loss, reduction):
    batch = rows()
    batch[0, 0] = np.nan
    assert np.isnan(loss(batch, LABELS, reduction=reduction))


@every_loss
def test_N13_nan_in_a_reference_reaches_the_loss(loss):
    for label in range(3):
        memory = rows(1)
        memory[label, 0] = np.nan
        value = loss(rows(), LABELS, references=memory, reference_labels=LABELS, reduction="sum")
        assert np.isnan(value)
