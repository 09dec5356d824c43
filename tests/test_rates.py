"""How far AUC, EER and TAR@FAR can be trusted: against exact distributions, DeLong, and by how often they hold true."""

import numpy as np
import pytest
import references_evaluation as references
from scipy import stats

from metric_jax.evaluation import rates, verification

FARS = (0.1, 0.01)


@pytest.fixture
def many(monkeypatch):
    """So many resamples that the ends of an interval are hardly random."""
    monkeypatch.setattr(rates, "RESAMPLES", 5000)


@pytest.fixture
def few(monkeypatch):
    """So few that an interval is made in no time."""
    monkeypatch.setattr(rates, "RESAMPLES", 200)


def normal(generator, genuine, impostors, apart=2.0):
    """Distances of either kind, of standard deviation 1."""
    is_same = np.arange(genuine + impostors) < genuine
    return generator.normal(size=len(is_same)) + np.where(is_same, 0.0, apart), is_same


def truth(apart=2.0):
    """AUC, EER and TAR at the FARs of these distributions."""
    far = {f"tar@far={far:g}": stats.norm.cdf(stats.norm.ppf(far) + apart) for far in FARS}
    return {"auc": stats.norm.cdf(apart / np.sqrt(2)), "eer": stats.norm.cdf(-apart / 2), **far}


def interval(distances, is_same, number, subjects=None, level=0.95):
    low, high = rates.bootstrap(
        distances, is_same, subjects, lambda curve: number(curve)[None], level=level, seed=0
    )
    return low.item(), high.item()


def held(found, true):
    return np.array([found[f"{key}_low"] <= value <= found[f"{key}_high"] for key, value in true.items()])


@pytest.mark.parametrize(("accepted", "level"), [(0, 0.95), (7, 0.8), (7, 0.95), (39, 0.95), (40, 0.95)])
@pytest.mark.parametrize("kind", ["genuine", "impostors"])
def test_a_rate_at_a_given_threshold_has_clopper_and_pearsons_interval(many, kind, accepted, level):
    distances = np.concatenate([np.arange(40) - accepted + 0.5, [-99.0, 99.0]])
    is_same = np.array([kind == "genuine"] * 40 + [kind != "genuine"] * 2)

    def rate(curve):
        at = np.searchsorted(curve.thresholds, 0.0) - 1
        return (curve.tar if kind == "genuine" else curve.far)[:, at]

    expected = stats.binomtest(accepted, 40).proportion_ci(level, method="exact")
    assert interval(distances, is_same, rate, level=level) == pytest.approx(tuple(expected), abs=0.01)


@pytest.mark.parametrize(("impostors", "far"), [(100, 0.01), (100, 0.05), (30, 0.1), (2000, 0.01)])
def test_tar_at_far_is_as_uncertain_as_the_rank_of_its_threshold_and_the_tar_there(many, impostors, far):
    """The true threshold of an FAR lies behind R of n impostors, R ~ Binomial(n, FAR); a TAR is beta distributed."""
    distances, is_same = normal(np.random.default_rng(1), 60, impostors)
    genuine, others = np.sort(distances[is_same]), np.sort(distances[~is_same])
    generator = np.random.default_rng(2)
    edges = np.concatenate([[-np.inf], others, [np.inf]])
    rank = generator.binomial(impostors, far, size=20_000)
    ends = []
    for edge, more, quantile in ((edges[rank], 0, 0.025), (edges[rank + 1], 1, 0.975)):
        accepted = np.searchsorted(genuine, edge)
        shape = accepted + more, 60 - accepted + 1 - more
        tars = np.where(np.minimum(*shape) > 0, generator.beta(*np.maximum(shape, 1)), more)
        ends.append(np.quantile(tars, quantile))
    found = interval(distances, is_same, lambda curve: rates.tar_at(curve, far))
    assert found == pytest.approx(tuple(ends), abs=0.015)


def test_auc_has_delongs_interval_but_for_the_one_more_pair(many):
    distances, is_same = normal(np.random.default_rng(3), 200, 300, apart=1.0)
    middle, error = references.delong(distances, is_same)
    low, high = interval(distances, is_same, rates.area)
    more = 1 / 200 + 1 / 300  # what one more pair of either kind can change
    expected = middle - 1.96 * error - middle * more, middle + 1.96 * error + (1 - middle) * more
    assert (low, high) == pytest.approx(expected, abs=0.1 * error)


@pytest.mark.parametrize(("genuine", "impostors"), [(500, 500), (300, 3000)])
def test_eer_is_as_uncertain_as_theory_says(many, genuine, impostors):
    """Of two normal distributions of one width the EER moves by half the errors of both rates."""
    distances = np.concatenate(
        [stats.norm.ppf((np.arange(n) + 0.5) / n) + at for n, at in ((genuine, 0.0), (impostors, 2.0))]
    )
    eer = stats.norm.cdf(-1)
    error = np.sqrt(eer * (1 - eer) * (1 / genuine + 1 / impostors)) / 2
    low, high = interval(distances, np.arange(len(distances)) < genuine, rates.equal_error_rate)
    assert (low, high) == pytest.approx((eer - 1.96 * error, eer + 1.96 * error), abs=0.3 * error)


