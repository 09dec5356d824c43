"""Who drew what is told by the order of TFDS, which hashes the names of files."""

import dataclasses

import numpy as np
import pytest
from tensorflow_datasets.core import hashing

from metric_jax.data import Images, drawers, load

NAMES = tuple(f"{'Angelic' if label % 2 else 'Futurama'}_{label}" for label in range(1623))


def omniglot(split):
    """Images of a split in the order of TFDS, by its own hash, and who drew them."""
    hasher = hashing.Hasher(split)
    classes = range(964) if split == "train" else range(964, 1623)
    keys = [
        (hasher.hash_key(f"{NAMES[label]}_{label + 1:04d}_{person:02d}.png"), label, person)
        for label in classes
        for person in range(1, 21)
    ]
    labels, people = np.array([drawing[1:] for drawing in sorted(keys)], np.int32).T
    people = people - 1 + np.where(labels % 2, 0, 20)  # those of Futurama are others
    ids = np.array([f"{split}/{number}" for number in range(len(labels))])
    return Images(np.zeros((len(labels), 1, 1, 1), np.uint8), labels, ids, NAMES), people


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_order_tells_who_drew_what(split):
    images, people = omniglot(split)
    np.testing.assert_array_equal(drawers(images), people)
    some = np.random.default_rng(0).permutation(len(images))[:500]
    np.testing.assert_array_equal(drawers(images[some]), people[some])


def test_images_that_are_not_those_of_tfds_are_not_told_of():
    images, _ = omniglot("test")
    some = images[np.arange(200)]
    swapped = images.labels.copy()
    swapped[[7, 8]] = swapped[[8, 7]]
    assert swapped[7] != swapped[8]
    for other in (
        dataclasses.replace(images, labels=swapped),
        dataclasses.replace(images, ids=np.roll(images.ids, 1)),
        dataclasses.replace(some, ids=np.strings.replace(some.ids, "test", "train")),
        dataclasses.replace(some, ids=np.strings.replace(some.ids, "test", "small1")),
        dataclasses.replace(some, ids=np.array([f"test/{13180 + number}" for number in range(200)])),
        dataclasses.replace(some, ids=np.array([f"test/{10**20 + number}" for number in range(200)])),
        dataclasses.replace(some, ids=np.strings.replace(some.ids, "test", "test[:50%]")),
        dataclasses.replace(some, ids=np.strings.add(some.ids, ", mirrored")),
        dataclasses.replace(some, ids=np.where(np.arange(200) == 7, "train/7", some.ids)),
        dataclasses.replace(some, labels=some.labels % 600, class_names=NAMES[:600]),
        dataclasses.replace(some, ids=np.array([str(number) for number in range(200)])),
        load("digits")[1],
        images[np.zeros(0, int)],
    ):
        assert drawers(other) is None
    assert drawers(some) is not None
