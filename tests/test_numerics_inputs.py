"""What a batch may hold: N8 labels of any integer type, N9 ties and corners, N12 a single point, N13 NaN.

Each is a fault seen in another library.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import LOSSES, MINERS
from subjects import DIM, LABELS, N
from suite import (
    AS_SHIPPED,
    every,
    every_core_loss,
    every_loss_and_measure,
    every_loss_of_references,
    every_loss_with,
    every_triplet_loss,
    random_rows,
    value_and_gradient,
    with_references,
)

import metric_jax as mj

# N8: labels.

LABEL_LOSSES = [loss for loss in LOSSES if loss.has_classes and loss.proxies is None]
every_label_loss = every("loss", LABEL_LOSSES)


@pytest.mark.parametrize("big", [2**32 + 1, 2**40 + 1, -(2**32) + 1], ids=str)
def test_N8_labels_beyond_32_bits_stay_distinct_or_raise(big):
    """Cut down to 32 bits, all of these are 1."""
    labels = np.array([1, big, 1, big])
    batch = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    expected = mj.batch_hard_triplet_loss(batch, np.array([0, 1, 0, 1]))
    found, small = (mj.evaluation.retrieval(batch, y, ks=(1,)) for y in (labels, np.array([0, 1, 0, 1])))
    assert found == small
    for function in (mj.batch_hard_triplet_loss, mj.mining.batch_hard):
        with pytest.raises(ValueError, match="labels do not fit"):
            function(batch, labels)
    with jax.enable_x64(True):
        np.testing.assert_allclose(mj.batch_hard_triplet_loss(batch, labels), expected, rtol=1e-6)


def test_N8_whole_numbers_beyond_24_bits_stay_distinct_or_raise():
    """As float32 the first two are one."""
    batch, labels = np.array([[0.0], [1.0], [2.0], [4.0]], np.float32), np.array([2.0**24, 2**24 + 1, 5, 6])
    for function in (mj.rank_n_contrast_loss, functools.partial(mj.supcon_loss, match=jnp.equal)):
        with pytest.raises(ValueError, match="labels hold whole numbers that float32 cannot tell apart"):
            function(batch, labels)
        with jax.enable_x64(True):
            expected = function(batch, labels - 5)
            np.testing.assert_allclose(function(batch, labels), expected, rtol=1e-6)
        assert np.isfinite(function(batch, labels / 3))


def test_N8_labels_of_two_kinds_do_not_mix():
    """As int32 the unsigned 2³² - 1 is -1."""
    batch = np.zeros((2, 2), np.float32)
    signed, unsigned = np.array([-1, 0], np.int32), np.array([2**32 - 1, 0], np.uint32)
    with pytest.raises(TypeError, match="labels are int32 and reference_labels uint32"):
        mj.batch_hard_triplet_loss(batch, signed, references=batch, reference_labels=unsigned)


@every_label_loss
def test_N8_only_equality_of_labels_counts(loss):
    """2²⁴ and 2²⁴ + 1 are one number in float32."""
    expected, _ = value_and_gradient(loss)(random_rows(), LABELS)
    for names in ([-1, 0, -(2**31), 2**31 - 1], [7, 3, 5, 2], np.arange(4) + 2**24 - 1):
        assert value_and_gradient(loss)(random_rows(), np.array(names)[LABELS])[0] == expected
    for dtype in (np.int8, np.uint8, np.int64, np.uint32) if loss.is_core else ():
        assert value_and_gradient(loss)(random_rows(), LABELS.astype(dtype))[0] == expected


@every("function", [*LABEL_LOSSES, *MINERS])
def test_N8_labels_that_are_not_classes_raise(function):
    for labels in (LABELS.astype(np.float32), LABELS > 1):
        with pytest.raises(TypeError, match="labels must be integers"):
            function(random_rows(), labels)
    with pytest.raises(ValueError, match=r"labels.*\[rows\]"):
        function(random_rows(), LABELS[:, None])


# N9: ties and corners.


@every_triplet_loss
def test_N9_no_gradient_at_the_corner_of_the_hinge(loss):
    batch = jnp.array([[0.0], [1.0], [3.0]])  # anchor 1: d(a,p) - d(a,n) + margin = 1 - 2 + 1 = 0
    value, gradient = jax.value_and_grad(lambda e: loss.function(e, jnp.array([0, 0, 1]), margin=1.0))(batch)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_N9_no_gradient_of_a_triplet_at_the_corner_of_the_hinge():
    gradient = jax.grad(lambda *rows: mj.triplet_loss(*rows, margin=1.0).sum(), argnums=(0, 1, 2))
    for row in gradient(jnp.array([[0.0]]), jnp.array([[1.0]]), jnp.array([[2.0]])):
        np.testing.assert_array_equal(row, 0)


@pytest.mark.parametrize("wrap", [jax.jit, lambda miner: miner], ids=["jit", "eager"])
def test_N9_ties_take_the_lowest_index(wrap):
    batch = jnp.array([[0.0], [1.0], [-1.0], [2.0], [-2.0], [1.0]])
    labels = jnp.array([0, 0, 0, 1, 1, 0])
    mined = wrap(mj.mining.batch_hard)(batch, labels)
    assert mined.positive[0] == 1  # of 1, 2, 5, all one away
    assert mined.negative[0] == 3  # of 3, 4, both two away
    assert mined.negative[3] == 1  # of 1, 5, both one away
    semi_hard = wrap(mj.mining.batch_semi_hard)(batch, labels)
    assert semi_hard.negative[0, 0] == 3  # of 3, 4, both two away, farther than the positive 1
    assert semi_hard.negative[1, 0] == 4  # 3 is as far as the positive 0, not farther


# N12: collapse.


@pytest.mark.parametrize("offset", [0.0, 0.3, 1000.0])
def test_N12_a_constant_model_is_collapsed(offset):
    found = mj.diagnostics.summary(jnp.full((N, DIM), offset), LABELS)
    assert found["collapsed"]
    assert found["spread"] == 0


def test_N12_a_batch_far_from_the_origin_is_not_collapsed():
    batch = np.array([[0, 0], [0.3, 0], [0.1, 0], [0.2, 0]], np.float32) + np.float32(1000)
    found = mj.diagnostics.summary(batch, np.array([0, 0, 1, 1]))
    assert not found["collapsed"]
    np.testing.assert_allclose(found["spread"], np.sqrt(0.0125), rtol=1e-3)


# N13: NaN in the input. In evaluation it is an error: see test_retrieval.


@pytest.mark.parametrize("row", [0, 6], ids=["in_a_class", "alone_in_its_class"])
@every_loss_and_measure
def test_N13_nan_in_a_valid_row_reaches_the_loss(loss, distance, row):
    for coordinates in (0, slice(None)):
        batch = random_rows()
        batch[row, coordinates] = np.nan
        value, _ = value_and_gradient(loss, distance)(batch, LABELS)
        assert np.isnan(value)


@every_loss_with("n", [N, 600], [600])
def test_N13_nan_reaches_the_loss_though_every_anchor_has_better_to_choose(loss, n):
    labels = np.where(np.arange(n) == 6, 3, np.arange(n) % 3)  # row 6 is alone in its class
    batch = (random_rows(n=n) / 100 + 10 * labels[:, None]).astype(np.float32)
    batch[6] = np.nan
    # optimized code may lose a NaN in a minimum
    value = jax.jit(lambda rows: loss(rows, labels), compiler_options=AS_SHIPPED)(batch)
    assert np.isnan(value)
    if loss.is_core:
        assert np.isnan(value_and_gradient(loss, as_shipped=True)(batch, labels)[0])


@pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum"])
@every_core_loss
def test_N13_nan_reaches_every_reduction(loss, reduction):
    batch = random_rows()
    batch[0, 0] = np.nan
    assert np.isnan(loss(batch, LABELS, reduction=reduction))


@pytest.mark.parametrize("row", [0, 1, 3])
@every_loss_of_references
def test_N13_nan_in_a_reference_reaches_the_loss(loss, row):
    memory = random_rows(1)
    memory[row, 0] = np.nan
    value, _ = with_references(loss)(random_rows(), LABELS, memory, LABELS, np.ones(N, bool))
    assert np.isnan(value)
