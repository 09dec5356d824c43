"""P classes × K images: exactly, of every kind, and as a pure function of seed and number."""

import itertools

import numpy as np
import pytest

from metric_jax.data import DataError, PKSampler

# Classes of unequal sizes, their images scattered.
LABELS = np.random.default_rng(0).permutation(np.repeat([3, 5, 8, 13, 40], [4, 6, 4, 9, 5]))


def sampler(classes=3, samples=4, seed=0, labels=LABELS):
    return PKSampler(labels, classes=classes, samples=samples, seed=seed)


@pytest.mark.parametrize(("classes", "samples"), [(2, 2), (3, 4), (5, 4), (5, 2)])
def test_a_batch_is_P_classes_of_K_images(classes, samples):
    for batch in range(30):
        indices = sampler(classes, samples)(batch)
        assert len(set(indices)) == len(indices) == classes * samples
        by_class = LABELS[indices].reshape(classes, samples)
        assert (by_class == by_class[:, :1]).all()
        assert len(set(by_class[:, 0])) == classes


def test_a_batch_follows_from_seed_and_number_alone():
    first, again = sampler(), sampler()
    backwards = {batch: again(batch) for batch in reversed(range(50))}
    for batch in range(50):
        np.testing.assert_array_equal(first(batch), backwards[batch])


def test_batches_and_seeds_differ():
    drawn = [tuple(sampler(seed=seed)(batch)) for seed in range(10) for batch in range(50)]
    assert len(set(drawn)) == len(drawn)


def test_every_class_and_every_image_has_its_turn_equally_often():
    """Frequencies within four standard deviations; of an image, given its class, too."""
    batches, drawn = 2000, sampler(2, 2)
    indices = np.stack([drawn(batch) for batch in range(batches)])
    for label in np.unique(LABELS):
        members = np.flatnonzero(np.isin(LABELS, label))
        visits = np.sum(LABELS[indices] == label) / 2
        assert abs(visits - batches * 2 / 5) < 4 * np.sqrt(batches * 2 / 5 * 3 / 5)
        turns = np.array([np.sum(indices == member) for member in members])
        share = 2 / len(members)
        assert np.abs(turns - visits * share).max() < 4 * np.sqrt(visits * share * (1 - share))


def test_a_batch_tells_nothing_of_the_next():
    """How many classes two neighbours share is what chance says: hypergeometric, 2 of 5 and 2 of 5."""
    drawn = sampler(2, 2)
    chosen = [set(LABELS[drawn(batch)]) for batch in range(2001)]
    shared = [len(a & b) for a, b in itertools.pairwise(chosen)]
    assert np.mean(shared) == pytest.approx(0.8, abs=4 * np.sqrt(0.36 / 2000))


def test_all_of_a_class_and_all_classes_fit():
    labels = np.array([0, 0, 1, 1])
    assert sorted(PKSampler(labels, classes=2, samples=2, seed=0)(7)) == [0, 1, 2, 3]


def test_labels_of_any_integer_kind():
    labels = np.array([-(2**40), 2**40, -(2**40), 2**40])
    chosen = labels[PKSampler(labels, classes=2, samples=2, seed=0)(0)]
    assert sorted(set(chosen)) == [-(2**40), 2**40]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 6}, r"batch\.classes=6, but the training set has 5 classes: lower batch\.classes"),
        ({"samples": 5}, r"batch\.samples=5, but class 3 has 4 training images: lower batch\.samples"),
        ({"classes": 1}, r"batch\.classes=1 and batch\.samples=4 must both be at least 2"),
        ({"samples": 1}, r"batch\.classes=3 and batch\.samples=1 must both be at least 2"),
        ({"samples": 0}, "at least 2"),
        ({"classes": -3}, "at least 2"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"labels": np.zeros(9, int)}, "all 9 training images are of one class: .* no negatives"),
        ({"labels": np.zeros(0, int)}, "no training images"),
        ({"labels": LABELS[:, None]}, r"labels must be \[n\] integers, got \[28, 1\]"),
        ({"labels": LABELS / 2}, r"labels must be \[n\] integers, got \[28\] float64"),
    ],
)
def test_what_cannot_be_sampled(options, message):
    with pytest.raises(DataError, match=message):
        sampler(**options)
