"""Losses that weigh pairs and look at the structure of a batch: by hand, options, corners, and what they refuse."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import references_weighting
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from subjects import DIM, LABELS, N
from suite import assert_close, random_rows

import metric_jax as mj

# Four directions in the plane, of which the cosines are round numbers.
PLANE = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]], np.float32)
PLANE_LABELS = np.array([0, 0, 1, 1])  # cosines 01: 0.8, 02: 0.6, 03: 0, 12: 0.96, 13: 0.6, 23: 0.8


def lse(*exponents):
    return math.log(sum(math.exp(x) for x in exponents))


def soft(x):
    return math.log1p(math.exp(x))


# By hand.


def test_multi_similarity_keeps_what_is_near_the_hardest():
    own = {"alpha": 2.0, "beta": 4.0, "base": 0.5, "reduction": "none"}
    # anchor 0: the negative at 0.6 is within 0.25 of the positive at 0.8, the one at 0 is not
    pull, both = soft(-0.6) / 2, soft(lse(0.4, -2.0)) / 4
    found = mj.multi_similarity_loss(PLANE, PLANE_LABELS, epsilon=0.25, **own)
    np.testing.assert_allclose(found[0], pull + soft(0.4) / 4, rtol=1e-6)
    # with 0.1, neither of the two kinds reaches the other, and nothing is left
    np.testing.assert_array_equal(mj.multi_similarity_loss(PLANE, PLANE_LABELS, epsilon=0.1, **own)[0], 0)
    # without mining all count, also those of an anchor that has negatives only
    np.testing.assert_allclose(
        mj.multi_similarity_loss(PLANE, PLANE_LABELS, epsilon=None, **own)[0], pull + both, rtol=1e-6
    )
    alone = mj.multi_similarity_loss(PLANE, np.arange(4), epsilon=None, **own)[0]
    np.testing.assert_allclose(alone, soft(lse(1.2, 0.4, -2.0)) / 4, rtol=1e-6)
    assert mj.multi_similarity_loss(PLANE, np.arange(4), **own).max() == 0


def test_multi_similarity_mean_counts_anchors_that_mine_nothing():
    own = {"alpha": 2.0, "beta": 4.0, "epsilon": 0.1}
    each = mj.multi_similarity_loss(PLANE, PLANE_LABELS, **own, reduction="none")
    assert (each == 0).sum() == 2  # the anchors 0 and 3
    np.testing.assert_allclose(
        mj.multi_similarity_loss(PLANE, PLANE_LABELS, **own), each.sum() / 4, rtol=1e-6
    )


def test_circle_by_hand():
    # anchor 0: positive at 0.8 with the weight 1.25 - 0.8; negatives at 0.6 and 0 with 0.85 and 0.25
    pull = -4 * 0.45 * (0.8 - 0.75)
    push = lse(4 * 0.85 * (0.6 - 0.25), 4 * 0.25 * (0 - 0.25))
    found = mj.circle_loss(PLANE, PLANE_LABELS, margin=0.25, scale=4.0, reduction="none")
    np.testing.assert_allclose(found[0], soft(pull + push), rtol=1e-6)


def test_circle_weights_get_no_gradient():
    """Of the anchor (1, 0), with one of each: its slopes by their similarities are as if weights were constant."""
    batch = jnp.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
    own = {"margin": 0.25, "scale": 4.0, "similarity": mj.dot_product, "reduction": "none"}

    def of_anchor(similarities):
        return mj.circle_loss(batch.at[1:, 0].set(similarities), np.array([0, 0, 1]), **own)[0]

    slope = jax.grad(of_anchor)(batch[1:, 0])
    pull, push = 4 * 0.45, 4 * 0.85
    sigmoid = 1 / (1 + math.exp(pull * 0.05 - push * 0.35))
    np.testing.assert_allclose(slope, [-pull * sigmoid, push * sigmoid], rtol=1e-5)


@pytest.mark.parametrize("scale", [100.0, 1000.0])
def test_large_scales_are_exact(scale):
    """Positives opposite, negatives equal: the exponents are of the order of the scale."""
    batch, labels = np.array([[1, 0], [-1, 0], [1, 0]], np.float32), np.array([0, 0, 1])
    found = mj.circle_loss(batch, labels, scale=scale, reduction="none")
    np.testing.assert_allclose(found[0], scale * (2.25 * 1.75 + 1.25 * 0.75), rtol=1e-6)
    found = mj.multi_similarity_loss(batch, labels, alpha=scale, beta=scale, reduction="none")
    np.testing.assert_allclose(found[0], 1.5 + 0.5, rtol=1e-6)
    assert np.isfinite(jax.grad(mj.circle_loss)(batch, labels)).all()


def test_margin_by_hand():
    line, labels = np.array([[0.0], [2.0], [1.0], [4.0]], np.float32), np.array([0, 0, 1, 1])
    # anchor 0: positive 2 - 1.5 + 0.25; negatives at 1 and 4: 1.5 - 1 + 0.25, 0
    each = mj.margin_loss(line, labels, margin=0.25, beta=1.5, reduction="none")
    np.testing.assert_allclose(each, [1.5, 0.75 + 0.75, 1.75 + 1.5, 1.75], rtol=1e-6)
    np.testing.assert_allclose(mj.margin_loss(line, labels, margin=0.25, beta=1.5), 8 / 12, rtol=1e-6)
    active = mj.margin_loss(line, labels, margin=0.25, beta=1.5, reduction="mean_active")
    np.testing.assert_allclose(active, 8 / 8, rtol=1e-6)


def test_margin_with_a_beta_for_every_class(precision):
    beta = np.array([1.0, 1.25, 1.5, 0.75], precision.dtype)
    rows = random_rows().astype(precision.dtype)
    found, slopes = jax.value_and_grad(lambda b: mj.margin_loss(rows, LABELS, beta=b))(jnp.asarray(beta))

    def expected(beta):
        terms = functools.partial(references_weighting.margin_based, beta=beta)
        return references.batch_loss(terms, rows.astype(float), LABELS, whole=True)

    assert_close(found, expected(beta.astype(float)), precision.tolerance)
    assert_close(
        slopes, references.central_differences(expected, beta.astype(float)), max(precision.tolerance, 1e-8)
    )


def test_margin_names_a_label_without_a_beta():
    beta, rows = np.ones(3, np.float32), random_rows()
    with pytest.raises(ValueError, match="margin_loss: label 3 has no beta: there are 3 of them"):
        mj.margin_loss(rows, LABELS, beta=beta)
    with pytest.raises(ValueError, match="label -1 has no beta"):
        mj.margin_loss(embeddings=rows, labels=-np.ones(N, int), beta=beta)
    with pytest.raises(ValueError, match=r"beta must be a number or \[classes\], got shape \(2, 2\)"):
        mj.margin_loss(rows, LABELS, beta=np.ones((2, 2)))
    assert np.isfinite(mj.margin_loss(rows, LABELS, beta=beta, where=LABELS < 3))
    step = jax.jit(
        jax.value_and_grad(lambda rows, labels, where: mj.margin_loss(rows, labels, beta=beta, where=where))
    )
    assert np.isnan(step(rows, LABELS, np.ones(N, bool))[0])  # too late for an error, and not to be missed
    value, gradient = step(rows, LABELS, LABELS < 3)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_ranked_list_by_hand():
    line, labels = np.array([[0.0], [2.0], [1.0], [0.5]], np.float32), np.array([0, 0, 1, 1])
    # anchor 0, α = 1.25, m = 0.5: positive 2 - 0.75; negatives at 1 and 0.5, both nearer than α
    w, v = math.exp(2 * 0.25), math.exp(2 * 0.75)
    expected = 0.75 * 1.25 + 0.25 * (w * 0.25 + v * 0.75) / (w + v)
    own = {"margin": 0.5, "alpha": 1.25, "balance": 0.25, "negative_temperature": 2.0}
    np.testing.assert_allclose(
        mj.ranked_list_loss(line, labels, **own, reduction="none")[0], expected, rtol=1e-6
    )


def test_ranked_list_at_a_high_temperature_is_the_worst():
    line, labels = np.array([[0.0], [500.0], [900.0], [1000.0]], np.float32), np.array([0, 1, 1, 1])
    own = {"alpha": 2000.0, "balance": 1.0, "negative_temperature": 5.0}
    found, gradient = jax.value_and_grad(
        lambda x: mj.ranked_list_loss(x, labels, **own, reduction="none")[0]
    )(line)
    np.testing.assert_allclose(found, 1500.0, rtol=1e-6)
    np.testing.assert_array_equal(gradient[:, 0], [1.0, -1.0, 0.0, 0.0])


def test_generalized_lifted_by_hand():
    line, labels = np.array([[0.0], [2.0], [1.0], [4.0]], np.float32), np.array([0, 0, 0, 1])
    expected = lse(2.0, 1.0) + 1.0 - 4.0, lse(2.0, 1.0) + 1.0 - 2.0
    found = mj.generalized_lifted_structure_loss(line, labels, reduction="none")
    np.testing.assert_allclose(found[:2], [max(expected[0], 0), expected[1]], rtol=1e-6)
    assert found[3] == 0


def test_lifted_by_hand():
    line, labels = np.array([[0.0], [2.0], [1.0], [4.0]], np.float32), np.array([0, 0, 1, 1])
    # the pair 01: negatives of 0 at 1 and 4, of 1 at 1 and 2
    term = (2 + lse(0.0, -3.0, 0.0, -1.0)) ** 2 / 2
    found = mj.lifted_structure_loss(line, labels, reduction="none")
    np.testing.assert_allclose(found[:2], [term, term], rtol=1e-6)


def test_lifted_without_any_negative():
    found, gradient = jax.value_and_grad(mj.lifted_structure_loss)(random_rows(), np.zeros(N, int))
    assert found == 0
    np.testing.assert_array_equal(gradient, 0)


def test_lifted_takes_its_references_negatives_from_the_anchors(x64):
    """An asymmetric match and explicit pairs: who is a negative of whom is always asked from the anchor's side."""
    rows, memory = random_rows().astype(float), random_rows(1, n=5).astype(float)
    options = {
        "references": memory,
        "reference_labels": np.array([0, 1, 2, 0, 3]),
        "match": lambda a, b: a <= b,
    }
    expected = references.batch_loss(references_weighting.lifted, rows, LABELS, whole=True, **options)
    assert_close(mj.lifted_structure_loss(rows, LABELS, **options, tile=3), expected, 1e-10)
    pairs = mj.Pairs([0, 0, 1, 2], [1, 2, 2, 4], [True, False, False, False], np.ones(4, bool))
    d = references.euclidean
    exponents = [1 - d(rows[0], memory[2])]  # of the anchor 0; nobody has the reference 1 as a negative
    expected = (d(rows[0], memory[1]) + lse(*exponents)) ** 2 / 2
    found = mj.lifted_structure_loss(rows, None, references=memory, pairs=pairs)
    assert_close(found, expected, 1e-10)


