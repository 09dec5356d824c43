"""The promise of `per_anchor`: whoever writes the formula of one anchor gets everything else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from subjects import LABELS, Loss, N
from suite import assert_close

import metric_jax as mj
from metric_jax.anchors import tile_size


# A loss that is not in the library, as its user would write it: NCA's, the log-probability of picking a positive.
@mj.per_anchor(distance=mj.squared_euclidean)
def nca_loss(distances, positives, negatives, *, scale=1.0):
    """Neighbourhood components: ``-log(Σ_p exp(-s·d) / Σ_{p,n} exp(-s·d))``; its terms are anchors with a positive."""
    to_any = jax.nn.logsumexp(jnp.where(positives | negatives, -scale * distances, -jnp.inf))
    to_positives = jax.nn.logsumexp(jnp.where(positives, -scale * distances, -jnp.inf))
    return mj.terms(to_any - to_positives, where=positives.any())


def nca_terms(distances, positives, negatives, scale=1.0):
    weights = np.exp(-scale * distances)
    return (
        [-np.log(weights[positives].sum() / weights[positives | negatives].sum())] if positives.any() else []
    )


NCA = Loss("nca", nca_loss, nca_terms, {"scale": 0.7}, mj.squared_euclidean)
SQUARED = {"distance": mj.squared_euclidean}


def expected(batch, labels, **options):
    return NCA.expected(batch, labels, **{**SQUARED, **options})


@pytest.fixture
def batch():
    return NCA.batch(mj.squared_euclidean)


@pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum", "none"])
def test_own_loss_gets_reductions(batch, reduction, x64):
    assert_close(NCA(batch, LABELS, reduction=reduction), expected(batch, LABELS, reduction=reduction), 1e-10)


@pytest.mark.parametrize("tile", ["auto", 1, 3, N + 1])
def test_own_loss_gets_tiles_and_gradients(batch, tile, x64):
    value, gradient = jax.value_and_grad(lambda e: NCA(e, LABELS, tile=tile))(jnp.asarray(batch))
    assert_close(value, expected(batch, LABELS), 1e-10)
    assert_close(gradient, NCA.expected_gradient(mj.squared_euclidean), 1e-8)


def test_own_loss_gets_masks(batch, x64):
    where = np.arange(N) % 4 != 1
    junk = np.where(where[:, None], batch, np.nan)
    value, gradient = jax.value_and_grad(lambda e: NCA(e, LABELS, where=where))(jnp.asarray(junk))
    assert_close(value, expected(batch[where], LABELS[where]), 1e-10)
    np.testing.assert_array_equal(gradient[~where], 0)
    assert jnp.isfinite(gradient).all()


def test_own_loss_gets_references_and_matches(batch, x64):
    options = {
        "references": batch[::-1] + 0.25,
        "reference_labels": np.arange(N),
        "match": lambda a, b: (a + b) % 3 == 0,
    }
    assert_close(NCA(batch, LABELS, **options), expected(batch, LABELS, **options), 1e-10)


def test_own_loss_gets_other_distances_and_own_arguments(batch, x64):
    for distance in (mj.cosine, mj.manhattan):
        assert_close(NCA(batch, LABELS, distance=distance), expected(batch, LABELS, distance=distance), 1e-10)
    slope = jax.grad(lambda scale: nca_loss(batch, LABELS, scale=scale))(0.7)
    step = 1e-5
    ends = [
        Loss("", nca_loss, nca_terms, {"scale": 0.7 + s}).expected(batch, LABELS, **SQUARED)
        for s in (step, -step)
    ]
    assert_close(slope, (ends[0] - ends[1]) / (2 * step), 1e-8)


def test_own_loss_gets_half_precision(batch):
    half = jnp.asarray(batch, jnp.bfloat16)
    value = NCA(half, LABELS)
    assert value.dtype == jnp.float32
    assert_close(value, expected(half, LABELS), 1e-5)


@functools.cache
def mesh():
    return jax.make_mesh((2, 2), ("host", "chip"), devices=jax.devices()[:4], axis_types=(AxisType.Auto,) * 2)


def test_own_loss_gets_four_devices_on_two_axes(batch, x64):
    axes = ("host", "chip")
    local = jax.shard_map(
        lambda e, y: NCA(e, y, axis_name=axes), mesh=mesh(), in_specs=(P(axes), P(axes)), out_specs=P()
    )
    value, gradient = jax.jit(jax.value_and_grad(local))(jnp.asarray(batch), LABELS)
    assert_close(value, expected(batch, LABELS), 1e-10)
    assert_close(gradient, NCA.expected_gradient(mj.squared_euclidean), 1e-8)


def test_bare_decorator_is_euclidean():
    @mj.per_anchor
    def nearest(distances, positives, negatives):
        """The distance to the nearest positive."""
        return mj.terms(jnp.min(distances, where=positives, initial=jnp.inf), where=positives.any())

    batch = jnp.array([[0.0, 0.0], [3.0, 4.0], [3.0, 3.0], [9.0, 9.0]])
    np.testing.assert_allclose(
        nearest(batch, jnp.array([0, 0, 0, 1]), reduction="none"), [18**0.5, 1, 1, 0], rtol=1e-6
    )
    assert nearest.__name__ == "nearest"
    assert nearest.__doc__.startswith("The distance to the nearest positive.")


def test_similarities_and_static_arguments():
    @mj.per_anchor(similarity=mj.cosine_similarity, static=("best",))
    def alignment(similarities, positives, negatives, *, best=jnp.max):
        return mj.terms(1.0 - best(similarities, where=positives, initial=-1.0), where=positives.any())

    batch = jnp.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    labels = jnp.array([0, 0, 0])
    np.testing.assert_allclose(alignment(batch, labels, reduction="none"), [0.0, 1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(alignment(batch, labels, best=jnp.min, reduction="none"), 2.0, atol=1e-6)
    with pytest.raises(TypeError, match=r"'distance'; it takes embeddings, labels, best, similarity"):
        alignment(batch, labels, distance=mj.cosine)


def weighted(distances, positives, negatives, *, weight=1.0, penalty=jax.nn.relu):
    return mj.terms(weight * penalty(distances), where=positives)


PAIR = np.array([[0.0], [3.0]], np.float32), np.array([0, 0])


def test_one_static_argument_is_named_as_jax_takes_it():
    assert mj.per_anchor(weighted, static="penalty")(*PAIR, weight=2.0) == 6.0


def test_own_arguments_that_are_no_arrays_are_named():
    with pytest.raises(
        TypeError, match=r"weighted: penalty must be an array .* what per_anchor is told in static="
    ):
        mj.per_anchor(weighted)(*PAIR)
    by_name = mj.per_anchor(lambda d, p, n, *, weights: mj.terms(d * weights["a"], where=p))
    assert by_name(*PAIR, weights={"a": 2.0}) == 6.0
    with pytest.raises(TypeError, match="<lambda>: weights must be an array or a number, got 'two'"):
        by_name(*PAIR, weights={"a": "two"})


def test_an_own_argument_that_every_loss_has_is_named():
    def masked(distances, positives, negatives, *, where=None):
        return mj.terms(distances, where=positives)

    with pytest.raises(TypeError, match=r"masked: every loss has an argument where .* another name"):
        mj.per_anchor(masked)


def test_a_partial_formula_is_called_as_the_whole():
    doubled = mj.per_anchor(functools.partial(weighted, weight=2.0), static=("penalty",))
    assert (doubled(*PAIR), doubled.__name__) == (6.0, "weighted")

    def bare(distances, positives, negatives, *, scale):
        return distances

    with pytest.raises(TypeError, match=r"bare must return mj\.terms"):
        mj.per_anchor(functools.partial(bare, scale=1.0))(*PAIR)
    with pytest.raises(TypeError, match=r"bare must take \(distances, positives, negatives"):
        mj.per_anchor(functools.partial(bare, None, scale=1.0))


def test_several_terms_per_anchor_are_counted_exactly():
    @mj.per_anchor
    def positives_only(distances, positives, negatives):
        return mj.terms(jnp.where(distances > 1.5, distances, 0.0), where=positives)

    batch, labels = jnp.array([[0.0], [1.0], [3.0], [10.0]]), jnp.array([0, 0, 0, 1])
    # six pairs, at 1, 3, 1, 2, 3, 2
    assert positives_only(batch, labels, reduction="sum") == 10.0
    np.testing.assert_allclose(positives_only(batch, labels), 10 / 6, rtol=1e-6)
    np.testing.assert_allclose(positives_only(batch, labels, reduction="mean_active"), 10 / 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("batch", "references", "expected"),
    [
        (8, 8, 8),
        (1024, 1024, 1024),  # 2²⁰ distances in one tile
        (1025, 1024, 513),  # one row too many: two tiles, equal but for a row
        (4096, 4096, 256),
        (1000, 10_000, 100),  # ten tiles, where 104 rows would leave a last one of 64
        (65_536, 65_536, 64),  # 2²⁰ distances would be 16 rows, too few for a fast product
        (10, 10_000_000, 10),
    ],
)
def test_automatic_tiles(batch, references, expected):
    assert tile_size(batch, references, "auto") == expected
    assert tile_size(batch, references, 7) == 7


def test_automatic_tiles_of_a_distance_that_is_no_product():
    assert tile_size(4096, 4096, "auto", held=128) == 2
    assert tile_size(10, 8, "auto", held=16) == 10


@pytest.mark.parametrize("tile", [0, -1, 2.0, True, "dense", None])
def test_a_wrong_tile_is_named(tile):
    with pytest.raises(ValueError, match='tile must be "auto" or a positive integer'):
        NCA(np.zeros((2, 2), np.float32), np.array([0, 1]), tile=tile)


def test_a_tile_may_be_any_integer():
    assert tile_size(8, 8, np.int64(3)) == 3


def test_a_formula_that_is_none_is_named():
    with pytest.raises(TypeError, match=r"f must take \(distances, positives, negatives, \*, \.\.\.\)"):

        @mj.per_anchor
        def f(distances, positives, negatives, scale=1.0):
            return mj.terms(scale * distances, where=positives)

    @mj.per_anchor
    def g(distances, positives, negatives):
        return distances

    with pytest.raises(TypeError, match=r"g must return mj\.terms"):
        g(np.zeros((2, 2), np.float32), np.array([0, 1]))


def test_terms_that_count_by_the_embeddings_have_one_gradient_in_any_tiles():
    @mj.per_anchor
    def near_loss(distances, positives, negatives):
        weights = jnp.where(negatives, jnp.exp(-distances), 0.0)
        return mj.Terms(jnp.sum(weights * distances), jnp.sum(weights), jnp.sum(weights > 0))

    rows, labels = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32), np.arange(7) % 3
    dense, tiled = (jax.grad(near_loss)(rows, labels, tile=tile) for tile in (7, 3))
    np.testing.assert_allclose(tiled, dense, rtol=1e-5, atol=1e-7)


def test_terms_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="one entry of where for each value"):
        mj.terms(jnp.ones(3), where=jnp.array(True))
    with pytest.raises(TypeError, match="where must be boolean, got int32"):
        mj.terms(jnp.ones(3), where=jnp.ones(3, jnp.int32))


def test_terms_are_counted_in_float32():
    """bfloat16 counts no farther than 256."""
    found = mj.terms(jnp.ones(1001, jnp.bfloat16), where=jnp.ones(1001, bool))
    assert [float(x) for x in found] == [1001.0] * 3


def test_memory_of_a_distance_that_is_no_product_is_linear_too():
    """Value and gradient at 1024 rows hold no 1024 · 1024 · 64 differences: 268 MB in float32."""
    struct = jax.ShapeDtypeStruct((1024, 64), np.float32), jax.ShapeDtypeStruct((1024,), np.int32)
    for loss in (mj.batch_contrastive_loss, mj.batch_hard_triplet_loss):
        step = jax.jit(jax.value_and_grad(lambda e, y, loss=loss: loss(e, y, distance=mj.manhattan)))
        temporary = step.lower(*struct).compile().memory_analysis().temp_size_in_bytes
        assert temporary < 30e6, loss


def test_memory_is_linear_in_the_batch():
    """Value and gradient at 4096 rows hold no 4096² array: 64 MB each in float32."""
    struct = jax.ShapeDtypeStruct((4096, 8), np.float32), jax.ShapeDtypeStruct((4096,), np.int32)
    for loss in (
        nca_loss,
        mj.batch_contrastive_loss,
        mj.batch_hard_triplet_loss,
        mj.batch_semi_hard_triplet_loss,
    ):
        step = jax.jit(jax.value_and_grad(lambda e, y, loss=loss: loss(e, y, tile=128)))
        temporary = step.lower(*struct).compile().memory_analysis().temp_size_in_bytes
        assert temporary < 30e6, loss
