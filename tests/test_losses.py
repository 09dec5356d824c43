"""Losses: values by hand, every reduction and option against the references, and what they refuse."""

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from catalogue import MINERS, SOFT
from subjects import DIM, LABELS, Loss
from suite import CORE_LOSSES, assert_close, every_core_loss, every_distance

import metric_jax as mj

N = len(LABELS)
every_reduction = pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum", "none"])

# Four points on a line. Distances: 01: 1, 02: 3, 03: 2, 12: 2, 13: 1, 23: 1.
LINE = np.array([[0.0], [1.0], [3.0], [2.0]], np.float32)
LINE_LABELS = np.array([0, 0, 1, 1])


def rows(seed=0, n=N):
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


# The two textbook losses, pair by pair and triplet by triplet.


def test_contrastive_loss_by_hand():
    x = jnp.zeros((4, 2))
    y = jnp.array([[0.3, 0.4], [0.3, 0.4], [0.9, 1.2], [0.9, 1.2]])  # at 0.5 and 1.5
    values = mj.contrastive_loss(x, y, jnp.array([True, False, True, False]))
    np.testing.assert_allclose(values, [0.25, 0.25, 2.25, 0.0], rtol=1e-6)
    values = mj.contrastive_loss(
        x, y, jnp.array([1, 0, 1, 0]), margin=2.0, distance=mj.manhattan
    )  # at 0.7 and 2.1
    np.testing.assert_allclose(values, [0.49, 1.69, 4.41, 0.0], rtol=1e-6)
    assert mj.contrastive_loss(x.reshape(2, 2, 2), y.reshape(2, 2, 2), jnp.ones((2, 2), bool)).shape == (2, 2)


def test_contrastive_loss_blind_spot():
    """A negative beyond the margin gets a gradient of exactly zero, however far its positive is."""
    gradient = jax.grad(lambda c: mj.contrastive_loss(jnp.zeros(2), c, False))(jnp.array([3.0, 0.0]))
    np.testing.assert_array_equal(gradient, 0)


def test_triplet_loss_by_hand():
    a = jnp.zeros((3, 1))
    p, n = jnp.array([[1.0], [1.0], [2.0]]), jnp.array([[0.5], [3.0], [2.1]])
    np.testing.assert_allclose(mj.triplet_loss(a, p, n), [0.7, 0.0, 0.1], rtol=1e-5)
    np.testing.assert_allclose(mj.triplet_loss(a, p, n, margin=1.0), [1.5, 0.0, 0.9], rtol=1e-5)
    np.testing.assert_allclose(
        mj.triplet_loss(a, p, n, distance=mj.squared_euclidean), [0.95, 0, 0], rtol=1e-5
    )
    soft = mj.triplet_loss(a, p, n, margin=0.0, penalty=jax.nn.softplus)
    np.testing.assert_allclose(soft, [math.log1p(math.exp(gap)) for gap in (0.5, -2.0, -0.1)], rtol=1e-6)


# The batch losses on four points of a line, counted by hand.


@pytest.mark.parametrize(
    ("loss", "own", "totals", "counts"),
    [
        # d² of the positive, (2.5 - d)² of both negatives
        (mj.batch_contrastive_loss, {"margin": 2.5}, [1.25, 3.5, 1.25, 3.5], [3, 3, 3, 3]),
        # farthest positive - nearest negative + 0.5: 1 - 2, 1 - 1, 1 - 2, 1 - 1
        (mj.batch_hard_triplet_loss, {"margin": 0.5}, [0.0, 0.5, 0.0, 0.5], [1, 1, 1, 1]),
        # nearest negative farther than 1: 2, 2, 2, 2
        (mj.batch_semi_hard_triplet_loss, {"margin": 1.5}, [0.5, 0.5, 0.5, 0.5], [1, 1, 1, 1]),
        # both negatives: at 3 and 2, at 2 and 1, ...
        (mj.batch_all_triplet_loss, {"margin": 1.5}, [0.5, 2.0, 0.5, 2.0], [2, 2, 2, 2]),
    ],
)
def test_batch_losses_by_hand(loss, own, totals, counts):
    run = functools.partial(loss, LINE, LINE_LABELS, **own)
    np.testing.assert_allclose(run(reduction="none"), totals, rtol=1e-6)
    np.testing.assert_allclose(run(reduction="sum"), sum(totals), rtol=1e-6)
    np.testing.assert_allclose(run(), sum(totals) / sum(counts), rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "own", "expected"),
    [
        # per anchor 0, 2: 1 + 0.25; 1, 3: 1 + 0.25 + 2.25; zero: the two pairs at distance 3
        (mj.batch_contrastive_loss, {"margin": 2.5}, 9.5 / 10),
        (mj.batch_hard_triplet_loss, {"margin": 0.5}, 1.0 / 2),
        (mj.batch_semi_hard_triplet_loss, {"margin": 1.5}, 2.0 / 4),
        (mj.batch_all_triplet_loss, {"margin": 1.5}, 5.0 / 6),
    ],
)
def test_mean_over_active_terms_by_hand(loss, own, expected):
    np.testing.assert_allclose(loss(LINE, LINE_LABELS, **own, reduction="mean_active"), expected, rtol=1e-6)


