"""Splits of a TFDS set that share images: how many, and that nobody is tested on them."""

import pytest

from metric_jax.data import DataError, load, overlap


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("train", "test", 0),
        ("test", "test[:0]", 0),
        ("test", "test[9998:]", 2),
        ("test[:60%]", "test[60%:]", 0),
        ("test[:4]", "test[1:]", 3),
        ("train+test", "test", 10000),
        ("test[-3:]", "all", 3),
        ("train[:1]+test[4:]", "test[2:6]+train[1:]", 2),
    ],
)
def test_splits_share_the_images_that_are_of_both(shared, one, other, common):
    for pair in ((one, other), (other, one)):
        assert overlap.in_common("mnist", *pair, data_dir=str(shared / "tfds")) == common


def test_splits_of_a_set_that_share_images_are_refused(shared):
    options = {"name": "mnist", "data_dir": str(shared / "tfds"), "split": "own"}
    with pytest.raises(DataError, match=r"^10 images of mnist are both of data\.train_split=.*choose splits"):
        load("tfds", train_split="train[:90]+test[:60]", test_split="test[50:90]", **options)
    train, test = load("tfds", train_split="test[:50]", test_split="test[50:90]", **options)
    assert (len(train), len(test)) == (50, 40)