def test_intra_pair_variance_by_hand():
    own = {"positive_epsilon": 0.1, "negative_epsilon": 0.2, "reduction": "none"}
    found = mj.intra_pair_variance_loss(PLANE, PLANE_LABELS, **own)
    # positives all at 0.8; negatives at 0.6, 0, 0.96, 0.6: their mean is 0.54
    highest = 1.2 * 0.54
    np.testing.assert_allclose(found, [0, (0.96 - highest) ** 2, (0.96 - highest) ** 2, 0], rtol=1e-5)
    summed = mj.intra_pair_variance_loss(PLANE, PLANE_LABELS, positive_epsilon=0.1, negative_epsilon=0.2)
    np.testing.assert_allclose(summed, 2 * (0.96 - highest) ** 2 / 8, rtol=1e-5)


def test_signal_to_noise_by_hand():
    x, y = jnp.array([[0.0, 4.0], [3.0, 3.0], [3.0, 3.0]]), jnp.array([[0.0, 2.0], [0.0, 4.0], [5.0, 5.0]])
    expected = [1 / 4, 4.0, 0.0]  # no signal: the noise alone; no noise: 0
    np.testing.assert_allclose(mj.signal_to_noise(x, y), expected, rtol=1e-6)
    np.testing.assert_allclose(np.diag(mj.signal_to_noise.pairwise(x, y)), expected, rtol=1e-6)
    assert mj.signal_to_noise(y, x)[0] == 1.0
    constant = np.full((2, 7), 0.3, np.float32)  # whose mean is not exactly 0.3
    assert mj.signal_to_noise(constant, constant + 0.1).max() == 0
    for fn in (mj.signal_to_noise, mj.signal_to_noise.pairwise):
        gradient = jax.grad(lambda a, b, fn=fn: jnp.sum(fn(a, b)), argnums=(0, 1))(x, y)
        assert all(np.isfinite(g).all() for g in gradient)