def test_semi_hard_falls_back_to_the_farthest_negative():
    batch, labels = np.array([[0.0], [5.0], [1.0], [2.0]], np.float32), np.array([0, 0, 1, 2])
    # anchor 0: the positive at 5, no negative farther: the one at 2. Anchor 1: positive at 5, negatives at 4 and 3: 4
    values = mj.batch_semi_hard_triplet_loss(batch, labels, margin=0.5, reduction="none")
    np.testing.assert_allclose(values, [3.5, 1.5, 0.0, 0.0], rtol=1e-6)


def test_semi_hard_is_strict():
    batch, labels = np.array([[0.0], [2.0], [-2.0], [3.0]], np.float32), np.array([0, 0, 1, 1])
    # anchor 0: its positive is at 2, and so is a negative, which does not count as farther; the one at 3 does
    value = mj.batch_semi_hard_triplet_loss(batch, labels, margin=0.5, reduction="none")[0]
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    np.testing.assert_allclose(
        mj.batch_semi_hard_triplet_loss(batch, labels, margin=1.5, reduction="none")[0], 0.5, rtol=1e-6
    )


# Against the references.

SOFTER = [
    Loss("semi_hard_soft", mj.batch_semi_hard_triplet_loss, references.semi_hard, SOFT),
    Loss("batch_all_soft", mj.batch_all_triplet_loss, references.batch_all, SOFT),
    Loss("batch_all_softer", mj.batch_all_triplet_loss, references.batch_all, {**SOFT, "margin": 0.3}),
]


@pytest.mark.parametrize("loss", SOFTER, ids=[loss.name for loss in SOFTER])
def test_soft_margins(loss, precision):
    batch = np.asarray(loss.batch(), precision.dtype)
    value, gradient = jax.jit(jax.value_and_grad(loss))(batch, LABELS)
    assert_close(value, loss.expected(loss.batch(), LABELS), precision.tolerance)
    assert_close(gradient, loss.expected_gradient(), max(precision.tolerance, 1e-8))


WHERE = np.arange(N) != 2


@every_reduction
@every_core_loss
def test_reductions(loss, reduction, x64):
    found = loss(loss.batch(), LABELS, reduction=reduction, where=WHERE)
    expected = loss.expected(loss.batch(), LABELS, reduction=reduction, where=WHERE)
    assert found.shape == np.shape(expected)
    assert_close(found, expected, 1e-10)


@every_reduction
@every_core_loss
def test_references(loss, reduction, x64):
    """A memory of other rows, in which an anchor is not left out even where it meets itself."""
    memory = np.concatenate([loss.batch()[:3] + 0.5, loss.batch()[1:3] + 1 / 256])
    options = {
        "references": memory,
        "reference_labels": np.array([0, 1, 2, 1, 3]),
        "reference_where": np.array([True, True, True, True, False]),
        "where": WHERE,
        "reduction": reduction,
    }
    assert_close(loss(loss.batch(), LABELS, **options), loss.expected(loss.batch(), LABELS, **options), 1e-10)


@every_core_loss
def test_the_batch_as_its_own_reference_meets_itself(loss, x64):
    options = {"references": loss.batch(), "reference_labels": LABELS, "distance": mj.squared_euclidean}
    assert_close(loss(loss.batch(), LABELS, **options), loss.expected(loss.batch(), LABELS, **options), 1e-10)


def tags_overlap(a, b):
    return (a * b).sum() > 0


@pytest.mark.parametrize("tile", ["auto", 3])
@every_core_loss
def test_match_decides_who_is_a_positive(loss, tile, x64):
    tags = np.random.default_rng(1).integers(0, 2, size=(N, 3))  # a row without a tag is not even like itself
    found = loss(loss.batch(), tags, match=tags_overlap, tile=tile)
    assert_close(found, loss.expected(loss.batch(), tags, match=tags_overlap), 1e-10)
    near = functools.partial(loss, loss.batch(), match=lambda a, b: abs(a - b) < 0.5)
    continuous = np.random.default_rng(2).normal(size=N)
    expected = loss.expected(loss.batch(), continuous, match=lambda a, b: abs(a - b) < 0.5)
    assert_close(near(continuous), expected, 1e-10)


