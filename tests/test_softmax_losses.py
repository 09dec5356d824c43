"""Softmax losses: values by hand, options, extremes; losses of two views and of continuous labels."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import references_softmax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from subjects import DIM, LABELS, N
from suite import assert_close, random_rows

import metric_jax as mj

PAIR = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
PAIR_LABELS = np.array([0, 0, 1, 2])
LOG2 = math.log(2.0)

# Values by hand: the weights exp(s / τ) are 2 of equal rows, 1 of orthogonal and 1/2 of opposite ones.

BY_HAND = {
    "ntxent": (mj.ntxent_loss, [math.log(3.5 / 2), math.log(3.5 / 2), 0, 0]),
    "supcon": (mj.supcon_loss, [math.log(3.5 / 2), math.log(3.5 / 2), 0, 0]),
    "decoupled": (mj.decoupled_contrastive_loss, [math.log(1.5 / 2), math.log(1.5 / 2), 0, 0]),
}


@pytest.mark.parametrize(("loss", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_by_hand(loss, expected):
    values = loss(PAIR, PAIR_LABELS, temperature=1 / LOG2, reduction="none")
    np.testing.assert_allclose(values, expected, atol=1e-6)
    np.testing.assert_allclose(
        loss(PAIR, PAIR_LABELS, temperature=1 / LOG2), np.mean(expected[:2]), rtol=1e-5
    )


def test_the_losses_differ_once_there_are_two_positives():
    rows, labels = PAIR[:3], np.zeros(3, int)
    losses = functools.partial(mj.supcon_loss, temperature=1 / LOG2, reduction="none")
    # Anchor 0: positives of weights 2 and 1, no negative.
    np.testing.assert_allclose(losses(rows, labels)[0], -(math.log(2 / 3) + math.log(1 / 3)) / 2, rtol=1e-5)
    assert mj.ntxent_loss(rows, labels) == 0
    assert mj.decoupled_contrastive_loss(rows, labels) == 0


TEMPERED = [mj.ntxent_loss, mj.supcon_loss, mj.decoupled_contrastive_loss, mj.soft_nearest_neighbor_loss]
every_tempered_loss = pytest.mark.parametrize("loss", TEMPERED, ids=lambda loss: loss.__name__)


@every_tempered_loss
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_is_positive(loss, temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        loss(PAIR, PAIR_LABELS, temperature=temperature)


@pytest.mark.parametrize("gap", [50.0, 1000.0])
@pytest.mark.parametrize(
    "loss", [mj.ntxent_loss, mj.supcon_loss, mj.decoupled_contrastive_loss, mj.npairs_loss]
)
def test_a_gap_of_a_thousand_is_exact(loss, gap):
    """The negative is nearer than the positive by the gap; then farther by it, and the loss of softmaxes is 0."""
    rows, labels = jnp.array([[gap, 0.0], [0.0, 1.0], [1.0, 0.0]]), np.array([0, 0, 1])
    options = {"similarity": mj.dot_product, "reduction": "none"}
    if loss is not mj.npairs_loss:
        options["temperature"] = 1.0
    np.testing.assert_allclose(loss(rows, labels, **options)[0], gap, rtol=1e-6)
    near = loss(rows, np.array([0, 1, 0]), **options)[0]
    np.testing.assert_allclose(near, -gap if loss is mj.decoupled_contrastive_loss else 0, atol=1e-20)


def test_a_small_loss_keeps_its_digits():
    value = mj.ntxent_loss(-PAIR[jnp.array([0, 1, 3])], np.array([0, 0, 1]), temperature=0.08)
    np.testing.assert_allclose(value, math.exp(-2 / 0.08), rtol=1e-4)  # 1.4e-11: 1 + it is 1


def test_a_temperature_is_learned():
    def value(log_temperature):
        return mj.supcon_loss(random_rows(), LABELS, temperature=jnp.exp(log_temperature))

    def expected(log_temperature):
        terms = functools.partial(references_softmax.supcon, temperature=np.exp(log_temperature))
        rows = np.asarray(random_rows(), np.float64)
        return references.batch_loss(terms, rows, LABELS, distance=references.cosine_similarity)

    slope = references.central_differences(expected, np.array(-1.0))
    assert_close(jax.grad(value)(-1.0), slope, 1e-5)


# The weights of the decoupled loss.


def test_the_weights_of_decoupled_pairs_are_one_on_average():
    rows, labels = np.asarray(random_rows(), np.float64), LABELS
    similarities = references.cosine_similarity(rows[:, None], rows[None])
    weighted = mj.decoupled_contrastive_loss(random_rows(), labels, temperature=1e6, sigma=0.5)
    plain = mj.decoupled_contrastive_loss(random_rows(), labels, temperature=1e6)
    np.testing.assert_allclose(
        weighted, plain, rtol=1e-5
    )  # at any temperature the pulls are small but the sum
    pairs = [similarities[i, j] for i in range(N) for j in range(N) if i != j and labels[i] == labels[j]]
    weights = 2 - np.exp(np.array(pairs) / 0.5) / np.mean(np.exp(np.array(pairs) / 0.5))
    expected = np.mean((1 - weights) * np.array(pairs)) / 0.1
    difference = mj.decoupled_contrastive_loss(random_rows(), labels, sigma=0.5)
    difference -= mj.decoupled_contrastive_loss(random_rows(), labels)
    np.testing.assert_allclose(difference, expected, rtol=1e-4)


def test_weights_of_similarities_whose_exponentials_overflow():
    rows, labels = jnp.array([[30.0, 0.0], [30.0, 1.0], [90.0, 0.0]]), np.array([0, 0, 1])
    loss = functools.partial(mj.decoupled_contrastive_loss, sigma=0.5, similarity=mj.dot_product)
    value, gradient = jax.value_and_grad(loss)(rows, labels)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


# The angle of the tuplet margin loss.


@pytest.mark.parametrize("second", [[1.0, 0.0], [-1.0, 0.0]], ids=["equal", "opposite"])
def test_tuplet_margin_where_the_angle_has_no_slope(second):
    rows = jnp.array([[1.0, 0.0], second, [0.0, 1.0]])
    loss = functools.partial(mj.tuplet_margin_loss, margin=0.5, scale=2.0, reduction="sum")
    value, gradient = jax.value_and_grad(loss)(rows, np.array([0, 0, 1]))
    expected = 2 * math.log(1 + math.exp(-2 * second[0] * math.cos(0.5)))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_a_margin_in_degrees_raises():
    with pytest.raises(ValueError, match="margin must be in"):
        mj.tuplet_margin_loss(PAIR, PAIR_LABELS, margin=5.73)


def test_one_near_positive_is_enough_for_a_neighbourhood(x64):
    """Moving the far positive changes next to nothing, though SupCon would mind."""
    labels = np.array([0, 0, 0, 1])
    near, far = (jnp.array([[0.0], [0.1], [x], [2.0]]) for x in (10.0, 20.0))
    losses = [mj.nca_loss(rows, labels, reduction="none")[0] for rows in (near, far)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


# Several labels an item.


def test_supcon_of_several_labels_equals_supcon_of_the_pairs():
    has_label = np.random.default_rng(3).random((N, 4)) < 0.3
    value = mj.supcon_loss(random_rows(), has_label, match=lambda a, b: jnp.any(a & b))
    rows = np.asarray(random_rows(), np.float64)
    expected = references.batch_loss(
        references_softmax.supcon,
        rows,
        has_label,
        match=lambda a, b: (a & b).any(),
        distance=references.cosine_similarity,
    )
    assert_close(value, expected, 1e-5)


# Continuous labels.

AGES = np.array([20.0, 35.5, 20.0, 70.25, 41.0, 0.5, 35.5, 90.0])


def expected_rank_n(rows, labels, where=None, **own):
    options = {"where": where, "match": lambda a, b: True}
    return references.batch_loss(
        references_softmax.rank_n_contrast, rows, labels, own=own, whole=True, **options
    )


@pytest.mark.parametrize("labels", [AGES, AGES.reshape(4, 2)[[0, 1, 2, 3, 0, 1, 2, 3]]], ids=["one", "two"])
def test_rank_n_contrast(labels, precision):
    rows = random_rows().astype(precision.dtype)
    labels = labels.astype(precision.dtype)
    value, gradient = jax.value_and_grad(mj.rank_n_contrast_loss)(rows, labels, temperature=1.5)
    expected = functools.partial(expected_rank_n, labels=labels, temperature=1.5)
    wide = np.asarray(rows, np.float64)
    assert_close(value, expected(wide), precision.tolerance)
    assert_close(gradient, references.central_differences(expected, wide), max(precision.tolerance, 1e-8))


def test_rank_n_contrast_of_another_label_distance():
    def on_a_circle(a, b):
        return jnp.abs(jnp.sin((a - b) / 2))

    angles = AGES**2 / 500
    value = mj.rank_n_contrast_loss(random_rows(), angles, label_distance=on_a_circle)
    expected = expected_rank_n(
        np.asarray(random_rows(), np.float64),
        angles,
        label_distance=lambda a, b: abs(math.sin((a - b) / 2)),
    )
    assert_close(value, expected, 1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16])
def test_rank_n_contrast_of_labels_of_any_type(dtype):
    labels = np.array([3, 200, 0, 17, 17, 4, 90, 255])
    expected = expected_rank_n(np.asarray(random_rows(), np.float64), labels)
    assert_close(mj.rank_n_contrast_loss(random_rows(), labels.astype(dtype)), expected, 1e-5)


@pytest.mark.parametrize(
    ("dtype", "labels"),
    [
        (np.uint32, [0, 3e9, 10, 4e9, 7, 2**31, 2**32 - 1, 1]),
        (np.int32, 2.0**24 * np.array([-120, 120, 3, -7, 0, 127, -128, 1])),
        (np.int8, [-128, 127, 3, -7, 0, 100, -100, 1]),
        (bool, [0, 1, 1, 0, 1, 0, 0, 1]),
    ],
)
def test_rank_n_contrast_of_integers_whose_difference_their_type_cannot_hold(dtype, labels):
    labels = np.array(labels, np.float64)
    expected = expected_rank_n(np.asarray(random_rows(), np.float64), labels)
    assert_close(mj.rank_n_contrast_loss(random_rows(), labels.astype(dtype)), expected, 1e-5)
    both = np.stack([labels, labels[::-1]], axis=1)
    expected = expected_rank_n(np.asarray(random_rows(), np.float64), both)
    assert_close(mj.rank_n_contrast_loss(random_rows(), both.astype(dtype)), expected, 1e-5)


def test_rank_n_contrast_without_masked_rows_and_tiled():
    where, rows, ages = np.arange(N) != 2, random_rows(), AGES.copy()
    expected = expected_rank_n(np.asarray(rows, np.float64)[where], ages[where])
    rows[2], ages[2] = np.nan, np.nan
    for tile in (3, N):
        loss = functools.partial(mj.rank_n_contrast_loss, where=where, tile=tile)
        value, gradient = jax.value_and_grad(loss)(jnp.asarray(rows), ages)
        assert_close(value, expected, 1e-5)
        np.testing.assert_array_equal(gradient[2], 0)


@pytest.mark.parametrize("unknown", [[4], range(N)], ids=["one", "all"])
def test_N13_rank_n_contrast_of_a_label_that_is_nan(unknown):
    ages = AGES.astype(np.float32)
    ages[list(unknown)] = np.nan
    assert np.isnan(mj.rank_n_contrast_loss(random_rows(), ages))


def test_rank_n_contrast_within_groups():
    """A match says who is compared at all: here those on one side of 36."""
    value = mj.rank_n_contrast_loss(
        random_rows(), AGES, match=lambda a, b: (a < 36) == (b < 36), reduction="sum"
    )
    rows, young = np.asarray(random_rows(), np.float64), AGES < 36
    pairs = [young.sum() * (young.sum() - 1), (~young).sum() * ((~young).sum() - 1)]
    means = [expected_rank_n(rows[group], AGES[group]) for group in (young, ~young)]
    assert_close(value, np.dot(pairs, means), 1e-5)


# Two views.

X, Y = random_rows(1), random_rows(2)
TWO_VIEWS = {
    "infonce": (mj.infonce_loss, references_softmax.infonce, {"temperature": 0.2, "symmetric": True}),
    "infonce_one_way": (
        mj.infonce_loss,
        references_softmax.infonce,
        {"temperature": 0.2, "symmetric": False},
    ),
    "siglip": (mj.siglip_loss, references_softmax.siglip, {"temperature": 0.3, "bias": -1.5}),
}
every_two_views = pytest.mark.parametrize(("loss", "reference", "own"), TWO_VIEWS.values(), ids=TWO_VIEWS)


def expected_two_views(reference, own, x=X, y=Y):
    x, y = (np.asarray(rows, np.float64) for rows in (x, y))
    return references_softmax.two_views(reference, x, y, references.cosine_similarity, **own)


@every_two_views
def test_two_views(loss, reference, own, precision):
    x, y = X.astype(precision.dtype), Y.astype(precision.dtype)
    np.testing.assert_allclose(
        loss(x, y, **own, reduction="none"), expected_two_views(reference, own), rtol=precision.tolerance
    )
    value, gradients = jax.value_and_grad(functools.partial(loss, **own), argnums=(0, 1))(x, y)
    assert_close(value, expected_two_views(reference, own).mean(), precision.tolerance)

    def expected(both):
        return expected_two_views(reference, own, *both).mean()

    slopes = references.central_differences(expected, np.stack([X, Y]).astype(np.float64))
    assert_close(np.stack(gradients), slopes, max(precision.tolerance, 1e-8))


@every_two_views
@pytest.mark.parametrize("tile", [1, 3, "auto"])
def test_two_views_without_masked_rows(loss, reference, own, tile):
    where = np.arange(N) % 3 != 1
    x, y = X.copy(), Y.copy()
    x[~where], y[~where] = np.nan, np.inf
    step = jax.value_and_grad(functools.partial(loss, **own, where=where, tile=tile), argnums=(0, 1))
    value, gradients = step(x, y)
    assert_close(value, expected_two_views(reference, own, X[where], Y[where]).mean(), 1e-5)
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient[~where], 0)


@every_two_views
def test_two_views_on_four_devices(loss, reference, own):
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4], axis_types=(AxisType.Auto,))
    where = np.arange(N) != 4

    def value(x, y, where, axis_name=None):
        return loss(x, y, **own, where=where, axis_name=axis_name, tile=1)

    local = functools.partial(value, axis_name="data")
    on_four = jax.shard_map(local, mesh=mesh, in_specs=P("data"), out_specs=P())
    found, gradients = jax.jit(jax.value_and_grad(on_four, argnums=(0, 1)))(X, Y, where)
    expected, expected_gradients = jax.value_and_grad(value, argnums=(0, 1))(X, Y, where)
    assert_close(found, expected_two_views(reference, own, X[where], Y[where]).mean(), 1e-5)
    assert_close(found, expected, 1e-6)
    for gradient, same in zip(gradients, expected_gradients, strict=True):
        assert_close(gradient, same, 1e-5)


@every_two_views
def test_two_views_of_nothing_of_one_row_and_of_nan(loss, reference, own):
    assert loss(X, Y, where=np.zeros(N, bool)) == 0
    assert_close(loss(X[:1], Y[:1], **own), expected_two_views(reference, own, X[:1], Y[:1]).mean(), 1e-5)
    for views in ((X, Y), (Y, X)):
        broken = views[0].copy()
        broken[3, 0] = np.nan
        assert np.isnan(loss(broken, views[1], **own))
        assert np.isnan(loss(views[1], broken, **own))


@every_two_views
def test_two_views_in_half_precision(loss, reference, own):
    x, y = jnp.asarray(X, jnp.bfloat16), jnp.asarray(Y, jnp.bfloat16)
    value = loss(x, y, **own)
    assert value.dtype == jnp.float32
    assert_close(value, expected_two_views(reference, own, x, y).mean(), 1e-5)


@every_two_views
def test_two_views_of_bad_input(loss, reference, own):
    del reference
    with pytest.raises(ValueError, match="two views of the same items"):
        loss(X, Y[:3], **own)
    with pytest.raises(ValueError, match=r"x must be \[batch, dim\]"):
        loss(X[0], Y[0], **own)
    with pytest.raises(TypeError, match="x must be floating"):
        loss(X.astype(int), Y, **own)
    with pytest.raises(TypeError, match="y must be floating"):
        loss(X, Y.astype(int), **own)
    with pytest.raises(ValueError, match="similarity must be a similarity"):
        loss(X, Y, similarity=mj.euclidean)
    with pytest.raises(ValueError, match="temperature must be positive"):
        loss(X, Y, temperature=0.0)


def test_siglip_learns_temperature_and_bias():
    def expected(both):
        own = {"temperature": both[0], "bias": both[1]}
        return expected_two_views(references_softmax.siglip, own).mean()

    def value(temperature, bias):
        return mj.siglip_loss(X, Y, temperature=temperature, bias=bias)

    slopes = references.central_differences(expected, np.array([0.3, -1.5]))
    assert_close(np.stack(jax.grad(value, argnums=(0, 1))(0.3, -1.5)), slopes, 1e-5)


def test_two_views_of_a_gap_of_a_thousand():
    x, y = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_allclose(mj.infonce_loss(x, y, temperature=1e-3), 1000, rtol=1e-6)
    assert mj.infonce_loss(x, x, temperature=1e-3) == 0
    np.testing.assert_allclose(mj.siglip_loss(x, y, temperature=1e-3, bias=0.0), 1000 + LOG2, rtol=1e-6)


def test_infonce_one_way_is_npairs_of_explicit_pairs():
    """Each row of x with its own row of y as the only positive."""
    classes = np.arange(N)
    expected = mj.ntxent_loss(X, classes, references=Y, reference_labels=classes, temperature=0.2)
    np.testing.assert_allclose(mj.infonce_loss(X, Y, temperature=0.2, symmetric=False), expected, rtol=1e-6)
    assert X.shape == (N, DIM)
