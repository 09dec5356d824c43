"""The engine of proxy losses: heads of one's own, what proxies may hold, input that is wrong, and memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from catalogue import LOSSES
from jax.experimental import checkify
from subjects import DIM, LABELS, N
from suite import assert_close, every, random_rows

import metric_jax as mj
from metric_jax.limits import POSITIVE

PROXY_LOSSES = [loss for loss in LOSSES if loss.proxies is not None]
every_proxy_loss = every("loss", PROXY_LOSSES)
WHERE = np.arange(N) != 4


def batch_of(loss, dtype=np.float64):
    return loss.batch().astype(dtype), loss.proxies.astype(dtype)


# A head of one's own.


def test_own_head_gets_everything(x64):
    @mj.softmax_head(similarity=mj.dot_product, within={"scale": POSITIVE})
    def scaled_softmax_loss(similarities, is_own, *, scale=1.0):
        return scale * similarities

    rows, proxies = random_rows().astype(np.float64), np.random.default_rng(0).normal(size=(4, DIM))
    for options in ({}, {"tile": 3}, {"where": WHERE}, {"reduction": "none"}):
        found = scaled_softmax_loss(rows, LABELS, proxies, scale=0.5, **options)
        assert_close(found, mj.instance_loss(rows, LABELS, proxies, scale=0.5, **options), 1e-12)
    with pytest.raises(ValueError, match="scale must be positive"):
        scaled_softmax_loss(rows, LABELS, proxies, scale=0.0)


def test_a_head_that_returns_no_logits_is_named():
    @mj.softmax_head
    def sums(similarities, is_own):
        return similarities.sum()

    with pytest.raises(ValueError, match="one logit for each class"):
        sums(random_rows(), LABELS, np.ones((4, DIM), np.float32))


def test_several_proxies_of_one_class_add_up(x64):
    """With labels of their own, proxies [classes, dim] may share a class: its probability is the sum."""
    rows, proxies = random_rows().astype(np.float64), np.random.default_rng(0).normal(size=(5, DIM))
    found = mj.normalized_softmax_loss(
        rows, np.zeros(N, int), proxies, proxy_labels=np.array([0, 7, 0, 8, 9]), temperature=1.0
    )
    weights = np.exp(np.asarray(mj.cosine_similarity.pairwise(rows, proxies)))
    assert_close(found, np.mean(-np.log((weights[:, 0] + weights[:, 2]) / weights.sum(axis=1))), 1e-10)


# What proxies may hold.


@every_proxy_loss
def test_gradient_of_the_proxies(loss, x64):
    rows, proxies = batch_of(loss)

    def expected(proxies):
        return loss.expected(rows, LABELS, proxies=proxies)

    gradient = jax.grad(lambda p: loss(rows, LABELS, proxies=p))(jnp.asarray(proxies))
    assert_close(gradient, references.central_differences(expected, proxies), 1e-8)


@pytest.mark.parametrize("coordinates", [0, slice(None)])
@every_proxy_loss
def test_nan_in_a_proxy_reaches_the_loss(loss, coordinates):
    for row in range(len(loss.proxies)):
        proxies = loss.proxies.astype(np.float32)
        proxies[row, ..., coordinates] = np.nan
        assert np.isnan(loss(random_rows(), LABELS, proxies=proxies))
        proxies = loss.proxies.astype(np.float32)
        proxies[row].reshape(-1, DIM)[-1, coordinates] = np.nan  # in the last center of the class
        assert np.isnan(loss(random_rows(), LABELS, proxies=proxies))


@pytest.mark.parametrize(
    "kind", ["zero_proxies", "zero_rows", "equal_proxies", "rows_at_proxies", "opposite"]
)
@every_proxy_loss
def test_degenerate_points_are_finite(loss, kind):
    rows, proxies = random_rows(), loss.proxies.astype(np.float32)
    own = proxies[LABELS].reshape(N, -1, DIM)[:, 0]
    if kind == "zero_proxies":
        proxies[:2] = 0
    elif kind == "zero_rows":
        rows[:4] = 0
    elif kind == "equal_proxies":
        proxies[:] = proxies[0]
    else:
        rows = own if kind == "rows_at_proxies" else -own
    with jax.debug_nans(True):
        value, gradients = jax.value_and_grad(lambda e, p: loss(e, LABELS, proxies=p), argnums=(0, 1))(
            jnp.asarray(rows), jnp.asarray(proxies)
        )
    if kind in ("zero_proxies", "zero_rows", "equal_proxies"):
        assert_close(value, loss.expected(rows, LABELS, proxies=proxies), 1e-5)
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@every_proxy_loss
def test_a_row_whose_class_has_no_proxy_is_as_if_it_were_not_there(loss, x64):
    rows, _ = batch_of(loss)
    labels = np.where(WHERE, LABELS, 77)
    numbers = np.arange(4)
    found, expected = (
        jax.value_and_grad(lambda e, y, w: loss(e, y, where=w, proxy_labels=numbers))(rows, y, w)
        for y, w in ((labels, np.ones(N, bool)), (LABELS, WHERE))
    )
    if loss.name == "proxy_anchor":
        return  # there it is a negative of every proxy
    jax.tree.map(functools.partial(assert_close, tolerance=1e-10), found, expected)


@every_proxy_loss
def test_proxy_labels_say_which_class_is_which(loss, x64):
    rows, proxies = batch_of(loss)
    names = np.array([30, -7, 4, 11])
    order = np.array([2, 0, 3, 1])
    found = loss(rows, names[LABELS], proxies=proxies[order], proxy_labels=names[order])
    assert_close(found, loss.expected(rows, LABELS), 1e-10)


@every_proxy_loss
def test_proxies_may_be_of_another_type(loss):
    rows, proxies = batch_of(loss, np.float32)
    value, gradient = jax.value_and_grad(lambda p: loss.function(rows, LABELS, p, **loss.own))(
        jnp.asarray(proxies, jnp.bfloat16)
    )
    assert value.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16
    assert_close(
        value, loss.expected(rows, LABELS, proxies=np.asarray(jnp.asarray(proxies, jnp.bfloat16))), 1e-5
    )


@every_proxy_loss
def test_one_class_is_no_loss_or_its_own(loss):
    proxies = loss.proxies[:1].astype(np.float32)
    with jax.debug_nans(True):
        value, gradient = jax.value_and_grad(lambda e: loss(e, np.zeros(N, int), proxies=proxies))(
            random_rows()
        )
    assert_close(value, loss.expected(random_rows(), np.zeros(N, int), proxies=proxies), 1e-5)
    assert np.isfinite(gradient).all()


# Wrong input.


@every_proxy_loss
def test_wrong_proxies_are_named(loss):
    rows, right = random_rows(), loss.proxies.astype(np.float32)
    wrong = right[:, 0] if right.ndim == 3 else right[:, None]
    with pytest.raises(ValueError, match=r"proxies must be \[classes"):
        loss.function(rows, LABELS, wrong)
    with pytest.raises(ValueError, match=r"proxies must be \[classes"):
        loss.function(rows, LABELS, right[:0], proxy_labels=np.zeros(0, int))
    with pytest.raises(ValueError, match="embeddings has dimension 3 and proxies has 2"):
        loss.function(rows, LABELS, right[..., :2])
    with pytest.raises(TypeError, match="proxies must be floating"):
        loss.function(rows, LABELS, right.astype(int))
    with pytest.raises(TypeError, match="proxies"):
        loss.function(rows, LABELS)
    with pytest.raises(ValueError, match=r"proxies must be \[classes"):
        loss.function(rows, LABELS, right[None])  # which is of one class
    with pytest.raises(
        TypeError, match="labels must be an array of integers, got None: pass the class of every"
    ):
        loss.function(rows, None, right)


@every_proxy_loss
def test_wrong_proxy_labels_are_named(loss):
    rows, proxies = random_rows(), loss.proxies.astype(np.float32)
    with pytest.raises(ValueError, match=r"proxy_labels has shape \(3,\) for 4 classes"):
        loss.function(rows, LABELS, proxies, proxy_labels=np.arange(3))
    with pytest.raises(TypeError, match="proxy_labels must be integers"):
        loss.function(rows, LABELS, proxies, proxy_labels=np.arange(4.0))
    with pytest.raises(TypeError, match="labels are int32 and proxy_labels uint32"):
        loss.function(rows, LABELS.astype(np.int32), proxies, proxy_labels=np.arange(4, dtype=np.uint32))


@pytest.mark.parametrize("outside", [-1, 4, 2**20])
@every_proxy_loss
def test_a_label_that_is_no_class_is_named(loss, outside):
    rows, labels = random_rows(), np.where(WHERE, LABELS, outside)
    with pytest.raises(ValueError, match=rf"labels must be in \[0, 4\).*got {outside}"):
        loss(rows, labels)
    assert np.isfinite(loss(rows, labels, where=WHERE))  # a row that does not count may hold any


def test_a_traced_label_that_is_no_class_is_named_by_checkify():
    rows, proxies = random_rows(), np.ones((4, DIM), np.float32)
    step = jax.jit(lambda labels: mj.arcface_loss(rows, labels, proxies))
    assert np.isfinite(step(LABELS + 1))  # without it, such a row has no term
    error, _ = checkify.checkify(step)(LABELS)
    error.throw()
    error, _ = checkify.checkify(step)(LABELS + 1)
    with pytest.raises(checkify.JaxRuntimeError, match=r"arcface_loss: labels must be in \[0, 4\)"):
        error.throw()


def test_small_integers_number_few_rows_of_many_classes():
    rows, proxies = random_rows(), np.random.default_rng(0).normal(size=(300, DIM)).astype(np.float32)
    expected = mj.arcface_loss(rows, LABELS, proxies)
    for dtype in (np.int8, np.uint8, np.int16, np.uint32):
        assert mj.arcface_loss(rows, LABELS.astype(dtype), proxies) == expected


def test_a_loss_of_angles_takes_no_other_similarity():
    for loss in PROXY_LOSSES:
        if loss.name in ("cosface", "arcface", "subcenter_arcface", "sphereface", "large_margin_softmax"):
            with pytest.raises(ValueError, match="works on angles: similarity must be"):
                loss(random_rows(), LABELS, distance=mj.dot_product)


# Memory.


@pytest.mark.parametrize("centers", [None, 4])
def test_memory_is_linear_in_rows_and_in_classes(centers):
    """Value and gradient of 32,768 rows and 10,000 classes: all logits would take 1.3 GB."""
    loss = mj.arcface_loss if centers is None else mj.soft_triple_loss
    shape = (10_000, 16) if centers is None else (2_500, centers, 16)
    struct = (
        jax.ShapeDtypeStruct((32_768, 16), np.float32),
        jax.ShapeDtypeStruct((32_768,), np.int32),
        jax.ShapeDtypeStruct(shape, np.float32),
    )
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 2)))
    assert step.lower(*struct).compile().memory_analysis().temp_size_in_bytes < 60e6


def test_memory_of_proxy_anchor_is_linear_too():
    struct = (
        jax.ShapeDtypeStruct((32_768, 16), np.float32),
        jax.ShapeDtypeStruct((32_768,), np.int32),
        jax.ShapeDtypeStruct((10_000, 16), np.float32),
    )
    step = jax.jit(jax.value_and_grad(mj.proxy_anchor_loss, argnums=(0, 2)))
    assert step.lower(*struct).compile().memory_analysis().temp_size_in_bytes < 100e6
