"""Batches of P classes × K images: exactly, of every kind, and as a pure function of seed and number."""

import itertools
import math

import numpy as np
import pytest

from metric_jax.data import DataError, Images, PKSampler, samplers, sources

# Classes of unequal sizes, their images scattered; a class of a class for the hierarchy.
LABELS = np.random.default_rng(0).permutation(np.repeat([3, 5, 8, 13, 40], [4, 6, 4, 9, 5]))
MANY = np.random.default_rng(0).permutation(np.repeat(np.arange(24), 4 + np.arange(24) % 3)).astype(np.int32)
SUPERS = np.array(["bird", "car", "ship"])[MANY % 3]
CENTRES = np.random.default_rng(1).normal(size=(24, 3))


def sampler(classes=3, samples=4, seed=0, labels=LABELS):
    return PKSampler(labels, classes=classes, samples=samples, seed=seed)


def kinds(classes=6, samples=4, seed=0):
    """One of each, over the many classes."""
    options = {"classes": classes, "samples": samples, "seed": seed}
    hard = samplers.HardClassSampler(MANY, neighbours=2, **options)
    return {
        "pk": PKSampler(MANY, **options),
        "class_balanced": samplers.ClassBalancedSampler(MANY, **options),
        "hierarchical": samplers.HierarchicalSampler(MANY, SUPERS, super_classes=2, **options),
        "hard_classes": hard,
        "hard_classes with centres": hard.with_centres(CENTRES),
    }


every = pytest.mark.parametrize("kind", kinds())


@every
def test_a_batch_is_P_classes_of_K_images_and_none_twice(kind):
    for classes, samples in ((6, 4), (12, 2), (12, 3)):
        drawn = kinds(classes, samples)[kind]
        for batch in range(20):
            indices = drawn(batch)
            assert len(set(indices)) == len(indices) == classes * samples
            by_class = MANY[indices].reshape(classes, samples)
            assert (by_class == by_class[:, :1]).all()
            assert len(set(by_class[:, 0])) == classes


@every
def test_a_batch_follows_from_seed_and_number_alone(kind):
    first, again = kinds()[kind], kinds()[kind]
    backwards = {batch: again(batch) for batch in reversed(range(30))}
    for batch in range(30):
        np.testing.assert_array_equal(first(batch), backwards[batch])


@every
def test_batches_and_seeds_differ(kind):
    drawn = [tuple(kinds(seed=seed)[kind](batch)) for seed in range(5) for batch in range(30)]
    assert len(set(drawn)) == len(drawn)


@every
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_hosts_feed_one_batch_together_and_share_no_class(kind, count):
    drawn = kinds()[kind]
    parts = [samplers.shard(drawn, index=index, count=count) for index in range(count)]
    for batch in range(5):
        found = [part(batch) for part in parts]
        np.testing.assert_array_equal(np.concatenate(found), drawn(batch))
        for one, other in itertools.combinations(found, 2):
            assert len(one) == 24 // count
            assert not set(MANY[one]) & set(MANY[other])


def test_hosts_that_do_not_fit():
    with pytest.raises(
        DataError, match=r"batch\.classes=6 cannot be parted among 4 hosts: choose a multiple of 4"
    ):
        samplers.shard(kinds()["pk"], index=0, count=4)
    for index in (-1, 2):
        with pytest.raises(DataError, match=f"there is no host {index} of 2"):
            samplers.shard(kinds()["pk"], index=index, count=2)


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