def test_angular_by_hand():
    # the pair 01, α = 45°: 4 (a + p)·n - 4 a·p, with the negatives 2 and 3
    total = lse(4 * (0.6 + 0.96) - 3.2, 4 * (0.0 + 0.6) - 3.2)
    found = mj.angular_loss(PLANE, PLANE_LABELS, reduction="none")
    np.testing.assert_allclose(found[:2], [soft(total)] * 2, rtol=1e-6)


def test_angular_takes_embeddings_as_they_are_under_the_dot_product(x64):
    rows = random_rows().astype(float)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = mj.angular_loss(rows / lengths, LABELS, similarity=mj.dot_product)
    np.testing.assert_allclose(mj.angular_loss(rows, LABELS), unit, rtol=1e-12)
    assert not np.isclose(mj.angular_loss(rows, LABELS, similarity=mj.dot_product), unit)


# The histogram loss.


@pytest.mark.parametrize("bins", [1, 4, 37, 100])
def test_histogram_is_the_papers_double_sum(bins, x64):
    rows = random_rows(2, n=20).astype(float)
    labels = np.arange(20) % 6
    anchors = list(references.anchors(rows, labels, distance=references.cosine_similarity))
    expected = references_weighting.histogram_double_sum(anchors, bins)
    assert_close(mj.histogram_loss(rows, labels, bins=bins), expected, 1e-10)


