"""What the tests of losses and miners share: for which of them a test runs, how, and when two results are equal."""

import functools

import jax
import numpy as np
import pytest
from catalogue import LOSSES, MINERS
from subjects import DIM, DISTANCES, PRECISIONS, N

import metric_jax as mj

# XLA's own options, which the root's conftest.py trades for time.
AS_SHIPPED = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_use_fusion_emitters": True,
    "xla_cpu_parallel_codegen_split_count": 32,
}

CORE_LOSSES = [loss for loss in LOSSES if loss.is_core]
# The engine maps, shards and tiles a formula for one anchor, whichever it is: that is tested on the core losses, and on
# those that have no tiles because they do it for themselves.
OWN_ENGINES = [loss for loss in LOSSES if loss.is_core or not loss.takes("tile")]
TRIPLET_LOSSES = [loss for loss in CORE_LOSSES if loss.needs == "both"]


def every(argument, choices):
    return pytest.mark.parametrize(argument, choices, ids=[choice.name for choice in choices])


def every_loss_with(argument, choices, rest=(), losses=LOSSES, precisions=None):
    """Every core loss with every choice, and every other loss with those of ``rest``, or of ``rest(loss)``.

    Given ``precisions``, core losses run in both and the others in these.
    """
    pairs = [
        (loss, choice)
        for loss in losses
        for choice in (choices if loss.is_core else rest(loss) if callable(rest) else rest)
    ]
    names = [f"{loss.name}-{getattr(choice, 'name', choice)}" for loss, choice in pairs]
    if precisions is None:
        return pytest.mark.parametrize(("loss", argument), pairs, ids=names)
    cases = [
        pytest.param(loss, choice, precision, id=f"{key}-{name}")
        for (loss, choice), name in zip(pairs, names, strict=True)
        for key, precision in PRECISIONS.items()
        if loss.is_core or key in precisions
    ]
    return pytest.mark.parametrize(("loss", argument, "precision"), cases, indirect=["precision"])


def every_miner_with(arguments, choices, rest):
    """Every core miner with every choice and in both precisions, and every other with ``rest(miner)`` in float64.

    A choice is a tuple.
    """
    cases = [
        pytest.param(
            miner,
            *choice,
            precision,
            id="-".join([miner.name, *(getattr(x, "name", str(x)) for x in choice), name]),
        )
        for miner in MINERS
        for choice in (choices if miner.is_core else rest(miner))
        for name, precision in PRECISIONS.items()
        if miner.is_core or name == "float64"
    ]
    return pytest.mark.parametrize(("miner", *arguments, "precision"), cases, indirect=["precision"])


def every_loss_in(*precisions, losses=LOSSES):
    """Every core loss in both precisions, and every other loss in these."""
    cases = [
        pytest.param(loss, precision, id=f"{loss.name}-{name}")
        for loss in losses
        for name, precision in PRECISIONS.items()
        if loss.is_core or name in precisions
    ]
    return pytest.mark.parametrize(("loss", "precision"), cases, indirect=["precision"])


every_loss = every("loss", LOSSES)
every_core_loss = every("loss", CORE_LOSSES)
every_loss_and_measure = every_loss_with("distance", DISTANCES, lambda loss: loss.all_measures)
every_loss_of_references = every("loss", [loss for loss in LOSSES if loss.takes("references")])
every_triplet_loss = every("loss", TRIPLET_LOSSES)
every_miner = every("miner", MINERS)
every_miner_in_its_precisions = every_miner_with([], [()], lambda miner: [()])
every_core_miner = every("miner", [miner for miner in MINERS if miner.is_core])
every_distance = every("distance", DISTANCES)
every_reduction = pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum", "none"])


def random_rows(seed=0, n=N):
    """Rows without a structure."""
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


def tied_rows(n, classes=3):
    """Integer rows with duplicates, hence many distances that tie exactly, and labels."""
    generator = np.random.default_rng(n)
    rows = generator.integers(0, 3, size=(n, DIM)).astype(np.float32)
    rows[1], rows[n // 2] = rows[0], rows[n - 1]
    return rows, generator.permutation(np.arange(n) % classes)


@functools.cache
def compiled(loss, distance=None, tile="auto", as_shipped=False):
    """``(embeddings, labels, where) -> (value, gradient)``, compiled once for all the tests that need it."""

    def value(embeddings, labels, where):
        tiles = {"tile": tile} if loss.takes("tile") else {}
        return loss(embeddings, labels, where=where, distance=distance, **tiles)

    return jax.jit(jax.value_and_grad(value), compiler_options=AS_SHIPPED if as_shipped else None)


def value_and_gradient(loss, distance=None, tile="auto", as_shipped=False):
    """The same, with a mask of all rows where there is none: one compilation serves both.

    A formula is the same without XLA's optimizations, which take their time. Core losses in float32 have them on the
    batches that most tests share.
    """

    def run(embeddings, labels, where=None):
        where = np.ones(len(embeddings), bool) if where is None else where
        is_shared = tile == "auto" and len(embeddings) == N and not jax.config.jax_enable_x64
        is_optimized = as_shipped or (loss.is_core and is_shared)
        return compiled(loss, distance or loss.measure, tile, is_optimized)(embeddings, labels, where)

    return run


@functools.cache
def with_references(loss):
    """``(embeddings, labels, references, reference_labels, reference_where) -> (sum, (gradient to each))``."""
    return jax.jit(jax.value_and_grad(of_references(loss), argnums=(0, 2)))


def of_references(loss, **options):
    """The loss as a function of arrays alone."""

    def value(embeddings, labels, references, reference_labels, reference_where):
        given = {"references": references, "reference_labels": reference_labels, **options}
        return loss(embeddings, labels, **given, reference_where=reference_where, reduction="sum")

    return value


@functools.cache
def mine(miner, distance=mj.euclidean, tile="auto"):
    """``(embeddings, labels, where) -> Triplets``, likewise."""
    return jax.jit(
        lambda embeddings, labels, where: miner(
            embeddings, labels, where=where, distance=distance, tile=tile
        ),
        compiler_options=AS_SHIPPED if miner.is_core and tile == "auto" else None,
    )


def assert_close(actual, expected, tolerance):
    """Equal up to a tolerance relative to the largest entry: one that cancels to 0 has no digits of its own."""
    expected = np.asarray(expected, np.float64)
    assert np.isfinite(expected).all()  # or NaN would equal NaN
    scale = np.max(np.abs(expected), initial=0.0)
    actual = np.asarray(actual, np.float64)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale, strict=True)


def assert_same_triplets(actual, expected):
    """Equal, column by column; a reference that gives three columns leaves the anchors out."""
    columns = mj.mining.Triplets._fields[-len(expected) :]
    for name, ours, theirs in zip(columns, tuple(actual)[-len(expected) :], expected, strict=True):
        np.testing.assert_array_equal(np.asarray(ours, int), np.asarray(theirs, int), name, strict=True)


def assert_rounds_to(gradient, upcast, loss):
    """The gradient to rows of half precision is that to the same rows in float32, rounded once.

    Of a row that is both views of its item it is the sum of two such gradients, each rounded.
    """
    actual = np.asarray(gradient)
    with np.errstate(over="ignore"):  # a slope may be more than float16 can hold
        expected = np.asarray(upcast).astype(actual.dtype)
    if loss.measure:
        np.testing.assert_array_equal(actual, expected)
    else:
        np.testing.assert_allclose(actual.astype(float), expected.astype(float), rtol=2e-2, atol=2.0**-23)