# --- every class equally often ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "samples"), [(2, 2), (3, 4), (5, 3), (4, 3)])
def test_no_class_and_no_image_is_ahead_of_another(classes, samples):
    """At any time, the number of batches that two classes, or two images of a class, were in differs by one at most."""
    drawn = samplers.ClassBalancedSampler(LABELS, classes=classes, samples=samples, seed=3)
    seen = np.zeros(len(LABELS), int)
    for batch in range(120):
        seen[drawn(batch)] += 1
        of_class = [seen[np.isin(LABELS, label)] for label in np.unique(LABELS)]
        totals = [images.sum() // samples for images in of_class]
        assert max(totals) - min(totals) <= 1
        assert all(np.ptp(images) <= 1 for images in of_class)
    assert sum(totals) == 120 * classes


@pytest.mark.parametrize("classes", [6, 7, 11])
def test_which_classes_go_together_changes(classes):
    drawn = samplers.ClassBalancedSampler(MANY, classes=classes, samples=4, seed=0)
    met = [set(MANY[drawn(batch)]) for batch in range(80)]
    assert {len(each) for each in met} == {classes}
    pairs = {pair for each in met for pair in itertools.combinations(sorted(each), 2)}
    assert len(pairs) > 0.95 * math.comb(24, 2)


# --- of few super-classes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("super_classes", [1, 2, 3])
def test_a_batch_is_of_so_many_super_classes_in_equal_parts(super_classes):
    drawn = samplers.HierarchicalSampler(
        MANY, SUPERS, super_classes=super_classes, classes=6, samples=2, seed=0
    )
    met = set()
    for batch in range(60):
        indices = drawn(batch)
        _, counts = np.unique(SUPERS[indices], return_counts=True)
        assert counts.tolist() == [12 // super_classes] * super_classes
        met |= set(MANY[indices])
    assert met == set(MANY)


def test_super_classes_that_do_not_fit():
    def hierarchical(classes, super_classes, supers=SUPERS, **options):
        return samplers.HierarchicalSampler(
            MANY, supers, super_classes=super_classes, classes=classes, samples=2, seed=0, **options
        )

    for number in (0, 4):
        with pytest.raises(
            DataError, match=rf"super_classes={number} must be at least 1 and divide .*classes=6"
        ):
            hierarchical(6, number)
    with pytest.raises(
        DataError, match=r"batch\.super_classes=4, but there are 3: lower batch\.super_classes"
    ):
        hierarchical(8, 4)
    with pytest.raises(
        DataError, match=r"super-class bird has 8 classes, and a batch takes 9, .*: change either"
    ):
        hierarchical(18, 2)
    torn = np.where(np.arange(len(MANY)) == np.flatnonzero(MANY == 4)[1], "ship", SUPERS)
    names = [f"number {label}" for label in range(24)]
    with pytest.raises(
        DataError, match="class number 4 is of two super-classes, car and ship: a class must be of"
    ):
        hierarchical(6, 2, torn, class_names=names)


# --- of classes that lie close together -------------------------------------------------------------------------------


def test_every_class_comes_with_its_nearest():
    """Of a batch's classes in their order, each first one is followed by the nearest that were not yet chosen."""
    drawn = kinds()["hard_classes with centres"]
    firsts = set()
    for batch in range(60):
        chosen = MANY[drawn(batch)][::4].tolist()
        for start in range(0, 6, 3):
            first, *nearest = chosen[start : start + 3]
            free = [label for label in range(24) if label not in chosen[:start] and label != first]
            free.sort(key=lambda label, first=first: math.dist(CENTRES[label], CENTRES[first]))
            assert nearest == free[:2]
            firsts.add(first)
    assert len(firsts) == 24


def test_equally_near_classes_come_in_their_order():
    """So that every machine draws the same batches, whatever its processor."""
    at_once = samplers.HardClassSampler(MANY, neighbours=3, classes=8, samples=4, seed=0)
    drawn = at_once.with_centres(np.ones((24, 2)))
    for batch in range(20):
        chosen = MANY[drawn(batch)][::4].tolist()
        others = [label for label in range(24) if label != chosen[0]]
        assert chosen[1:4] == others[:3]
        left = [label for label in others[3:] if label != chosen[4]]
        assert chosen[5:] == left[:3]


def test_near_classes_are_found_far_from_the_origin():
    near = np.repeat(np.random.default_rng(0).normal(size=(12, 8)), 2, axis=0)
    near[1::2] += 1e-3
    sampler = samplers.HardClassSampler(MANY, neighbours=1, classes=6, samples=4, seed=0)
    drawn = sampler.with_centres((near + 1e4).astype(np.float64))
    for batch in range(20):
        chosen = MANY[drawn(batch)][::4]
        np.testing.assert_array_equal(chosen[::2] // 2, chosen[1::2] // 2)


def test_classes_in_one_place_are_no_trouble():
    drawn = kinds()["hard_classes"].with_centres(np.ones((24, 2)))
    met = [set(MANY[drawn(batch)]) for batch in range(60)]
    assert {len(classes) for classes in met} == {6}
    assert set.union(*met) == set(range(24))  # a class that is drawn is in the batch


def test_classes_of_one_origin_come_together_only_where_no_others_are_left():
    """Of every three classes in a row, one is made of the next, and so on: 8 origins."""
    origins = np.array([f"character{label // 3}" for label in MANY])
    options = {"classes": 6, "samples": 4, "seed": 0, "origins": origins}
    drawn = samplers.HardClassSampler(MANY, neighbours=2, **options).with_centres(CENTRES)
    for batch in range(60):
        chosen = MANY[drawn(batch)][::4].tolist()
        for start in (0, 3):
            group = chosen[start : start + 1]
            for _ in range(2):
                there = {label // 3 for label in [*chosen[:start], *group]}
                free = [label for label in range(24) if label // 3 not in there]
                group.append(min(free, key=lambda label, a=group[0]: math.dist(CENTRES[label], CENTRES[a])))
            assert chosen[start : start + 3] == group
        assert len({label // 3 for label in chosen}) == 6
    alone = samplers.HardClassSampler(MANY, neighbours=5, **{**options, "origins": np.zeros(len(MANY))})
    for batch in range(20):
        assert len(set(MANY[alone.with_centres(CENTRES)(batch)])) == 6


def test_a_batch_of_as_many_classes_as_origins_has_one_of_each():
    """A class lies by its mirror image, and no neighbour of the one may bring the other."""
    labels = np.repeat(np.arange(8), 2)
    centres = (np.arange(8) % 4)[:, None] + np.repeat([0.0, 0.01], 4)[:, None]
    options = {"classes": 4, "samples": 2, "seed": 0, "origins": labels % 4}
    drawn = samplers.HardClassSampler(labels, neighbours=1, **options).with_centres(centres)
    for batch in range(200):
        assert sorted(set((labels[drawn(batch)] % 4).tolist())) == [0, 1, 2, 3]


def test_turned_and_mirrored_classes_are_of_one_origin():
    labels = np.repeat(np.arange(5), 4).astype(np.int32)
    turned = sources.with_rotations(Images(np.zeros((20, 2, 2, 1), np.uint8), labels))
    for images in (turned, sources.with_mirrors(turned)):
        sampler = samplers.choose(images, "hard_classes", neighbours=4, classes=5, samples=4, seed=0)
        classes = images.labels.max() + 1
        centres = (np.arange(classes) % 5)[:, None].astype(
            float
        )  # a character's classes lie all in one place
        for batch in range(20):
            met = images.labels[sampler.with_centres(centres)(batch)] % 5
            assert set(met) == set(range(5))


def test_without_centres_any_classes_go_together_and_giving_them_makes_another_sampler():
    found = kinds()
    before = [found["hard_classes"](batch) for batch in range(10)]
    np.testing.assert_array_equal(before, [found["pk"](batch) for batch in range(10)])
    found["hard_classes"].with_centres(CENTRES)
    nothing = found["hard_classes"].with_centres(np.zeros((24, 3)))
    np.testing.assert_array_equal(before, [nothing(batch) for batch in range(10)])
    np.testing.assert_array_equal(before, [found["hard_classes"](batch) for batch in range(10)])


def test_centres_are_the_means_of_their_classes():
    embeddings = np.random.default_rng(2).normal(size=(len(LABELS), 3)).astype(np.float32)
    expected = [
        np.mean(
            [row.astype(np.float64) for row, own in zip(embeddings, LABELS, strict=True) if own == label],
            axis=0,
        )
        for label in (3, 5, 8, 13, 40)
    ]
    found = samplers.class_centres(embeddings, LABELS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_neighbours_and_centres_that_do_not_fit():
    for number in (0, 3):
        with pytest.raises(
            DataError, match=rf"neighbours={number} must be .* {1 + number}, must divide .*classes=6"
        ):
            samplers.HardClassSampler(MANY, neighbours=number, classes=6, samples=2, seed=0)
    with pytest.raises(DataError, match=r"origins must be \[\d+\], one for every image, got \[3\]"):
        samplers.HardClassSampler(
            MANY, neighbours=2, classes=6, samples=2, seed=0, origins=np.zeros(3, np.int32)
        )
    for centres in (CENTRES[:-1], CENTRES[0], np.full((24, 3), np.nan)):
        with pytest.raises(DataError, match=r"centres must be finite and \[24 classes, dim\], got \["):
            kinds()["hard_classes"].with_centres(centres)


# --- by name ----------------------------------------------------------------------------------------------------------

IMAGES = Images(np.zeros((len(MANY), 1, 1, 1), np.uint8), MANY, columns={"super": SUPERS})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pk", {}),
        ("class_balanced", {}),
        ("hierarchical", {"super_classes": 2}),
        ("hard_classes", {"neighbours": 2}),
    ],
)
def test_a_config_chooses_by_name(name, options):
    found = samplers.choose(IMAGES, name, classes=6, samples=4, seed=0, **options)
    assert type(found) is type(kinds()[name])
    for batch in range(5):
        np.testing.assert_array_equal(found(batch), kinds()[name](batch))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("class_balance", {}, r"unknown batch\.sampler 'class_balance', did you mean 'class_balanced'\?"),
        (
            "pk",
            {"neighbours": 2},
            r"batch\.neighbours=2 is not for batch\.sampler='pk': .* to 'hard_classes'$",
        ),
        (
            "hard_classes",
            {"neighbours": 1, "super_classes": 2},
            r"batch\.super_classes=2 is not for .*hierarchical",
        ),
        ("hierarchical", {}, r"batch\.sampler='hierarchical' needs batch\.super_classes: say how many"),
        ("hard_classes", {}, r"batch\.sampler='hard_classes' needs batch\.neighbours: say how many"),
    ],
)
def test_names_and_options_that_do_not_fit(name, options, message):
    with pytest.raises(DataError, match=message):
        samplers.choose(IMAGES, name, classes=6, samples=2, seed=0, **options)


def test_a_hierarchy_has_to_be_known_and_classes_are_called_by_their_names():
    named = Images(IMAGES.images, MANY, class_names=tuple(f"number {label}" for label in range(24)))
    with pytest.raises(
        DataError, match=r"no super-classes: name a feature that holds them with data\.super_key"
    ):
        samplers.choose(named, "hierarchical", classes=6, samples=2, super_classes=2, seed=0)
    for name, options in (("pk", {}), ("class_balanced", {}), ("hard_classes", {"neighbours": 2})):
        with pytest.raises(DataError, match="samples=5, but class number 0 has 4 training images: lower"):
            samplers.choose(named, name, classes=6, samples=5, seed=0, **options)


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 6}, r"batch\.classes=6, but the training set has 5 classes: lower batch\.classes"),
        (
            {"samples": 5},
            r"batch\.samples=5, but class 3 has 4 .*: lower batch\.samples, .*=5, and more with data\.split='image'",
        ),
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