def test_histogram_by_hand():
    # 2 bins, nodes -1, 0, 1: negatives at 0.6, 0, 0.96, 0.6 have 0.54 at 1; positives, all at 0.8, have 0.8 there
    np.testing.assert_allclose(mj.histogram_loss(PLANE, PLANE_LABELS, bins=2), 0.8 * 0.54 + 0.2, rtol=1e-6)


def test_histogram_beyond_the_ends():
    rows, labels = np.array([[2.0], [2.0], [-2.0], [-2.0]], np.float32), np.array([0, 0, 1, 1])
    value, gradient = jax.value_and_grad(mj.histogram_loss)(rows, labels, similarity=mj.dot_product)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
    with pytest.raises(ValueError, match="histogram_loss: bins must be a positive integer"):
        mj.histogram_loss(rows, labels, bins=0)


# Ranges.


@pytest.mark.parametrize(
    ("loss", "own", "message"),
    [
        (mj.multi_similarity_loss, {"alpha": 0.0}, "alpha must be positive"),
        (mj.multi_similarity_loss, {"epsilon": -0.1}, "epsilon must be at least 0"),
        (mj.circle_loss, {"margin": 1.5}, r"margin must be in \[0, 1\]"),
        (mj.circle_loss, {"scale": 0.0}, "scale must be positive"),
        (mj.ranked_list_loss, {"balance": 1.5}, r"balance must be in \[0, 1\]"),
        (mj.angular_loss, {"alpha": 45.0}, r"alpha must be in \(0, 1.5708\)"),
        (mj.intra_pair_variance_loss, {"positive_epsilon": -0.1}, "positive_epsilon must be at least 0"),
    ],
)
def test_hyperparameters_out_of_range(loss, own, message):
    with pytest.raises(ValueError, match=message):
        loss(random_rows(), LABELS, **own)


