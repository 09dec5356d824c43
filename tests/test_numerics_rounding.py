"""What rounding does to a loss: N1 √ at 0, N2 cancellation, N3 precision, N4 zero rows, N10 overflow.

Each is a fault seen in another library. N14 is in test_retrieval.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from catalogue import LOSSES, MINERS
from subjects import DIM, DISTANCES, LABELS, Loss, N
from suite import (
    assert_close,
    assert_rounds_to,
    every,
    every_distance,
    every_loss_and_measure,
    every_loss_with,
    every_triplet_loss,
    random_rows,
    value_and_gradient,
)

import metric_jax as mj

EUCLIDEAN_LIKE = (mj.euclidean, mj.squared_euclidean, mj.manhattan)
WITH_PRODUCTS = (mj.euclidean, mj.squared_euclidean, mj.cosine, mj.cosine_similarity)

# N1: the slope of a square root at 0.


@pytest.mark.parametrize("dim", [3, 512])
@every_distance
def test_N1_distance_of_a_point_to_itself(distance, dim):
    x = np.random.default_rng(0).normal(size=(32, dim)).astype(np.float32)
    rounding = 0 if distance in EUCLIDEAN_LIKE else 1e-5
    for form in (distance, lambda x, y: jnp.diag(distance.pairwise(x, y))):

        @jax.jit
        def values_and_gradients(x, y, form=form):
            return form(x, y), jax.grad(lambda x, y: jnp.sum(form(x, y)), argnums=(0, 1))(x, y)

        with jax.debug_nans(True):
            values, gradients = values_and_gradients(x, x)
        np.testing.assert_allclose(values, 0, atol=rounding)
        np.testing.assert_allclose(gradients, 0, atol=rounding)


@every_loss_and_measure
def test_N1_duplicate_rows(loss, distance):
    batch = random_rows()
    batch[2], batch[3] = batch[0], batch[1]  # a positive pair, and a negative one
    value, gradient = value_and_gradient(loss, distance)(batch, LABELS)
    assert_close(value, loss.expected(batch, LABELS, distance=distance), 1e-5)
    assert np.isfinite(gradient).all()


@every_loss_and_measure
def test_N1_all_rows_equal(loss, distance):
    batch = np.tile(random_rows(n=1), (N, 1))
    value, gradient = value_and_gradient(loss, distance)(batch, LABELS)
    assert_close(value, loss.expected(batch, LABELS, distance=distance), 1e-5)
    assert np.isfinite(gradient).all()
    if loss.is_core:
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


@every_loss_with("distance", EUCLIDEAN_LIKE, lambda loss: [loss.measure] if loss.is_euclidean else [])
def test_N2_losses_far_from_the_origin(loss, distance):
    loss = loss.moved(lambda rows: rows + 1000)
    rows = np.concatenate([FAR, np.full((len(FAR), DIM - 2), 1000, np.float32)], axis=1)
    value = value_and_gradient(loss, distance)(rows, FAR_LABELS)[0]
    assert_close(value, loss.expected(rows, FAR_LABELS, distance=distance), 1e-5)


@every("distance", EUCLIDEAN_LIKE)
def test_N2_one_apart_at_ten_thousand(distance):
    x, y = jnp.array([[10000.0]]), jnp.array([[10001.0]])
    np.testing.assert_array_equal(distance(x, y), [1.0])
    np.testing.assert_array_equal(distance.pairwise(x, y), [[1.0]])
    both = jnp.concatenate([x, y])
    np.testing.assert_array_equal(distance.pairwise(both, both), [[0.0, 1.0], [1.0, 0.0]])


def test_N2_mined_near_duplicates_are_measured_by_difference():
    """The expansion loses a distance of 1e-4 between rows of length 1; the difference does not."""
    batch = np.array([[1.0, 0.0], [1.0, 1e-4], [0.0, 0.0]], np.float32)
    value = mj.batch_hard_triplet_loss(batch, np.array([0, 0, 1]), margin=1.0)
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

    return set(within(jax.make_jaxpr(fn)(*arguments).jaxpr))


every_precision = pytest.mark.parametrize("precision", ["highest", "default"])


def with_precision(distance, precision):
    """The distance, and what its products carry in a jaxpr; its own precision is the highest."""
    if precision == "default":
        distance = dataclasses.replace(distance, precision=precision)
    return distance, {(jax.lax.Precision(precision),) * 2}


@every_precision
@every("distance", WITH_PRODUCTS)
def test_N3_pairwise_products_have_the_callers_precision(distance, precision):
    distance, expected = with_precision(distance, precision)

    def total(x, y):
        return jnp.sum(distance.pairwise(x, y))

    for fn in (total, jax.grad(total, argnums=(0, 1))):
        assert product_precisions(fn, random_rows(), random_rows(1)) == expected


@every_precision
@every("function", [*(loss for loss in LOSSES if loss.measure and loss.has_product), *MINERS])
def test_N3_losses_and_miners_have_the_callers_precision(function, precision):
    is_loss = isinstance(function, Loss)
    distance, expected = with_precision(function.measure if is_loss else mj.euclidean, precision)
    for tile in ("auto", 3) if function.is_core else (3,):

        def run(rows, tile=tile):
            return function(rows, LABELS, distance=distance, tile=tile)

        found = product_precisions(jax.value_and_grad(run) if is_loss else run, random_rows())
        assert found == expected


@every_precision
@every("distance", WITH_PRODUCTS[:-1])
def test_N3_diagnostics_have_the_callers_precision(distance, precision):
    distance, expected = with_precision(distance, precision)
    found = product_precisions(lambda e: mj.diagnostics.summary(e, LABELS, distance=distance), random_rows())
    assert found == expected


# N4: rows of length 0 under cosine.


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_N4_cosine_of_a_zero_row(dtype):
    x, y = jnp.zeros((2, DIM), dtype), jnp.asarray(random_rows(n=2), dtype).at[1].set(0)
    np.testing.assert_array_equal(mj.cosine_similarity(x, y), 0)
    np.testing.assert_array_equal(mj.cosine(x, y), 1)
    np.testing.assert_array_equal(mj.cosine_similarity.pairwise(x, y), 0)
    np.testing.assert_array_equal(mj.cosine.pairwise(x, y), 1)
    with jax.debug_nans(True):
        for fn in (mj.cosine, mj.cosine.pairwise):
            gradients = jax.grad(lambda x, y, fn=fn: jnp.sum(fn(x, y)), argnums=(0, 1))(x, y)
            assert all(jnp.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@every_loss_with("distance", [mj.cosine], lambda loss: [loss.measure])
def test_N4_losses_with_zero_rows(loss, distance, dtype):
    batch = jnp.asarray(random_rows(), dtype).at[0].set(0)
    value, gradient = value_and_gradient(loss, distance)(batch, LABELS)
    assert_close(value, loss.expected(batch, LABELS, distance=distance), 1e-5)
    assert jnp.isfinite(gradient).all()
    value, gradient = value_and_gradient(loss, distance)(jnp.zeros_like(batch), LABELS)
    assert_close(value, loss.expected(np.zeros_like(batch), LABELS, distance=distance), 1e-5)
    assert jnp.isfinite(gradient).all()


# N10: overflow.


def test_N10_soft_margin_of_a_gap_of_a_thousand():
    value, gradient = jax.value_and_grad(
        lambda p: mj.triplet_loss(
            jnp.zeros(1), p, jnp.zeros(1), margin=0.0, distance=mj.manhattan, penalty=jax.nn.softplus
        )
    )(jnp.array([1000.0]))
    assert value == 1000.0
    np.testing.assert_array_equal(gradient, [1.0])


@every_triplet_loss
def test_N10_soft_margin_of_a_batch(loss):
    batch, labels = jnp.array([[0.0], [1000.0], [0.0]]), jnp.array([0, 0, 1])
    values = loss.function(batch, labels, margin=0.0, penalty=jax.nn.softplus, reduction="none")
    np.testing.assert_allclose(values, [1000.0, np.log(2.0), 0.0], rtol=1e-6)


@pytest.mark.parametrize("name", ["ntxent", "supcon"])
def test_N10_softmax_at_a_temperature_of_a_hundredth(name):
    """Losses from 1e-9 to above 100: where a peer's float32 saturates at 22 and where a difference would vanish."""
    loss = next(loss for loss in LOSSES if loss.name == name)
    loss = dataclasses.replace(loss, own={"temperature": 0.01})
    near = np.array([[1.0, 0.1, 0.0], [1.0, 0.0, 0.0], [0.9, 0.5, 0.0], [0.0, 1.0, 0.1]], np.float32)
    for rows, labels in (
        (random_rows(n=64), np.arange(64) % 16),
        (near, np.array([0, 0, 1, 1])),
        (near[:3], np.array([0, 0, 1])),
    ):
        found = loss(rows, labels, reduction="none")
        expected = loss.expected(rows, labels, reduction="none")
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-15)
    gradient = jax.grad(loss)(jnp.asarray(random_rows()), LABELS)
    slopes = references.central_differences(
        lambda e: loss.expected(e, LABELS), random_rows().astype(float), 1e-5
    )
    assert_close(gradient, slopes, 1e-5)


