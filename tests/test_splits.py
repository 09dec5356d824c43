"""Splits: nothing is lost, nothing is in both, and what cannot be judged is refused."""

import dataclasses

import numpy as np
import pytest

from metric_jax.data import DataError, Images, splits


def numbered(*counts):
    """Images that hold their own number, so many of class 10, 11, ..., shuffled."""
    labels = (
        np.random.default_rng(0).permutation(np.repeat(10 + np.arange(len(counts)), counts)).astype(np.int32)
    )
    return Images(np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1), labels)


def numbers(images):
    return images.images.ravel().tolist()


def check_parts(whole, train, test):
    """Every image is in one part, in its old order and with its own label."""
    assert sorted(numbers(train) + numbers(test)) == numbers(whole)
    for part in (train, test):
        assert numbers(part) == sorted(numbers(part))
        assert part.labels.tolist() == whole.labels[numbers(part)].tolist()


def grouped(groups, *counts):
    whole = numbered(*counts)
    return dataclasses.replace(whole, columns={"group": np.array(groups, np.str_)})


def test_in_order_the_first_classes_are_trained_on():
    whole = numbered(5, 1, 4, 7, 3, 6, 2, 8, 3, 4)
    train, test = splits.in_order(whole, test_fraction=0.3)
    check_parts(whole, train, test)
    assert set(train.labels) == set(range(10, 17))
    assert set(test.labels) == {17, 18, 19}
    with pytest.raises(DataError, match=r"of 10 classes, .*=0\.1 leaves 9 to train on and 1 to"):
        splits.in_order(whole, test_fraction=0.1)
    with pytest.raises(DataError, match=r"must lie between 0 and 1, got 1\.0"):
        splits.in_order(whole, test_fraction=1.0)


def test_by_image_parts_no_group():
    """Groups of one to four images, of one class or of several."""
    groups = np.random.default_rng(1).permutation(np.repeat(np.arange(24), np.arange(24) % 4 + 1))
    whole = grouped(groups, 20, 25, 15)
    chosen = set()
    for seed in range(20):
        train, test = splits.by_image(whole, test_fraction=0.3, seed=seed)
        check_parts(whole, train, test)
        assert not set(train.columns["group"]) & set(test.columns["group"])
        counts = np.bincount(test.labels - 10)
        assert (
            np.abs(counts - [6, 8, 4]).sum() <= 4
        )  # within half of the largest group for every class, and more
        chosen.add(tuple(numbers(test)))
    assert len(chosen) > 15


def test_by_image_takes_exactly_its_part_of_groups_of_one():
    whole = grouped(np.arange(60), 20, 25, 15)
    _, test = splits.by_image(whole, test_fraction=0.3, seed=0)
    assert np.bincount(test.labels - 10).tolist() == [6, 8, 4]


def test_by_image_with_a_class_of_one_group():
    whole = grouped(np.where(numbered(10, 10).labels == 11, 0, 1 + np.arange(20)), 10, 10)
    with pytest.raises(
        DataError, match=r"of the 10 images of class 11, .* leaves 10 to train on and 0 to test"
    ):
        splits.by_image(whole, test_fraction=0.3, seed=0)


either = pytest.mark.parametrize("split", [splits.by_class, splits.by_image])


def test_by_class_shares_no_class():
    whole = numbered(5, 1, 4, 7, 3, 6, 2, 8, 3, 4)
    train, test = splits.by_class(whole, test_fraction=0.3, seed=0)
    check_parts(whole, train, test)
    assert not set(train.labels) & set(test.labels)
    assert (len(set(train.labels)), len(set(test.labels))) == (7, 3)


def test_by_image_takes_the_same_part_of_every_class():
    whole = numbered(10, 20, 7)
    train, test = splits.by_image(whole, test_fraction=0.3, seed=0)
    check_parts(whole, train, test)
    assert np.bincount(test.labels - 10).tolist() == [3, 6, 2]


def test_by_image_draws_what_a_loop_over_the_classes_draws():
    whole = numbered(*np.random.default_rng(2).integers(4, 40, 30))
    generator = np.random.default_rng(7)
    testing = np.zeros(len(whole), bool)
    for label in np.unique(whole.labels):
        members = generator.permutation(np.flatnonzero(whole.labels == label))
        testing[members[: round(0.4 * len(members))]] = True
    found = [
        np.flatnonzero(np.isin(whole.ids, part.ids))
        for part in splits.by_image(whole, test_fraction=0.4, seed=7)
    ]
    np.testing.assert_array_equal(found[0], np.flatnonzero(~testing))
    np.testing.assert_array_equal(found[1], np.flatnonzero(testing))


@either
def test_the_seed_alone_chooses(split):
    whole = numbered(*[12] * 12)
    first, again, other = (split(whole, test_fraction=0.5, seed=seed)[1] for seed in (3, 3, 4))
    assert numbers(first) == numbers(again)
    assert numbers(first) != numbers(other)


@either
def test_every_image_is_tested_on_under_some_seed(split):
    whole = numbered(*[6] * 6)
    tested = [numbers(split(whole, test_fraction=1 / 3, seed=seed)[1]) for seed in range(40)]
    assert {number for test in tested for number in test} == set(numbers(whole))


def test_by_image_does_not_favour_the_order_of_the_images():
    labels = np.zeros(100, np.int32)
    whole = Images(np.arange(100, dtype=np.uint8).reshape(-1, 1, 1, 1), labels)
    _, test = splits.by_image(whole, test_fraction=0.5, seed=0)
    assert 35 < np.mean(numbers(test)) < 65


@either
@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, 1.5, float("nan")])
def test_a_fraction_out_of_range(split, fraction):
    with pytest.raises(DataError, match=r"data\.test_fraction must lie between 0 and 1, got"):
        split(numbered(5, 5), test_fraction=fraction, seed=0)


@either
def test_a_seed_out_of_range(split):
    with pytest.raises(DataError, match=r"data\.split_seed must not be negative, got -1"):
        split(numbered(5, 5), test_fraction=0.5, seed=-1)


@pytest.mark.parametrize(
    ("classes", "fraction", "left"),
    [
        (3, 0.5, "1 to train on and 2 to test on"),
        (1, 0.5, "1 to train on and 0 to test on"),
        (10, 0.1, "9 to train on and 1 to"),
        (10, 0.95, "0 to train on"),
    ],
)
def test_by_class_with_too_few_classes(classes, fraction, left):
    with pytest.raises(
        DataError, match=f"of {classes} class(es)?, data.test_fraction={fraction} leaves {left}"
    ):
        splits.by_class(numbered(*[4] * classes), test_fraction=fraction, seed=0)


@pytest.mark.parametrize(
    ("count", "fraction", "left"),
    [
        (1, 0.2, "1 to train on and 0 to"),  # never tested
        (1, 0.6, "0 to train on and 1 to"),  # never trained on
        (4, 0.2, "3 to train on and 1 to"),  # as a query it would have nothing to find
        (5, 0.8, "1 to train on and 4 to"),  # an anchor without a positive
    ],
)
def test_by_image_with_a_class_too_small(count, fraction, left):
    least = {0.2: 8, 0.6: 4, 0.8: 8}[fraction]
    message = (
        f"of the {count} images of class 11, data.test_fraction={fraction} leaves {left} .*"
        f"data.min_images={least} to leave out smaller classes, or data.split='class'"
    )
    with pytest.raises(DataError, match=message):
        splits.by_image(numbered(20, count, 20), test_fraction=fraction, seed=0)
