"""Cross-batch memory: what the ring holds, what a loss makes of it, one memory spread over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from subjects import DIM, LABELS, N
from suite import assert_close, random_rows

import metric_jax as mj

create, push = mj.memory.create, mj.memory.push


def rows(*numbers):
    return np.array(numbers, np.float32)[:, None]


def held(memory):
    """The numbers in a memory of dimension 1, place by place; None where a place is empty."""
    return [
        float(row[0]) if taken else None
        for row, taken in zip(np.asarray(memory.embeddings), np.asarray(memory.where), strict=True)
    ]


def test_the_oldest_row_is_replaced():
    memory = push(create(4, 1), rows(1, 2, 3), np.array([1, 2, 3]))
    assert held(memory) == [1, 2, 3, None]
    memory = push(memory, rows(4, 5, 6), np.array([4, 5, 6]))
    assert held(memory) == [5, 6, 3, 4]
    np.testing.assert_array_equal(memory.labels, [5, 6, 3, 4])
    assert held(push(memory, rows(7), np.array([7]))) == [5, 6, 7, 4]


@pytest.mark.parametrize("size", [1, 3, 5, 20])
def test_against_a_list(size):
    generator, memory, expected = np.random.default_rng(size), create(size, DIM), []
    for step in range(12):
        batch = random_rows(step, n=7)
        labels, where = generator.integers(0, 5, 7), generator.random(7) < 0.7
        memory = push(memory, batch, labels, where)
        expected = (expected + [(*batch[i], labels[i]) for i in np.flatnonzero(where)])[-size:]
        taken = np.asarray(memory.where)
        found = np.column_stack([memory.embeddings, memory.labels])[taken]
        assert sorted(map(tuple, found)) == sorted(tuple(np.float32(row)) for row in expected)


def test_of_more_rows_than_places_the_last_stay():
    memory = push(create(3, 1), rows(9), np.array([9]))
    memory = push(memory, rows(*range(8)), np.arange(8), np.arange(8) != 6)
    assert sorted(held(memory)) == [4, 5, 7]


def test_masked_rows_are_not_stored_whatever_they_hold():
    memory = push(create(3, 1), rows(1, np.nan, 3), np.array([1, 2, 3]), np.array([True, False, True]))
    assert held(memory) == [1, 3, None]
    memory = push(memory, rows(np.nan), np.array([5]), np.array([False]))
    assert held(memory) == [1, 3, None]
    assert np.isfinite(memory.embeddings).all()


def test_one_compilation_and_one_buffer(compilations):
    step = jax.jit(push, donate_argnums=0)
    memory = step(create(64, DIM), random_rows(), LABELS)
    before, place = compilations(), memory.embeddings.unsafe_buffer_pointer()
    memory = step(memory, random_rows(1), LABELS)
    assert compilations() == before
    assert memory.embeddings.unsafe_buffer_pointer() == place


def test_a_loss_of_batch_and_memory(x64):
    batch, past = random_rows().astype(float), random_rows(1, n=12).astype(float)
    past_labels = np.arange(12) % 4
    memory = push(create(20, DIM, dtype=float), past, past_labels)

    def loss(embeddings):
        return mj.batch_all_triplet_loss(embeddings, LABELS, **mj.memory.references(memory), with_batch=True)

    def expected(embeddings):
        everything, labels = np.concatenate([embeddings, past]), np.concatenate([LABELS, past_labels])
        terms = []
        for i, row in enumerate(embeddings):
            d = references.euclidean(row[None], everything)
            other = np.arange(len(everything)) != i
            terms.append(references.batch_all(d, other & (labels == labels[i]), labels != labels[i]))
        return references.reduced(terms, "mean")

    value, gradient = jax.jit(jax.value_and_grad(loss))(batch)
    assert_close(value, expected(batch), 1e-10)
    assert_close(gradient, references.central_differences(expected, batch), 1e-7)


def test_an_empty_memory_changes_nothing():
    options = mj.memory.references(create(5, DIM))
    for loss in (mj.batch_contrastive_loss, mj.batch_hard_triplet_loss):
        value = loss(random_rows(), LABELS, **options, with_batch=True)
        assert_close(value, loss(random_rows(), LABELS), 1e-6)
        assert loss(random_rows(), LABELS, **options) == 0


def test_no_gradient_flows_into_a_memory_or_out_of_it():
    def value(embeddings):
        memory = push(create(N, DIM), embeddings, LABELS)
        return mj.batch_contrastive_loss(random_rows(1), LABELS, **mj.memory.references(memory))

    np.testing.assert_array_equal(jax.grad(value)(random_rows()), 0)

    def of_memory(stored):
        memory = create(N, DIM)._replace(embeddings=stored, where=jnp.ones(N, bool))
        return mj.batch_contrastive_loss(random_rows(1), LABELS, **mj.memory.references(memory))

    np.testing.assert_array_equal(jax.grad(of_memory)(random_rows()), 0)


def test_kept_in_half_precision_and_read_in_float32():
    memory = push(create(N, DIM, dtype=jnp.bfloat16), random_rows(), LABELS)
    assert memory.embeddings.dtype == jnp.bfloat16
    value = mj.batch_contrastive_loss(random_rows(1), LABELS, **mj.memory.references(memory))
    assert value.dtype == jnp.float32
    halved = jnp.asarray(random_rows(), jnp.bfloat16)
    expected = mj.batch_contrastive_loss(random_rows(1), LABELS, references=halved, reference_labels=LABELS)
    assert_close(value, expected, 1e-6)


def test_labels_of_another_kind():
    def shares_one(a, b):
        return (a & b).any()

    tags = np.array([[1, 0], [0, 1], [1, 1]], bool)
    memory = create(4, 1, label_dtype=bool, label_shape=(2,))
    memory = push(memory, rows(1, 2, 3), tags)
    value = mj.batch_contrastive_loss(
        rows(0), tags[:1], match=shares_one, **mj.memory.references(memory), reduction="sum"
    )
    assert value == 1.0 + 9.0  # the second shares none, and is beyond the margin


def test_saved_and_restored(tmp_path):
    memory = push(create(5, DIM), random_rows(), LABELS)
    np.savez(tmp_path / "memory.npz", **{name: np.asarray(x) for name, x in memory._asdict().items()})
    restored = mj.memory.Memory(**np.load(tmp_path / "memory.npz"))
    for ours, theirs in zip(*(push(m, random_rows(1), LABELS) for m in (memory, restored)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_four_rings_are_one_memory(precision):
    """Each of four devices keeps what it saw; together they are the memory of one device that saw it all."""
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4], axis_types=(AxisType.Auto,))
    wheres = [np.arange(N) != 2, np.arange(N) < 5, np.ones(N, bool)]

    def train(memory, embeddings, labels, axis_name=None):
        def loss(embeddings):
            options = {**mj.memory.references(memory), "with_batch": True, "axis_name": axis_name}
            return mj.batch_contrastive_loss(embeddings, labels, margin=3.0, **options)

        return jax.value_and_grad(loss)(embeddings)

    one = create(8 * N, DIM, dtype=precision.dtype)
    four = create(8 * N, DIM, dtype=precision.dtype, rings=4)
    on_four = functools.partial(jax.shard_map, mesh=mesh, in_specs=P("data"))
    push_four = jax.jit(on_four(push, out_specs=P("data")))
    train_four = jax.jit(on_four(functools.partial(train, axis_name="data"), out_specs=(P(), P("data"))))
    for step, where in enumerate(wheres):
        batch = random_rows(step).astype(precision.dtype)
        one, four = push(one, batch, LABELS, where), push_four(four, batch, jnp.asarray(LABELS), where)
    assert four.where.sum() == sum(where.sum() for where in wheres)
    batch = random_rows(9).astype(precision.dtype)
    value, gradient = train_four(four, batch, jnp.asarray(LABELS))
    expected_value, expected_gradient = train(one, batch, LABELS)
    assert_close(value, expected_value, precision.tolerance)
    assert_close(gradient, expected_gradient, precision.tolerance)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((random_rows()[:, :2], LABELS), ValueError, r"\(8, 2\) and the memory has dimension 3"),
        ((random_rows(), LABELS[:5]), ValueError, r"labels have shape \(5,\), not \(8,\)"),
        ((random_rows(), LABELS, LABELS), TypeError, "where must be boolean, got int"),
        ((random_rows(), LABELS, np.ones(3, bool)), ValueError, r"where has shape \(3,\) for 8 rows"),
        ((random_rows(), LABELS.astype(np.float32)), TypeError, "labels are float32 and the memory's int32"),
        ((random_rows(), LABELS.astype(np.uint32)), TypeError, "labels are uint32"),
        ((LABELS[:, None], LABELS), TypeError, "embeddings must be floating"),
    ],
)
def test_bad_batches(arguments, error, message):
    with pytest.raises(error, match=message):
        push(create(5, DIM), *arguments)


def test_bad_memories():
    with pytest.raises(ValueError, match=r"memory: size must be a positive integer, got 0$"):
        create(0, DIM)
    with pytest.raises(ValueError, match=r"memory: size must be a positive integer, got 4\.5"):
        create(4.5, DIM)
    with pytest.raises(TypeError, match=r"memory: dtype must be floating, as embeddings are, got .*int8"):
        create(4, DIM, dtype=jnp.int8)
    with pytest.raises(ValueError, match="4 rings cannot share 6 rows"):
        create(6, DIM, rings=4)
    with pytest.raises(ValueError, match=r"this memory has 4 rings: push inside jax\.shard_map"):
        push(create(8, DIM, rings=4), random_rows(), LABELS)