@pytest.mark.parametrize("length", [1e-35, 1e-20, 1e-14, 1e14, 1e20, 1e30])
def test_N10_tiny_and_huge_rows_have_a_direction(length):
    """The square of such a length is beyond float32."""
    rows = random_rows()
    step = jax.value_and_grad(lambda e: mj.ntxent_loss(e, LABELS))
    expected, gradient = step(rows)
    scaled, scaled_gradient = step((rows * np.float32(length)).astype(np.float32))
    np.testing.assert_allclose(scaled, expected, rtol=1e-5)
    np.testing.assert_allclose(scaled_gradient * np.float32(length), gradient, rtol=1e-3, atol=1e-5)


def test_N10_rows_whose_squares_overflow_are_not_one_point():
    rows = np.float32(2e19) * np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    apart = ~np.eye(4, dtype=bool)
    for distance in (mj.squared_euclidean, mj.euclidean, mj.signal_to_noise):
        assert not np.isfinite(distance.pairwise(rows, rows)[apart]).any(), distance
    assert not np.isfinite(mj.batch_contrastive_loss(rows, np.array([0, 0, 1, 1])))


@every_loss_and_measure
def test_N10_float16_rows_of_length_300(loss, distance):
    batch = random_rows(3)
    batch = (300 * batch / np.linalg.norm(batch, axis=1, keepdims=True)).astype(np.float16)
    value, gradient = value_and_gradient(loss, distance)(batch, LABELS)
    assert value.dtype == jnp.float32
    assert_close(value, loss.expected(batch, LABELS, distance=distance), 1e-5)
    upcast = value_and_gradient(loss, distance)(batch.astype(np.float32), LABELS)[1]
    assert np.isfinite(upcast).all()
    assert_rounds_to(gradient, upcast, loss)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@every("distance", [*DISTANCES, mj.cosine_similarity])
def test_N10_distances_of_half_precision_rows(distance, dtype):
    x, y = jnp.full((2, DIM), 300, dtype), jnp.full((2, DIM), -300, dtype)
    for found in (distance(x, y), distance.pairwise(x, y)):
        assert found.dtype == jnp.float32
        assert jnp.isfinite(found).all()
