"""Confidence intervals against every possible resample, against scipy, and by how often they hold the truth."""

import numpy as np
import pytest
import references_evaluation as references
from scipy import stats

from metric_jax.evaluation.intervals import bootstrap, normal_quantile, proportion

GROUPS = [[0.1, 0.2, 0.6], [0.9], [0.55, 0.43], [0.0, 0.05, 0.31, 0.77]]
VALUES = np.concatenate(GROUPS)
LABELS = np.repeat([5, 2, 9, 7], [len(group) for group in GROUPS])


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_bootstrap_of_groups_is_that_of_every_possible_resample(level):
    means = references.bootstrap_means(GROUPS)
    mean, low, high = bootstrap(VALUES, LABELS, resamples=40_000, level=level)
    assert mean == pytest.approx(VALUES.mean())
    assert (low, high) == pytest.approx(
        np.quantile(means, [(1 - level) / 2, (1 + level) / 2]), abs=0.02 * np.ptp(means)
    )


def test_bootstrap_of_single_values():
    values = np.array([0.0, 0.2, 0.5, 1.0, 0.7])
    means = references.bootstrap_means([[value] for value in values])
    _, low, high = bootstrap(values, resamples=40_000, level=0.8)
    assert (low, high) == pytest.approx(np.quantile(means, [0.1, 0.9]), abs=0.02)


def test_bootstrap_is_that_of_drawing_values_one_by_one():
    generator = np.random.default_rng(0)
    values = generator.gamma(2.0, size=300)
    _, low, high = bootstrap(values, resamples=4000)
    means = [generator.choice(values, 300).mean() for _ in range(4000)]
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.05 * (high - low))


def test_bootstrap_in_several_parts(monkeypatch):
    monkeypatch.setattr("metric_jax.evaluation.intervals.WEIGHTS_AT_A_TIME", 300)
    generator = np.random.default_rng(3)
    values = generator.random(100)
    mean, low, high = bootstrap(values, resamples=1001)
    standard_error = values.std() / 10
    assert (low, high) == pytest.approx(
        (mean - 1.96 * standard_error, mean + 1.96 * standard_error), abs=0.3 * standard_error
    )


def test_every_metric_sees_the_same_resamples():
    table = np.random.default_rng(0).random((30, 3))
    groups = np.arange(30) % 7
    together = bootstrap(table, groups)
    assert all(isinstance(x, np.ndarray) and x.shape == (3,) for x in together)
    for i, column in enumerate(table.T):
        alone = bootstrap(column, groups)
        assert all(type(x) is float for x in alone)
        assert alone == pytest.approx([x[i] for x in together], rel=1e-12)


def test_nan_is_left_out():
    generator = np.random.default_rng(1)
    values, groups = generator.random(40), np.arange(40) % 8
    values[[3, 11, 12]] = np.nan
    there = ~np.isnan(values)
    assert bootstrap(values, groups) == bootstrap(values[there], groups[there])
    mean, low, high = bootstrap(values)
    assert mean == pytest.approx(np.nanmean(values))
    assert low < mean < high
    table = np.stack([values, np.arange(40.0)], axis=1)
    assert bootstrap(table, groups)[0] == pytest.approx([np.nanmean(values), 19.5])


def test_a_group_without_a_value_is_no_group():
    values, groups = np.r_[VALUES, [np.nan] * 5], np.r_[LABELS, np.arange(5) + 100]
    assert bootstrap(values, groups) == bootstrap(VALUES, LABELS)
    assert bootstrap(values) == bootstrap(VALUES)


def test_resamples_without_any_value_do_not_count():
    values = np.full(30, np.nan)
    values[[4, 20]] = 1.0, 2.0
    assert bootstrap(values) == (1.5, 1.0, 2.0)
    table = np.stack([values, np.arange(30.0)], axis=1)  # of which every row is a group
    assert [found[0] for found in bootstrap(table)] == [1.5, 1.0, 2.0]