@every_distance
@every_core_loss
def test_an_eager_call_equals_one_within_jit(loss, distance):
    batch = rows()
    assert_close(
        loss(batch, LABELS, distance=distance),
        loss.expected(batch.astype(float), LABELS, distance=distance),
        1e-5,
    )


# What is refused, and in which words.


@pytest.fixture(params=[*CORE_LOSSES, *MINERS], ids=lambda f: f.function.__name__ + "-" + f.name)
def function(request):
    return request.param


def test_bad_rows(function):
    with pytest.raises(ValueError, match=r"embeddings are empty.*at least one row"):
        function(np.zeros((0, DIM), np.float32), np.zeros(0, int))
    for shape in ((N,), (N, DIM, 1)):
        with pytest.raises(ValueError, match=r"embeddings must be \[rows, dim\]"):
            function(np.zeros(shape, np.float32), LABELS)
    with pytest.raises(ValueError, match="dim of at least 1"):
        function(np.zeros((N, 0), np.float32), LABELS)
    with pytest.raises(TypeError, match=r"embeddings must be floating, got int32.*astype"):
        function(np.zeros((N, DIM), np.int32), LABELS)
    with pytest.raises(ValueError, match=r"labels has shape \(5,\) for 8 rows of embeddings"):
        function(rows(), LABELS[:5])


def test_bad_masks(function):
    with pytest.raises(TypeError, match=r"where must be boolean, got int32.*astype\(bool\)"):
        function(rows(), LABELS, where=np.ones(N, np.int32))
    with pytest.raises(ValueError, match="where needs one entry a row of embeddings"):
        function(rows(), LABELS, where=np.ones(N - 1, bool))


def test_bad_references(function):
    memory = rows(1)
    with pytest.raises(ValueError, match="pass reference_labels"):
        function(rows(), LABELS, references=memory)
    for orphan in ({"reference_labels": LABELS}, {"reference_where": np.ones(N, bool)}):
        with pytest.raises(ValueError, match="pass references"):
            function(rows(), LABELS, **orphan)
    with pytest.raises(ValueError, match="embeddings has dimension 3 and references has 2"):
        function(rows(), LABELS, references=memory[:, :2], reference_labels=LABELS)
    with pytest.raises(TypeError, match="reference_labels must be integers"):
        function(rows(), LABELS, references=memory, reference_labels=LABELS.astype(np.float32))
    with pytest.raises(TypeError, match="reference_where must be boolean"):
        function(rows(), LABELS, references=memory, reference_labels=LABELS, reference_where=LABELS)
    with pytest.raises(ValueError, match="reference_labels has shape"):
        function(rows(), LABELS, references=memory, reference_labels=LABELS[:3])


def test_bad_options(function):
    with pytest.raises(TypeError, match=r"distance must be .* such as mj\.euclidean, got 'euclidean'"):
        function(rows(), LABELS, distance="euclidean")
    with pytest.raises(ValueError, match=r"distance must be a distance .* got cosine_similarity"):
        function(rows(), LABELS, distance=mj.cosine_similarity)
    for tile in (0, -1, 2.5, True, "all"):
        with pytest.raises(ValueError, match='tile must be "auto" or a positive integer'):
            function(rows(), LABELS, tile=tile)
    with pytest.raises(TypeError, match="match must return one boolean for two labels, got int32"):
        function(rows(), LABELS, match=lambda a, b: a - b)
    with pytest.raises(TypeError, match="match must return one boolean"):
        function(rows(), np.zeros((N, 2), int), match=lambda a, b: a == b)
    with pytest.raises(TypeError, match="match must be a function"):
        function(rows(), LABELS, match="labels")
    with pytest.raises(TypeError, match="missing a required argument: 'labels'"):
        function.function(rows(), lables=LABELS)
    with pytest.raises(TypeError, match=r"'margn'; it takes embeddings, labels"):
        function(rows(), LABELS, margn=1.0)


@every_core_loss
def test_unknown_reduction(loss):
    with pytest.raises(
        ValueError, match="reduction must be one of mean, mean_active, sum, none, got 'average'"
    ):
        loss(rows(), LABELS, reduction="average")


def test_messages_are_one_line(function):
    wrong = [
        {"labels": LABELS[:5]},
        {"labels": LABELS[:, None]},
        {"labels": LABELS.astype(float)},
        {"where": np.ones(3, bool)},
        {"embeddings": np.zeros(3, np.float32)},
        {"distance": "l2"},
    ]
    for arguments in wrong:
        with pytest.raises((TypeError, ValueError)) as error:
            function(**{"embeddings": rows(), "labels": LABELS, **arguments})
        assert "\n" not in str(error.value).strip()