@pytest.mark.parametrize(("genuine", "impostors", "apart"), [(200, 150, 2.0), (30, 300, 4.0)])
def test_intervals_hold_the_truth_where_wilsons_at_the_measured_threshold_does_not(
    few, genuine, impostors, apart
):
    generator, true = np.random.default_rng(0), truth(apart)
    found = [verification(*normal(generator, genuine, impostors, apart), fars=FARS) for _ in range(150)]
    share = np.mean([held(each, true) for each in found], axis=0)
    assert (share >= 0.93).all(), dict(zip(true, share, strict=True))
    if apart == 2.0:
        key = "tar@far=0.01"
        wilsons = [
            stats.binomtest(round(x[key] * genuine), genuine).proportion_ci(method="wilson") for x in found
        ]
        assert np.mean([low <= true[key] <= high for low, high in wilsons]) < 0.6


def people(generator, subjects, photos):
    """Photos in space: people differ, and so does how much the photos of one do."""
    centers = 1.5 * generator.normal(size=(subjects, 1, 4))
    spread = np.exp(0.4 * generator.normal(size=(subjects, 1, 1)))
    return (centers + spread * generator.normal(size=(subjects, photos, 4))).reshape(-1, 4)


def compared(generator, subjects, photos):
    rows, labels = people(generator, subjects, photos), np.repeat(np.arange(subjects), photos)
    first, second = np.triu_indices(len(rows), 1)
    whose = np.stack([labels[first], labels[second]], axis=1)
    return np.linalg.norm(rows[first] - rows[second], axis=1), whose[:, 0] == whose[:, 1], whose


def test_intervals_by_subject_hold_the_truth_where_pairs_share_subjects(few, monkeypatch):
    monkeypatch.setattr(rates, "POINTS", 400)
    rows = people(np.random.default_rng(0), 200_000, 2).reshape(-1, 2, 4)
    genuine, impostor = (
        np.linalg.norm(rows[:, 0] - others, axis=1) for others in (rows[:, 1], np.roll(rows[:, 1], 1, 0))
    )
    distances, is_same = np.concatenate([genuine, impostor]), np.repeat([True, False], len(rows))
    numbers = verification(distances, is_same, fars=FARS)
    true = {key: numbers[key] for key in truth()}
    generator, share = np.random.default_rng(1), {"subjects": [], "pairs": []}
    for _ in range(60):
        distances, is_same, subjects = compared(generator, 20, 6)
        for name, whose in (("subjects", subjects), ("pairs", None)):
            found = verification(distances, is_same, fars=FARS, subjects=whose)
            share[name].append(held(found, true))
    by_subject, by_pair = (np.mean(each, axis=0) for each in share.values())
    assert (by_subject >= 0.88).all(), by_subject
    assert (by_pair <= 0.8).all(), by_pair


def test_subjects_of_one_pair_each_are_independent_pairs(many):
    distances, is_same = normal(np.random.default_rng(4), 50, 2)
    subjects = np.stack([np.arange(52), np.where(is_same, np.arange(52), np.arange(52) + 100)], axis=1)

    def accepted(curve):
        return curve.tar[:, np.searchsorted(curve.thresholds, 0.5) - 1]

    by_subject = interval(distances, is_same, accepted, subjects)
    assert by_subject == pytest.approx(interval(distances, is_same, accepted), abs=0.01)


def test_a_pair_weighs_what_both_of_its_subjects_weigh(many):
    """Of the pairs of 40 subjects those are accepted of which both are among the first 20."""
    first, second = np.triu_indices(40, 1)
    distances = np.concatenate([np.where(second < 20, 0.0, 1.0), [0.0]])
    subjects = np.stack([np.append(first, 0), np.append(second, 0)], axis=1)

    def accepted(curve):
        return curve.far[:, np.searchsorted(curve.thresholds, 0.5) - 1]

    found = interval(distances, np.arange(781) == 780, accepted, subjects)
    assert found == pytest.approx(tuple(stats.beta.ppf([0.025, 0.975], 20, 20) ** 2), abs=0.02)


def test_who_is_called_what_does_not_matter():
    distances, is_same, subjects = compared(np.random.default_rng(5), 6, 3)
    found = verification(distances, is_same, subjects=subjects)
    assert verification(distances, is_same, subjects=7 * subjects - 3) == found
    order = np.random.default_rng(0).permutation(len(distances))
    shuffled = verification(distances[order], is_same[order], subjects=subjects[order])
    assert shuffled == pytest.approx(found, rel=1e-9)


def test_a_choice_of_points_says_what_all_points_say(monkeypatch, many):
    distances, is_same = normal(np.random.default_rng(6), 300, 900)
    every = verification(distances, is_same, fars=FARS)
    monkeypatch.setattr(rates, "POINTS", 100)
    some = verification(distances, is_same, fars=FARS)
    for key in ("auc", "eer", "accuracy", "tar@far=0.1", "tar@far=0.01"):
        width = every[f"{key}_high"] - every[f"{key}_low"]
        for end in ("", "_low", "_high"):
            assert some[key + end] == pytest.approx(every[key + end], abs=0.06 * width)
    monkeypatch.setattr(rates, "POINTS", 10)  # the best threshold is always among them
    few = verification(distances, is_same, fars=FARS)
    assert few["accuracy_low"] == pytest.approx(every["accuracy_low"], abs=1e-3)


def test_no_error_seen_is_no_proof_that_there_is_none(many):
    distances, is_same = np.arange(60.0), np.arange(60) < 20
    found = verification(distances, is_same, fars=(0.5,))
    assert (found["auc"], found["eer"], found["tar@far=0.5"]) == (1.0, 0.0, 1.0)
    assert found["tar@far=0.5_low"] == pytest.approx(0.025 ** (1 / 20), abs=0.01)
    assert 0.05 < found["eer_high"] < 0.2
    assert found["auc_low"] < 0.95
