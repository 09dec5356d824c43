"""Every config can be planned and fed, whether its data are on this machine or not, and keeps to its protocol."""

import importlib
import pathlib

import numpy as np
import pytest
import tensorflow_datasets

from metric_jax.data import Images, folder, load, sources
from metric_jax.training import choices, loop

CONFIGS = sorted(
    path.stem
    for path in (pathlib.Path(__file__).parent.parent / "configs").glob("*.py")
    if path.stem not in ("__init__", "base")
)
ELSEWHERE = ("caltech_birds2011", "cars196", "stanford_online_products")  # sets that no test has


def config_of(name):
    return importlib.import_module(f"configs.{name}").get_config()


def images(labels, supers=None):
    """One pixel for each label."""
    columns = {} if supers is None else {"super": np.array(supers, np.str_)}
    return Images(np.zeros((len(labels), 1, 1, 1), np.uint8), np.array(labels, np.int32), columns=columns)


def batch_of(config, train):
    return choices.sampler(train, **config.batch, seed=config.seed)(3)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_passes_all_that_is_checked_before_there_are_data(name, tmp_path):
    config = config_of(name)
    assert config.is_locked
    if config.model.pretrained:
        config.model.pretrained = str(tmp_path / "weights.safetensors")
        (tmp_path / "weights.safetensors").touch()
    loop._plan(config)


@pytest.mark.parametrize(("name", "classes"), [("cub", 200), ("cars196", 196)])
def test_the_first_half_of_the_classes_is_trained_on(name, classes, monkeypatch):
    read = []

    def tfds(set_name, split, **options):
        read.append((set_name, split, options["size"], options["crop"]))
        return images(np.random.default_rng(0).permutation(np.repeat(np.arange(classes), 5)))

    monkeypatch.setattr(sources, "tfds", tfds)
    config = config_of(name)
    train, test = load(**config.data)
    assert read == [(config.data.name, "train+test", 224, True)]
    assert set(train.labels) == set(range(classes // 2))
    assert set(test.labels) == set(range(classes // 2, classes))
    assert len(set(train.labels[batch_of(config, train)])) == 45


def test_products_are_parted_as_the_set_says_and_batches_are_of_few_kinds(monkeypatch):
    def tfds(name, split, *, label_key, super_key, **_):
        assert (name, label_key, super_key) == ("stanford_online_products", "class_id", "super_class_id")
        labels = np.repeat(np.arange(300), 2) + 300 * (split == "test")
        return images(labels, supers=labels % 12)

    monkeypatch.setattr(sources, "tfds", tfds)
    config = config_of("sop")
    train, test = load(**config.data)
    assert (set(train.labels), set(test.labels)) == (set(range(300)), set(range(300, 600)))
    batch = train[batch_of(config, train)]
    assert len(batch) == 176
    assert len(set(batch.columns["super"])) == 4


def test_people_with_one_photo_are_not_trained_on(monkeypatch):
    monkeypatch.setattr(folder, "folder", lambda root, **_: images([*range(100), *range(60, 100)]))
    config = config_of("lfw")
    train, test = load(**config.data)
    assert set(np.unique(train.labels, return_counts=True)[1]) == {2}
    assert len(set(test.labels)) == 30
    assert not set(train.labels) & set(test.labels)


@pytest.mark.parametrize("name", ["cub", "cars196", "sop"])
def test_tfds_has_the_features_and_splits_that_a_config_names(name, tmp_path):
    data = config_of(name).data
    assert data.name in ELSEWHERE
    features = tensorflow_datasets.builder(data.name, data_dir=tmp_path).info.features
    assert isinstance(features[data.image_key], tensorflow_datasets.features.Image)
    classes = {"cub": 200, "cars196": 196, "sop": 22_634}[name]
    assert features[data.label_key].num_classes == classes
    if data.super_key:
        assert features[data.super_key].num_classes == 12


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_prepared_set_feeds_its_config(name, shared):
    config = config_of(name)
    parts = {
        "train_split": "train[:1000]",
        "test_split": "test[:100]",
        "min_images": config.batch.samples,
    }
    train, _ = load(**{**config.data, "data_dir": str(shared / "tfds"), **parts})
    batch = train[batch_of(config, train)]
    assert batch.images.shape == (config.batch.classes * config.batch.samples, 28, 28, 1)