def test_bad_pairs_and_triplets():
    x = jnp.zeros((4, 2))
    with pytest.raises(TypeError, match="is_same must be boolean or 0/1 integers, got float32"):
        mj.contrastive_loss(x, x, jnp.ones(4))
    with pytest.raises(ValueError, match="is_same needs one entry for each pair"):
        mj.contrastive_loss(x, x, jnp.ones(3, bool))
    with pytest.raises(ValueError, match="one shape"):
        mj.contrastive_loss(x, x[:3], jnp.ones(4, bool))
    with pytest.raises(ValueError, match="one shape"):
        mj.triplet_loss(x, x, x[:3])
    with pytest.raises(TypeError, match="must be floating"):
        mj.triplet_loss(x, x, x.astype(int))


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"distance": mj.cosine_similarity}, ValueError, "distance must be a distance such as mj.euclidean"),
        ({"distance": "euclidean"}, TypeError, "distance must be a metric_jax Distance"),
        ({"margin": -1.0}, ValueError, "loss: margin must be at least 0, got -1.0"),
        ({"margin": "a"}, TypeError, "loss: margin must be a number, got 'a'"),
        ({"margin": None}, TypeError, "loss: margin must be a number, got None"),
        ({"penalty": "softplus"}, TypeError, "penalty must be a function such as jax.nn.softplus"),
        ({"swap": "no"}, TypeError, "loss: swap must be True or False, got 'no'"),
    ],
)
def test_losses_of_given_pairs_and_triplets_refuse_what_those_of_batches_refuse(options, error, told):
    x, labels = jnp.array([[0.0], [1.0], [3.0]]), jnp.array([0, 0, 1])
    calls = {
        "contrastive_loss": functools.partial(mj.contrastive_loss, x, x, jnp.ones(3, bool)),
        "triplet_loss": functools.partial(mj.triplet_loss, x, x, x),
        "batch_triplet_loss": functools.partial(mj.batch_triplet_loss, x, mj.mining.batch_hard(x, labels)),
    }
    for call in calls.values():
        if set(options) <= set(inspect.signature(call.func).parameters):
            with pytest.raises(error, match=told):
                call(**options)


@pytest.mark.parametrize("function", [*CORE_LOSSES, *MINERS], ids=lambda f: f.function.__name__)
def test_the_common_arguments_are_in_every_signature_and_docstring(function):
    signature = inspect.signature(function.function)
    promised = [
        "distance",
        "references",
        "reference_labels",
        "reference_where",
        "where",
        "match",
        "tile",
        "axis_name",
    ]
    promised += list(function.own) + (["reduction"] if isinstance(function, Loss) else [])
    assert list(signature.parameters)[:2] == ["embeddings", "labels"]
    for name in promised:
        assert signature.parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert f"    {name}: " in inspect.getdoc(function.function)


@every_core_loss
def test_an_integer_margin_is_a_margin(loss):
    """Whoever writes margin=1 means 1.0, and wants a gradient."""
    rows = np.random.default_rng(0).normal(size=(len(LABELS), DIM)).astype(np.float32)
    own = {**loss.own, "margin": 1.0}
    expected = jax.value_and_grad(lambda e: loss.function(e, LABELS, **own))(rows)
    found = jax.value_and_grad(lambda e: loss.function(e, LABELS, **{**own, "margin": 1}))(rows)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embeddings": None}, "embeddings must be an array, got NoneType"),
        ({"embeddings": "abc"}, "embeddings must be an array, got str"),
        ({"labels": None}, "labels must be an array of integers, got None"),
        ({"labels": ["a", "b", "a", "b"]}, "labels must be an array of integers, got <U1"),
        ({"where": "abcd"}, "where must be an array, got str"),
        ({"penalty": "relu"}, "penalty must be a function such as jax.nn.softplus, got 'relu'"),
    ],
)
def test_a_wrong_type_is_named(options, message):
    given = {"embeddings": np.zeros((4, 2), np.float32), "labels": np.array([0, 0, 1, 1]), **options}
    with pytest.raises(TypeError, match=message):
        mj.batch_hard_triplet_loss(**given)


def test_lists_of_no_pairs_and_no_triplets_are_none():
    rows = np.ones((3, 2), np.float32)
    assert mj.batch_triplet_loss(rows, mj.Triplets([], [], [], [])) == 0.0
    assert mj.batch_contrastive_loss(rows, None, pairs=mj.Pairs([], [], [], [])) == 0.0


def test_lists_are_arrays():
    rows, labels, where = np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1]), np.array([True] * 3 + [False])
    expected = mj.batch_hard_triplet_loss(rows, labels, where=where)
    assert mj.batch_hard_triplet_loss(rows.tolist(), labels.tolist(), where=where.tolist()) == expected
