"""Verification against counting loops in exact fractions, against scikit-learn, and what is refused (N15)."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
import references_evaluation as references
from sklearn import metrics

import metric_jax as mj
from metric_jax.evaluation import roc, threshold_at, verification
from metric_jax.evaluation.intervals import proportion


def drawn(seed, pairs=60, steps=None):
    """Pairs whose genuine are nearer, as a rule; with ``steps``, at so few distances that many are tied."""
    generator = np.random.default_rng(seed)
    is_same = generator.random(pairs) < 0.4
    is_same[:2] = True, False
    distances = generator.normal(size=pairs) + np.where(is_same, 0.0, 1.2)
    return (np.round(distances * steps) / steps if steps else distances), is_same


def below(distance):
    """The next smaller number of float32."""
    return float(np.nextafter(np.float32(distance), np.float32(-np.inf)))


every_case = pytest.mark.parametrize(
    ("distances", "is_same"),
    [
        *(drawn(seed) for seed in range(3)),
        *(drawn(seed, steps=steps) for seed, steps in ((3, 3), (4, 1), (5, 0.5))),
        drawn(6, pairs=2),
        drawn(7, pairs=3, steps=1),
    ],
)


@every_case
def test_values_are_those_of_counting(distances, is_same):
    found = verification(distances, is_same, fars=())
    assert found["auc"] == pytest.approx(float(references.auc(distances, is_same)), rel=1e-12)
    assert found["eer"] == pytest.approx(float(references.eer(distances, is_same)), abs=1e-12)
    threshold = references.best_threshold(distances, is_same)
    right = int(references.right(distances, is_same, threshold))
    assert found["accuracy"] == right / len(distances)
    assert found["threshold"] == (threshold if threshold > -math.inf else below(distances.min()))
    assert (found["genuine"], found["impostors"]) == (is_same.sum(), (~is_same).sum())


@every_case
def test_roc_is_that_of_counting_and_of_scikit_learn(distances, is_same):
    curve = roc(distances, is_same)
    expected = [references.rates(distances, is_same, t) for t in references.thresholds(distances)]
    np.testing.assert_array_equal(curve.thresholds, references.thresholds(distances))
    np.testing.assert_allclose(curve.far, [float(far) for far, _ in expected], rtol=1e-12)
    np.testing.assert_allclose(curve.fnmr, [float(fnmr) for _, fnmr in expected], atol=1e-12)
    far, tar, scores = metrics.roc_curve(is_same, -distances, drop_intermediate=False)
    np.testing.assert_allclose(curve.far, far, rtol=1e-12)
    np.testing.assert_allclose(curve.tar, tar, rtol=1e-12)
    np.testing.assert_array_equal(curve.thresholds, -scores)
    found = verification(distances, is_same, fars=())
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(is_same, -distances), rel=1e-12)
    det = np.stack(metrics.det_curve(is_same, -distances)[:2], axis=1)
    ours = np.stack([curve.far, curve.fnmr], axis=1)
    assert all(np.isclose(ours, point, atol=1e-12).all(axis=1).any() for point in det)


@every_case
@pytest.mark.parametrize("far", [0.05, 0.3, 1 / 3, 0.9999, 1.0])
def test_threshold_at_an_FAR(distances, is_same, far):
    impostors = int((~is_same).sum())
    if far < 1 / impostors:
        with pytest.raises(ValueError, match="not resolvable"):
            threshold_at(distances, is_same, far)
        return
    threshold, measured, tar = threshold_at(distances, is_same, far)
    expected = references.threshold_at(distances, is_same, far)
    assert (measured, tar) == pytest.approx(expected[1:])
    assert threshold == (expected[0] if expected[0] > -math.inf else below(distances.min()))
    # What it says is what accepting up to it does, and the next distance would be too many.
    assert (distances[~is_same] <= threshold).mean() == measured <= far
    assert (distances[is_same] <= threshold).mean() == pytest.approx(tar)
    larger = distances[distances > threshold]
    assert larger.size == 0 or (distances[~is_same] <= larger.min()).mean() > far
    found = verification(distances, is_same, fars=[far])
    key = f"tar@far={far:g}"
    assert found[key] == tar


@pytest.mark.parametrize("impostors", [7, 10, 49, 100, 1000])
def test_an_FAR_that_is_a_whole_number_of_impostors_is_reached(impostors):
    """0.29 of 100 impostors are 29, although 0.29 * 100 is less."""
    distances = np.arange(impostors + 1.0)
    is_same = distances == impostors
    for accepted in {1, impostors // 3, 29 * impostors // 100 or 1, impostors - 1}:
        threshold, measured, _ = threshold_at(distances, is_same, accepted / impostors)
        assert (threshold, measured) == (accepted - 1, accepted / impostors)


@pytest.mark.parametrize("sizes", [(6,) * 10, (20, 30, 10), (1, 29, 30)])
@pytest.mark.parametrize("steps", [None, 2])
def test_folds_are_judged_by_the_others(sizes, steps):
    distances, is_same = drawn(8, pairs=60, steps=steps)
    folds = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)) * 3 - 1, sizes))
    found = verification(distances, is_same, folds=folds, fars=())
    accuracies = references.fold_accuracies(distances, is_same, folds)
    assert found["accuracy"] == pytest.approx(np.mean(accuracies))
    spread = math.sqrt(sum((a - np.mean(accuracies)) ** 2 for a in accuracies) / (len(sizes) - 1))
    assert found["accuracy_std"] == pytest.approx(spread / math.sqrt(len(sizes)))
    right = round(sum(a * (folds == f).sum() for a, f in zip(accuracies, sorted(set(folds)), strict=True)))
    low, high = proportion(right, 60)
    ends = min(low, found["accuracy"]), max(high, found["accuracy"])
    assert (found["accuracy_low"], found["accuracy_high"]) == ends
    together = verification(distances, is_same, fars=())
    assert together["threshold"] == found["threshold"]
    assert "accuracy_std" not in together


def test_a_fold_has_no_say_in_its_own_threshold():
    distances = np.array([1.0, 2.0, 3.0, 11.0, 12.0, 13.0])
    is_same = np.array([True, True, False, True, True, False])
    found = verification(distances, is_same, folds=[0, 0, 0, 1, 1, 1], fars=())
    assert found["accuracy"] == pytest.approx((2 / 3 + 1 / 3) / 2)  # accepts all; accepts none
    assert verification(distances, is_same, fars=())["accuracy"] == 5 / 6


def test_ties_by_hand():
    """Two genuine and two impostors at one distance: nothing between accepting none of the four and all."""
    distances, is_same = np.array([1.0, 1, 1, 1]), np.array([True, True, False, False])
    found = verification(distances, is_same, fars=())
    assert (found["auc"], found["eer"], found["accuracy"]) == (0.5, 0.5, 0.5)
    assert found["threshold"] == below(1.0)
    threshold, measured, tar = threshold_at(distances, is_same, 0.5)
    assert (threshold < 1.0, measured, tar) == (True, 0.0, 0.0)
    # one genuine pair before the tie, one impostor after it
    found = verification([0.0, 1, 1, 1, 1, 2], [True, True, True, False, False, False], fars=())
    assert found["eer"] == pytest.approx(1 / 3)
    assert found["auc"] == pytest.approx((3 + 2 * 2 / 2 + 2) / 9)


@pytest.mark.parametrize("distance", [0.0, 1e-40, 0.3, 7.0, -2.0, 1e300, -1e300])
def test_a_threshold_that_accepts_nothing_does_so_in_float32_too(distance):
    """As distances are measured: by NumPy, and by XLA, which takes subnormal numbers for 0."""
    distances, is_same = np.full(4, distance), np.arange(4) < 2
    threshold, measured, _ = threshold_at(distances, is_same, 0.5)
    assert measured == 0.0
    assert math.isfinite(threshold)
    assert verification(distances, is_same, fars=())["threshold"] == threshold
    assert not (distances <= threshold).any()
    if abs(distance) < 1e38:
        assert not (distances.astype(np.float32) <= threshold).any()
        assert not (jnp.asarray(distances, jnp.float32) <= threshold).any()


def test_an_FAR_that_rounding_made_smaller_is_what_was_meant():
    distances, is_same = np.arange(11.0), np.arange(11) == 10
    assert 1 - 0.9 < 0.1
    assert (
        threshold_at(distances, is_same, 1 - 0.9) == threshold_at(distances, is_same, 0.1) == (0.0, 0.1, 0.0)
    )


def test_perfect_and_perfectly_wrong():
    distances, is_same = np.arange(10.0), np.arange(10) < 4
    found = verification(distances, is_same, fars=(0.2,))
    assert (found["auc"], found["eer"], found["accuracy"], found["tar@far=0.2"]) == (1.0, 0.0, 1.0, 1.0)
    assert found["threshold"] == 3.0
    found = verification(-distances, is_same, fars=(0.2,))
    assert (found["auc"], found["eer"], found["tar@far=0.2"]) == (0.0, 1.0, 0.0)


@every_case
def test_what_must_not_matter(distances, is_same):
    options = {"fars": (1.0,)}
    found = verification(distances, is_same, **options)
    order = np.random.default_rng(0).permutation(len(distances))
    assert verification(distances[order], is_same[order], **options) == found
    stretched = verification(np.exp(distances), is_same, **options)
    exchanged = verification(-distances, ~is_same, **options)
    for key in ("auc", "eer"):
        assert stretched[key] == found[key]
        assert exchanged[key] == pytest.approx(found[key], abs=1e-12)
    assert exchanged["accuracy"] == found["accuracy"]
    assert verification(distances.tolist(), is_same.tolist(), **options) == found


def test_arrays_of_jax():
    distances, is_same = drawn(0, steps=4)
    found = verification(jnp.asarray(distances, jnp.bfloat16), jnp.asarray(is_same))
    assert found == verification(distances, is_same)


@every_case
def test_every_number_lies_in_its_interval(distances, is_same):
    found = verification(distances, is_same, fars=(1.0,))
    for key in ("auc", "eer", "accuracy", "tar@far=1"):
        assert 0 <= found[f"{key}_low"] <= found[key] <= found[f"{key}_high"] <= 1
        assert found[f"{key}_low"] < found[f"{key}_high"] or key == "tar@far=1"
    assert found["tar@far=1_low"] == 1  # whatever the pairs are


def test_the_accuracy_over_unequal_folds_lies_in_its_interval():
    """Half of the fold of 200 is right and none of the fold of 2: by hand, 0.25, and 100 of 202 decisions."""
    is_same = np.r_[np.ones(100, bool), np.zeros(100, bool), True, False]
    distances = np.r_[np.zeros(100), np.ones(100), 1.0, 0.0]
    found = verification(distances, is_same, folds=np.r_[np.zeros(200, int), 1, 1], fars=())
    assert (found["accuracy"], found["accuracy_low"]) == (0.25, 0.25)
    assert found["accuracy_high"] == proportion(100, 202)[1]


def test_intervals_widen_with_the_level_and_depend_on_the_seed_alone():
    ends = [verification(*drawn(0), level=level, seed=seed) for level, seed in ((0.5, 0), (0.9, 0), (0.9, 1))]
    narrow, wide, other = ([x[f"{k}_low"] - x[f"{k}_high"] for k in ("auc", "eer", "accuracy")] for x in ends)
    assert all(a > b for a, b in zip(narrow, wide, strict=True))
    assert wide != other
    assert verification(*drawn(0), level=0.9) == ends[1]


def test_results_are_plain_numbers():
    found = verification(*drawn(0), folds=np.arange(60) % 4)
    assert {type(found.pop(key)) for key in ("genuine", "impostors")} == {int}
    assert {type(value) for value in found.values()} == {float}
    json.dumps(found, allow_nan=False)


def test_N15_default_FARs_are_left_out_where_they_are_not_resolvable():
    distances = np.arange(120.0)
    for impostors, expected in ((5, []), (10, ["0.1"]), (99, ["0.1"]), (100, ["0.1", "0.01"])):
        found = verification(distances, distances < 120 - impostors)
        keys = {f"tar@far={far}{end}" for far in expected for end in ("", "_low", "_high")}
        assert {key for key in found if key.startswith("tar")} == keys
    assert "tar@far=0.001" in verification(np.arange(1001.0), np.arange(1001) < 1)


def test_N15_an_FAR_that_was_asked_for_is_an_error_where_it_is_not_resolvable():
    distances, is_same = np.arange(120.0), np.arange(120) < 21
    message = r"FAR of 0\.01 is not resolvable with 99 impostors: it takes at least 100 of them"
    with pytest.raises(ValueError, match=message):
        verification(distances, is_same, fars=(0.1, 0.01))
    with pytest.raises(ValueError, match=message):
        threshold_at(distances, is_same, 0.01)
    with pytest.raises(ValueError, match=r"FAR of 0\.001 .* at least 1000 of them"):
        threshold_at(distances, is_same, 0.001)


def test_N15_one_kind_only():
    for kind in (True, False):
        message = f"needs pairs of both kinds, got {3 * kind} genuine .* and {3 * (not kind)} impostors"
        for function in (verification, roc, lambda *pairs: threshold_at(*pairs, 0.5)):
            with pytest.raises(ValueError, match=message):
                function([0.0, 1.0, 2.0], [kind] * 3)
    with pytest.raises(ValueError, match="both kinds, got 0 genuine"):
        roc([], np.zeros(0, bool))


@pytest.mark.parametrize("function", [verification, roc, lambda *pairs: threshold_at(*pairs, 0.5)])
def test_bad_pairs(function):
    distances, is_same = drawn(0)
    for junk in (np.nan, np.inf, -np.inf):
        broken = distances.copy()
        broken[[7, 9]] = junk
        with pytest.raises(ValueError, match=rf"distances hold {junk} at pair 7 \(2 pairs in all\)"):
            function(broken, is_same)
    with pytest.raises(ValueError, match=r"got shapes \[60\] and \[59\]"):
        function(distances, is_same[1:])
    with pytest.raises(ValueError, match=r"\[pairs\].* got shapes \[60, 1\] and \[60, 1\]"):
        function(distances[:, None], is_same[:, None])
    with pytest.raises(TypeError, match=r"is_same must be boolean, got int64: pass is_same\.astype"):
        function(distances, is_same.astype(int))
    with pytest.raises(TypeError, match="distances must be an array of real numbers, got list"):
        function(["near", "far"], [True, False])
    with pytest.raises(TypeError, match="distances must be an array of real numbers, got list"):
        function(["0.1", "0.2"], [True, False])


def test_bad_options():
    distances, is_same = drawn(0)
    for far in (0.0, -0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=f"an FAR must lie above 0 and be at most 1, got {far}"):
            verification(distances, is_same, fars=(0.5, far))
        with pytest.raises(ValueError, match="an FAR must lie above 0"):
            threshold_at(distances, is_same, far)
    with pytest.raises(ValueError, match=r"fars name tar@far=0\.5 more than once"):
        verification(distances, is_same, fars=(0.5, 0.50000001))
    with pytest.raises(ValueError, match="folds other than 0 have pairs of one kind alone"):
        verification(distances, is_same, folds=is_same.astype(int))
    with pytest.raises(TypeError, match=r"fars must be a sequence of numbers, got 0\.1"):
        verification(distances, is_same, fars=0.1)
    with pytest.raises(ValueError, match=r"folds must be one for each of the 60 pairs, got shape \[3\]"):
        verification(distances, is_same, folds=[0, 1, 2])
    with pytest.raises(TypeError, match="folds must be an array of integers, got float64"):
        verification(distances, is_same, folds=np.zeros(60))
    with pytest.raises(ValueError, match="at least two, got only fold 4: leave folds out"):
        verification(distances, is_same, folds=np.full(60, 4))
    with pytest.raises(ValueError, match="level must be"):
        verification(distances, is_same, level=95)
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        verification(distances, is_same, seed=-1)
    subjects = np.where(is_same[:, None], 1, [0, 1])
    with pytest.raises(ValueError, match=r"subjects must be \[pairs, 2\], .* 60 pairs, got shape \[60\]"):
        verification(distances, is_same, subjects=subjects[:, 0])
    with pytest.raises(TypeError, match="subjects must be an array of integers, got float64"):
        verification(distances, is_same, subjects=subjects.astype(float))
    other = np.flatnonzero(~is_same)[3]
    subjects[other] = 7
    with pytest.raises(
        ValueError, match=rf"at pair {other} they are \[7, 7\] and is_same is False \(1 pairs"
    ):
        verification(distances, is_same, subjects=subjects)


def test_from_embeddings_to_a_threshold():
    """The whole way on toy identities: pairs, their distances, and what is said of them."""
    labels = np.repeat(np.arange(6), 5)
    centers = np.random.default_rng(0).normal(size=(6, 4)) * 9
    embeddings = (centers[labels] + np.random.default_rng(1).normal(size=(30, 4))).astype(np.float32)
    first, second, is_same = mj.evaluation.all_pairs(labels)
    distances = mj.evaluation.pair_distances(embeddings, first, second)
    found = verification(distances, is_same)
    assert (found["genuine"], found["impostors"]) == (60, 375)
    assert found["auc"] > 0.99