# Pairs of the user's own.

OWN = mj.Pairs(
    anchor=np.array([0, 0, 0, 3, 3, 5, 7, 7]),
    reference=np.array([4, 1, 2, 6, 0, 0, 2, 6]),
    is_positive=np.array([True, False, False, True, False, True, True, False]),
    valid=np.array([True, True, True, True, True, True, True, False]),
)
BY_PAIRS = {
    "contrastive": (mj.batch_contrastive_loss, references.contrastive, False, mj.euclidean),
    "batch_all": (mj.batch_all_triplet_loss, references.batch_all, False, mj.euclidean),
    "semi_hard": (mj.batch_semi_hard_triplet_loss, references.semi_hard, False, mj.euclidean),
    "semi_hard_swap": (
        functools.partial(mj.batch_semi_hard_triplet_loss, swap=True),
        functools.partial(references_weighting.semi_hard_options, distance=references.euclidean, swap=True),
        True,
        mj.euclidean,
    ),
    "circle": (mj.circle_loss, references_weighting.circle, True, mj.cosine_similarity),
    "margin": (mj.margin_loss, references_weighting.margin_based, True, mj.euclidean),
    "lifted": (mj.lifted_structure_loss, references_weighting.lifted, True, mj.euclidean),
    "histogram": (mj.histogram_loss, references_weighting.histogram, True, mj.cosine_similarity),
    "angular": (mj.angular_loss, references_weighting.angular, True, mj.cosine_similarity),
}


def by_pairs(name, rows, memory, pairs):
    """The loss of these pairs and no others, by the references."""
    _, terms, whole, measure = BY_PAIRS[name]
    anchors = []
    distance = references.DISTANCES[measure.name]
    for i, row in enumerate(rows):
        masks = np.zeros((2, len(memory)), bool)
        for a, r, is_positive, valid in zip(*pairs, strict=True):
            masks[0 if is_positive else 1, r] |= valid and a == i
        anchors.append(references.Anchor(distance(row[None], memory), *masks, row, None, memory, None, True))
    found = terms(anchors) if whole else [terms(*anchor[:3]) for anchor in anchors]
    return references.reduced(found, "mean")


@pytest.mark.parametrize(("in_own_batch", "tile"), [(True, 3), (False, "auto")], ids=["batch", "references"])
@pytest.mark.parametrize("name", BY_PAIRS)
def test_explicit_pairs(name, in_own_batch, tile, x64):
    rows, memory = random_rows().astype(float), random_rows(1, n=7).astype(float)
    options = {} if in_own_batch else {"references": memory}
    found = BY_PAIRS[name][0](rows, None, pairs=OWN, tile=tile, **options)
    expected = by_pairs(name, rows, rows if in_own_batch else memory, OWN)
    assert expected > 0 or name == "semi_hard"
    assert_close(found, expected, 1e-10)


