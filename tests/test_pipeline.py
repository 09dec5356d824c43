"""The stream of batches: what the sampler says, once each, from wherever it is entered."""

import dataclasses
import json
import time

import numpy as np
import pytest

from metric_jax.data import DataError, PKSampler, batches, samplers, sources

COUNT = 12


@pytest.fixture(scope="module")
def digits():
    return sources.digits()


@pytest.fixture(scope="module")
def sampler(digits):
    return PKSampler(digits.labels, classes=3, samples=2, seed=5)


def check(found, digits, sampler, numbers):
    """The batches are those of these numbers, and no further ones."""
    assert len(found) == len(numbers)
    for batch, number in zip(found, numbers, strict=True):
        np.testing.assert_array_equal(batch.images, digits.images[sampler(number)])
        np.testing.assert_array_equal(batch.labels, digits.labels[sampler(number)])


def test_the_stream_is_what_the_sampler_says(digits, sampler):
    check(list(batches(digits, sampler, count=COUNT)), digits, sampler, range(COUNT))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("kind", ["pk", "class_balanced"])
def test_the_stream_is_the_same_for_any_number_of_threads_and_resumes(digits, threads, kind):
    drawn = samplers.choose(digits, kind, classes=3, samples=2, seed=5)

    def late_at_times(number):
        time.sleep(0.01 * (number % 3 == 0))  # so that a later batch is ready first
        return drawn(number)

    stream = batches(digits, late_at_times, count=COUNT, threads=threads)
    check([next(stream) for _ in range(5)], digits, drawn, range(5))
    resumed = batches(digits, late_at_times, count=COUNT, threads=6 - threads)
    resumed.set_state(json.loads(json.dumps(stream.get_state())))
    check(list(resumed), digits, drawn, range(5, COUNT))


def test_images_that_are_mapped_into_memory_make_the_same_batches(digits, sampler, tmp_path):
    np.save(tmp_path / "images.npy", digits.images)
    mapped = dataclasses.replace(digits, images=np.load(tmp_path / "images.npy", mmap_mode="r"))
    found = list(batches(mapped, sampler, count=COUNT))
    check(found, digits, sampler, range(COUNT))
    assert not isinstance(found[0].images.base, np.memmap)  # read, not to be read when it is needed


def test_two_streams_are_equal_and_do_not_meet(digits, sampler):
    one, other = (batches(digits, sampler, count=COUNT) for _ in range(2))
    found = [[next(one), next(other)] for _ in range(COUNT)]
    for column in zip(*found, strict=True):
        check(column, digits, sampler, range(COUNT))


@pytest.mark.parametrize("done", [0, 1, 5, COUNT])
def test_a_saved_stream_goes_on_where_it_was(digits, sampler, done):
    stream = batches(digits, sampler, count=COUNT)
    check([next(stream) for _ in range(done)], digits, sampler, range(done))
    saved = json.dumps(stream.get_state())
    check(list(stream), digits, sampler, range(done, COUNT))  # saving disturbs nothing
    resumed = batches(digits, sampler, count=COUNT)
    resumed.set_state(json.loads(saved))
    check(list(resumed), digits, sampler, range(done, COUNT))


def test_a_stream_is_set_back_in_its_midst(digits, sampler):
    stream = batches(digits, sampler, count=COUNT)
    saved = [stream.get_state() for _ in range(COUNT) if next(stream)]
    stream.set_state(saved[3])
    check(list(stream), digits, sampler, range(4, COUNT))


def test_what_is_fetched_ahead_is_not_counted_as_seen(digits, sampler):
    asked = []

    def remember(number):
        asked.append(number)
        return sampler(number)

    stream = batches(digits, remember, count=COUNT)
    next(stream)
    deadline = time.monotonic() + 10
    while len(asked) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(asked) >= 3  # batches 1 and 2 are on their way, or there
    resumed = batches(digits, sampler, count=COUNT)
    resumed.set_state(stream.get_state())
    check(list(resumed), digits, sampler, range(1, COUNT))


def test_a_longer_stream_begins_with_the_shorter(digits, sampler):
    stream = batches(digits, sampler, count=COUNT)
    state = [stream.get_state() for _ in stream][-1]
    longer = batches(digits, sampler, count=COUNT + 2)
    longer.set_state(state)
    check(list(longer), digits, sampler, range(COUNT, COUNT + 2))


def test_a_batch_is_a_copy(digits, sampler):
    before = digits.images.copy()
    for batch in batches(digits, sampler, count=2):
        batch.images[:] = 7
    np.testing.assert_array_equal(digits.images, before)


def test_an_error_in_the_background_comes_forward(digits):
    def broken(number):
        return np.array([10_000])

    with pytest.raises(IndexError, match="10000"):
        next(batches(digits, broken, count=COUNT))


@pytest.mark.parametrize("count", [0, -1])
def test_a_stream_without_a_batch(digits, sampler, count):
    with pytest.raises(DataError, match=f"at least one batch, got count={count}"):
        batches(digits, sampler, count=count)
