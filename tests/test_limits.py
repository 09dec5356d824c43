"""What a hyperparameter may be: its kind and its range, where it is known and where it is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

import metric_jax as mj
from metric_jax.limits import FRACTION, POSITIVE, Limits

ROWS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
LABELS = np.array([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("loss", "own", "message"),
    [
        (mj.ntxent_loss, {"temperature": 0.0}, "ntxent_loss: temperature must be positive, got 0.0"),
        (mj.supcon_loss, {"temperature": jnp.float32(-1)}, "temperature must be positive, got -1.0"),
        (mj.ntxent_loss, {"temperature": np.inf}, "temperature must be positive, got inf"),
        (mj.nca_loss, {"reduction": "avg"}, "reduction must be one of"),
        (mj.circle_loss, {"margin": 1.5}, r"margin must be in \[0, 1\], got 1.5"),
        (mj.batch_contrastive_loss, {"margin": -0.5}, "margin must be at least 0, got -0.5"),
        (mj.batch_hard_triplet_loss, {"margin": np.nan}, "margin must be at least 0, got nan"),
        (mj.ntxent_loss, {"temperature": [0.1, 0.2, 0.3, 0.4]}, r"must be one number, got shape \(4,\)"),
        (mj.batch_all_triplet_loss, {"margin": np.zeros(1)}, r"must be one number, got shape \(1,\)"),
        (mj.fastap_loss, {"bins": 2.5}, "bins must be a positive integer, got 2.5"),
        (mj.recall_at_k_loss, {"ks": (0,)}, "ks must be a positive integer, got 0"),
        (mj.recall_at_k_loss, {"ks": 5}, "ks must be a tuple of positive integers, got 5"),
        (mj.pnp_loss, {"variant": "X"}, "variant must be one of"),
        (mj.decoupled_contrastive_loss, {"sigma": np.ones(4)}, r"sigma must be one number, got shape \(4,\)"),
        (mj.mining.pair_margin, {"positive_margin": np.nan}, "positive_margin must be finite, got nan"),
        (mj.mining.pair_margin, {"negative_margin": np.inf}, "negative_margin must be finite, got inf"),
        (mj.mining.multi_similarity, {"epsilon": np.nan}, "epsilon must be finite, got nan"),
        (mj.mining.triplet_margin, {"margin": np.nan}, "margin must be finite, got nan"),
        (mj.margin_loss, {"beta": np.nan}, "beta must be finite, got nan"),
        (mj.margin_loss, {"beta": np.array([1.2, np.inf])}, "beta must be finite, got"),
        (
            mj.diagnostics.summary,
            {"margin": np.ones((4, 1))},
            r"margin must be one number, got shape \[4, 1\]",
        ),
    ],
)
def test_a_value_out_of_range_is_named(loss, own, message):
    with pytest.raises(ValueError, match=message):
        loss(ROWS, LABELS, **own)


@pytest.mark.parametrize(
    ("loss", "own", "message"),
    [
        (mj.ntxent_loss, {"temperature": None}, "temperature must be a number, got None"),
        (mj.batch_contrastive_loss, {"margin": "wide"}, "margin must be a number, got 'wide'"),
        (mj.batch_hard_triplet_loss, {"swap": 1}, "swap must be True or False, got 1"),
        (mj.margin_loss, {"beta": 1j}, "beta must be a number, got 1j"),
        (mj.ntxent_loss, {"with_batch": "yes"}, "with_batch must be True or False, got 'yes'"),
    ],
)
def test_a_value_of_another_kind_is_named(loss, own, message):
    with pytest.raises(TypeError, match=message):
        loss(ROWS, LABELS, **own)


def test_numbers_of_a_list_or_a_range_may_be_traced():
    of_list = jax.grad(lambda beta: mj.margin_loss(ROWS, LABELS, beta=[beta, 2.0 * beta]))(1.0)
    of_array = jax.grad(lambda beta: mj.margin_loss(ROWS, LABELS, beta=beta * jnp.array([1.0, 2.0])))(1.0)
    assert of_list == of_array

    def mined(most):
        return mj.mining.batch_easy_hard(ROWS, LABELS, positive_range=(0.0, most), negative="hard")

    jax.tree.map(np.testing.assert_array_equal, jax.jit(mined)(2.0), mined(2.0))
    assert mined(np.inf).valid.all()
    assert not mined(0.01).valid.any()


def test_a_bias_that_is_none_is_named():
    with pytest.raises(ValueError, match="siglip_loss: bias must be finite, got nan"):
        mj.siglip_loss(ROWS, ROWS, bias=np.nan)


def test_labels_that_number_no_beta_are_named():
    def share(a, b):
        return (a & b).any()

    tags, beta = np.eye(4, dtype=bool), np.ones(2, np.float32)
    with pytest.raises(ValueError, match=r"beta \[classes\] needs labels that number them, got bool\[4, 4\]"):
        mj.margin_loss(ROWS, tags, match=share, beta=beta)
    assert np.isfinite(mj.margin_loss(ROWS, tags, match=share, beta=1.0))


@pytest.mark.parametrize(
    ("function", "own"),
    [
        (mj.multi_similarity_loss, {"alpha": np.uint8(2)}),
        (mj.tuplet_margin_loss, {"margin": np.uint32(1)}),
        (mj.mining.triplet_margin, {"margin": np.uint8(1)}),
    ],
)
def test_an_unsigned_number_is_that_number(function, own):
    """Negated in its own type 2 would be 254."""
    as_float = {name: float(value) for name, value in own.items()}
    jax.tree.map(
        lambda found, expected: np.testing.assert_allclose(found, expected, rtol=1e-6),
        function(ROWS, LABELS, **own),
        function(ROWS, LABELS, **as_float),
    )


@pytest.mark.parametrize("margin", [-0.1, 3.2])
def test_a_margin_in_degrees_is_named(margin):
    with pytest.raises(ValueError, match="arcface_loss: margin must be in"):
        mj.arcface_loss(ROWS, LABELS, ROWS[:2], margin=10 * margin)


def test_a_traced_temperature_is_checked_on_request():
    step = checkify.checkify(jax.jit(lambda t: mj.ntxent_loss(ROWS, LABELS, temperature=t)))
    assert step(0.1)[0].get() is None
    assert "temperature must be positive, got -0.1" in step(-0.1)[0].get()


def test_labels_beyond_the_proxies_are_named_known_or_traced():
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\).*got 2"):
        mj.arcface_loss(ROWS, LABELS + 1, ROWS[:2])
    step = checkify.checkify(jax.jit(lambda labels: mj.arcface_loss(ROWS, labels, ROWS[:2])))
    assert step(LABELS)[0].get() is None
    assert "labels must be in [0, 2)" in step(LABELS - 1)[0].get()


def test_a_margin_is_one_or_one_for_each_loss():
    a, p, n = ROWS.reshape(2, 2, 3), ROWS[::-1].reshape(2, 2, 3), ROWS.reshape(2, 2, 3) + 1
    same, margins = LABELS.reshape(2, 2), np.arange(4.0).reshape(2, 2)
    for loss, rows in ((mj.triplet_loss, (a, p, n)), (mj.contrastive_loss, (a, p, same))):
        found = loss(*rows, margin=margins)
        for place in np.ndindex(2, 2):
            one = loss(*(x[place] for x in rows), margin=margins[place])
            np.testing.assert_allclose(found[place], one, rtol=1e-6)
        with pytest.raises(
            ValueError, match=r"margin must be one number, or one for each of \[2, 2\] losses"
        ):
            loss(*rows, margin=np.ones((2, 1)))
        np.testing.assert_array_equal(loss(*rows, margin=margins.tolist()), found)
    triplets = mj.mining.batch_hard(ROWS, LABELS)
    with pytest.raises(ValueError, match=r"batch_triplet_loss: margin must be one number, got shape \[4\]"):
        mj.batch_triplet_loss(ROWS, triplets, margin=np.ones(4))


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (mj.recall_at_k_loss, {"ks": [1, 2]}),
        (mj.mining.batch_easy_hard, {"negative_ranks": [1, None]}),
        (mj.batch_hard_triplet_loss, {"axis_name": ["data"]}),
    ],
)
def test_a_list_in_place_of_a_tuple_is_named(function, given):
    (name,) = given
    with pytest.raises(TypeError, match=rf"{name} must be hashable, got \[.*\]: pass a tuple, not a list"):
        function(ROWS, LABELS, **given)


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (mj.histogram_loss, {"bins": 10}),
        (mj.supcon_loss, {"tile": 2}),
        (mj.mining.batch_semi_hard, {"max_positives": 1}),
    ],
)
def test_an_array_in_place_of_an_option_is_named_known_or_traced(function, given):
    ((name, value),) = given.items()
    with pytest.raises(TypeError, match=rf"{name} must be known, got a traced value: .* static_argnames"):
        jax.jit(function)(ROWS, LABELS, **given)
    with pytest.raises(TypeError, match=rf"{name} must be hashable, got .*: pass a Python number"):
        function(ROWS, LABELS, **{name: jnp.array(value)})
    jax.jit(function, static_argnames=name)(ROWS, LABELS, **given)


def test_indices_of_no_row_are_named_known_or_traced():
    good, no = mj.mining.batch_hard(ROWS, LABELS), np.array([True, True, True, False])
    pairs = mj.Pairs(*map(np.array, ([0, 1], [1, 2], [True, False], [True, True])))
    for loss, given, column, name in (
        (mj.batch_triplet_loss, good, "negative", "triplets.negative"),
        (
            lambda rows, pairs: mj.supcon_loss(rows, LABELS, pairs=pairs),
            pairs,
            "reference",
            "pairs.reference",
        ),
    ):
        step = checkify.checkify(jax.jit(loss))
        assert step(ROWS, given)[0].get() is None
        for wrong in (-1, 4):
            bad = given._replace(**{column: np.asarray(getattr(given, column)).copy()})
            getattr(bad, column)[-1] = wrong
            with pytest.raises(ValueError, match=f"{name} holds {wrong}, and there are only 4 rows to index"):
                loss(ROWS, bad)
            assert f"{name} holds an index that is not of one of 4 rows" in step(ROWS, bad)[0].get()
            unused = bad._replace(valid=no[-len(given.anchor) :])
            assert step(ROWS, unused)[0].get() is None
    pair = pairs._replace(reference=np.array([1, -1]))
    alone = pairs._replace(valid=np.array([True, False]))
    found = jax.jit(lambda pairs: mj.batch_contrastive_loss(ROWS, LABELS, pairs=pairs, reduction="sum"))
    np.testing.assert_array_equal(found(pair), found(alone))


def test_limits_say_what_they_are():
    assert [str(limit) for limit in (POSITIVE, Limits(), FRACTION, Limits(0.0, 1.0, excludes=(0.0,)))] == [
        "positive",
        "finite",
        "in [0, 1]",
        "in (0, 1]",
    ]


def test_a_default_that_is_a_number_makes_an_argument_of_ones_own_a_number():
    @mj.per_anchor
    def weighed_loss(distances, positives, negatives, *, weight=1.0, weights=None):
        return mj.terms(weight * distances if weights is None else weights * distances, where=positives)

    assert weighed_loss(ROWS, LABELS, weights=jnp.ones(4)) == weighed_loss(ROWS, LABELS)
    with pytest.raises(ValueError, match="weighed_loss: weight must be one number"):
        weighed_loss(ROWS, LABELS, weight=jnp.ones(4))