@pytest.mark.parametrize("name", BY_PAIRS)
def test_explicit_pairs_on_four_devices(name, x64):
    """Every device names its own two anchors from 0, and the references of all."""
    rows, loss = random_rows().astype(float), BY_PAIRS[name][0]
    local = OWN._replace(anchor=OWN.anchor % 2)
    order = np.concatenate([np.flatnonzero((OWN.anchor // 2 == device) & OWN.valid) for device in range(4)])
    slots, valid = np.zeros((4, 3), int), np.zeros((4, 3), bool)
    for device in range(4):
        mine = [i for i in order if OWN.anchor[i] // 2 == device]
        slots[device, : len(mine)], valid[device, : len(mine)] = mine, True
    pairs = mj.Pairs(*(column[slots.ravel()] for column in local[:3]), valid.ravel())
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4], axis_types=(AxisType.Auto,))

    def mapped(rows, pairs):
        return loss(rows, None, pairs=pairs, axis_name="data")

    on_four = jax.shard_map(mapped, mesh=mesh, in_specs=P("data"), out_specs=P())
    value, gradient = jax.jit(jax.value_and_grad(on_four))(rows, pairs)
    expected, slope = jax.value_and_grad(lambda rows: loss(rows, None, pairs=OWN))(jnp.asarray(rows))
    assert_close(value, by_pairs(name, rows, rows, OWN), 1e-10)
    assert_close(value, expected, 1e-10)
    assert_close(gradient, slope, 1e-10)


def test_pairs_out_of_range_are_named():
    rows, memory = random_rows(), random_rows(1, n=3)
    good = mj.Pairs([0, 7], [1, 2], [True, False], [True, True])
    loss = functools.partial(mj.batch_contrastive_loss, rows, None)
    with pytest.raises(ValueError, match=r"pairs.anchor holds 8, and there are only 8 rows"):
        loss(pairs=good._replace(anchor=[0, 8]))
    with pytest.raises(ValueError, match=r"pairs.reference holds -1, and there are only 8 rows"):
        loss(pairs=good._replace(reference=[-1, 0]))
    with pytest.raises(ValueError, match=r"pairs.reference holds 3, and there are only 3 rows"):
        loss(pairs=good._replace(reference=[3, 0]), references=memory)
    both = {"references": memory, "with_batch": True}
    assert np.isfinite(loss(pairs=good._replace(reference=[3, 10]), **both))
    with pytest.raises(ValueError, match=r"pairs.reference holds 11, and there are only 11 rows"):
        loss(pairs=good._replace(reference=[3, 11]), **both)
    assert np.isfinite(loss(pairs=good._replace(anchor=[0, 8], valid=[True, False])))
    triplets = mj.Triplets([0], [1], [8], [True])
    with pytest.raises(ValueError, match=r"pairs.reference holds 8"):
        loss(pairs=triplets)
    assert rows.shape[1] == DIM


def test_a_pair_of_both_signs_is_named_and_one_that_is_there_twice_counts_once():
    rows = random_rows()
    loss = functools.partial(mj.batch_contrastive_loss, rows, None, reduction="sum")
    judged = mj.Triplets(*map(np.array, ([0, 0, 1], [1, 2, 2], [2, 3, 3], [True, True, True])))
    with pytest.raises(
        ValueError, match="pairs hold anchor 0 with reference 2 as a positive and as a negative"
    ):
        loss(pairs=judged)
    once = mj.Pairs([0, 0], [2, 3], [True, False], [True, True])
    twice = jax.tree.map(lambda x: np.concatenate([x, x]), mj.Pairs(*map(np.array, once)))
    np.testing.assert_array_equal(loss(pairs=twice), loss(pairs=once))
    both = twice._replace(is_positive=np.array([True, False, False, False]))
    found = jax.jit(lambda pairs: loss(pairs=pairs))(both)  # where it is not known, a positive
    np.testing.assert_array_equal(found, loss(pairs=once))


def test_labels_of_references_may_be_of_any_type_where_pairs_stand_in_for_those_of_the_batch():
    rows, pairs = random_rows(), mj.Pairs([0], [1], [True], [True])
    labels = np.zeros(N, np.uint32)
    found = mj.batch_contrastive_loss(rows, None, references=rows, reference_labels=labels, pairs=pairs)
    np.testing.assert_array_equal(found, mj.batch_contrastive_loss(rows, None, references=rows, pairs=pairs))
