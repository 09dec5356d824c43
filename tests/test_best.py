import pytest

from metric_jax.training import RunError
from metric_jax.training.best import Best


def test_the_first_of_equals_is_the_best_and_patience_ends():
    best = Best("mrr", patience=2)
    assert best.results == {}
    seen = [best.see(step, {"mrr": value}) for step, value in enumerate([0.2, 0.5, 0.5, 0.4])]
    assert seen == [True, True, False, False]
    assert best.results == {"best_step": 1, "best_mrr": 0.5}
    assert best.enough


def test_a_later_session_has_as_much_patience():
    best, later = Best("mrr", patience=2), Best("mrr", patience=2)
    for step, value in enumerate([0.5, 0.4]):
        best.see(step, {"mrr": value})
    later.resume(best.notes())
    assert not later.enough
    assert not later.see(2, {"mrr": 0.5})
    assert later.enough
    assert later.results["best_step"] == 0


def test_without_a_metric_nothing_is_the_best():
    best = Best("", patience=0)
    assert not best.see(1, {"mrr": 1.0})
    assert (best.step, best.enough, best.results) == (None, False, {})


@pytest.mark.parametrize(
    ("metric", "patience", "told"),
    [
        ("map@r", 0, "unknown best_metric 'map@r', did you mean 'map_at_r'"),
        ("mrr", -1, "patience must not be negative, got -1"),
        ("", 3, "patience=3 needs best_metric: map_at_r, "),
    ],
)
def test_what_makes_no_sense_is_told(metric, patience, told):
    with pytest.raises(RunError) as error:
        Best(metric, patience=patience)
    assert told in str(error.value)


def test_a_metric_that_a_small_test_set_does_not_have_is_told():
    with pytest.raises(RunError, match="best_metric='recall@8' is more than"):
        Best("recall@8", patience=0).see(1, {"recall@1": 1.0})