def test_seed_and_names_of_groups():
    many = np.random.default_rng(0).random(100)
    assert bootstrap(many) == bootstrap(many)
    assert bootstrap(many, seed=1)[1:] != bootstrap(many)[1:]
    names = np.array(["", "", "a", "", "", "b", "", "c", "", "d"])[LABELS]
    assert bootstrap(VALUES, names) == bootstrap(VALUES, LABELS)
    order = np.random.default_rng(0).permutation(len(VALUES))
    assert bootstrap(VALUES[order], LABELS[order]) == pytest.approx(bootstrap(VALUES, LABELS))


def test_only_resampled_groups_hold_the_truth_when_values_of_a_group_share_its_fate():
    generator = np.random.default_rng(7)
    groups = np.repeat(np.arange(40), 10)
    held = {"groups": 0, "values": 0}
    for repetition in range(200):
        values = generator.normal(size=40)[groups] + 0.3 * generator.normal(size=400)
        for name, labels in (("groups", groups), ("values", None)):
            _, low, high = bootstrap(values, labels, resamples=200, seed=repetition)
            held[name] += low <= 0 <= high
    assert 0.88 <= held["groups"] / 200 <= 0.98
    assert held["values"] / 200 < 0.7


def test_bootstrap_refuses():
    with pytest.raises(ValueError, match=r"groups must be one for each of the 10 values, got shape \[3\]"):
        bootstrap(VALUES, LABELS[:3])
    with pytest.raises(ValueError, match=r"values hold infinity in row 2 \(1 rows in all\)"):
        bootstrap([0.0, 1.0, np.inf])
    for shape in ((), (0,), (2, 2, 2), (3, 0)):
        with pytest.raises(ValueError, match=r"values must be \[n\] or \[n, metrics\]"):
            bootstrap(np.zeros(shape))
    with pytest.raises(TypeError, match="values must be an array of real numbers, got list"):
        bootstrap(["a", "b"])
    for values, groups in (([1.0], None), ([1.0, np.nan], None), ([1.0, 2.0], [3, 3])):
        with pytest.raises(ValueError, match="at least two groups"):
            bootstrap(values, groups)
    with pytest.raises(ValueError, match="at least two groups, for each metric"):
        bootstrap([[1.0, 1.0], [2.0, np.nan]])
    with pytest.raises(ValueError, match="resamples must be an integer of at least 20, got 3"):
        bootstrap(VALUES, resamples=3)
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        bootstrap(VALUES, seed=-1)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 50), (50, 50), (7, 50), (999, 1000)])
def test_proportion_is_wilsons(successes, trials, level):
    expected = stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    low, high = proportion(successes, trials, level=level)
    assert (low, high) == pytest.approx(tuple(expected), abs=1e-12)
    assert 0 <= low <= successes / trials <= high <= 1


def test_proportion_holds_the_truth():
    """As often as it says, on average over what the truth might be."""
    held = []
    for p in np.linspace(0.02, 0.98, 49):
        intervals = [proportion(k, 40) for k in range(41)]
        held.append(
            sum(stats.binom.pmf(k, 40, p) for k, (low, high) in enumerate(intervals) if low <= p <= high)
        )
    assert np.mean(held) == pytest.approx(0.95, abs=0.01)


def test_proportion_refuses():
    with pytest.raises(ValueError, match="5 successes cannot come from 4 trials"):
        proportion(5, 4)
    with pytest.raises(ValueError, match="trials must be an integer of at least 1, got 0"):
        proportion(0, 0)
    with pytest.raises(ValueError, match=r"successes must be an integer of at least 0, got 0\.5"):
        proportion(0.5, 4)


@pytest.mark.parametrize("level", [0, 1, 95, float("nan"), True, "0.95"])
def test_level_is_between_0_and_1(level):
    for interval in (
        lambda: bootstrap(VALUES, level=level),
        lambda: proportion(1, 2, level=level),
        lambda: normal_quantile(level),
    ):
        with pytest.raises(ValueError, match=r"level must be a number between 0 and 1, such as 0\.95"):
            interval()
