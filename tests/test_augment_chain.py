"""All random changes in turn, as a config asks for them."""

import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import random_images

from configs import base
from metric_jax.data import DataError, augment
from metric_jax.training import choices, devices

KEY = jax.random.key(11)
PAGE = Path(__file__).parent.parent / "docs/augmentation.md"
ALL = {
    "eyepatch": 0.5,
    "rotate": 20.0,
    "scale": 0.2,
    "shear": 0.1,
    "translate": 0.1,
    "crop": 0.5,
    "aspect": 0.3,
    "flip": 0.5,
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.3,
    "hue": 0.1,
    "blur": 0.8,
    "cutout": 0.3,
}
MOST = {"eyepatch": 1, "crop": 1, "flip": 1, "hue": 0.5, "cutout": 1, "cutout_fill": 1}
IMAGES = random_images(8, 12, 12, 3)


@pytest.fixture(scope="module")
def changed():
    return np.asarray(jax.jit(choices.augmentation(**ALL))(jnp.asarray(IMAGES), KEY))


def test_nothing_asked_nothing_done():
    images = jnp.asarray(IMAGES) - 0.5  # not even cut off at 0
    np.testing.assert_array_equal(augment.random(images, KEY), images)


def test_the_config_has_every_amount_and_asks_for_none():
    parameters = inspect.signature(augment.random).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert base.get_config().augment.to_dict() == defaults
    assert set(ALL) == set(defaults) - {"cutout_fill"}
    assert choices.augmentation(**base.get_config().augment) is None


def test_the_page_lists_every_key_of_the_config():
    listed = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(base.get_config().augment)


@pytest.mark.parametrize("name", ALL)
def test_every_amount_changes_images(name):
    asked = {name: ALL[name], **({"crop": 0.5} if name == "aspect" else {})}
    found = choices.augmentation(**asked)(jnp.asarray(IMAGES), KEY)
    without = augment.random(jnp.asarray(IMAGES), KEY, **{**asked, name: 0.0})
    assert found.shape == IMAGES.shape
    assert not np.array_equal(found, without)


def test_the_affine_map_is_the_one_of_affine():
    """So that a run without the other changes is what it was before there were any."""
    amounts = {name: ALL[name] for name in ("rotate", "scale", "shear", "translate")}
    images = jnp.asarray(IMAGES)
    np.testing.assert_array_equal(
        augment.random(images, KEY, **amounts), augment.affine(images, KEY, **amounts)
    )


def test_an_eyepatch_moves_with_the_face_and_is_seen_through_the_lens():
    faces = jnp.ones((50, 20, 20, 1))
    moved = np.asarray(augment.random(faces, KEY, eyepatch=1.0, translate=0.3))[..., 0]
    rows = [np.argwhere(face == 0)[:, 0].mean() for face in moved if (face == 0).any()]
    assert np.ptp(rows) > 8
    blurred = np.asarray(augment.random(faces, KEY, eyepatch=1.0, blur=1.0))
    assert ((blurred > 0.2) & (blurred < 0.8)).any(axis=(1, 2, 3)).mean() > 0.5


def test_a_cutout_lies_over_everything_else_and_where_it_lies_alone():
    images = jnp.asarray(IMAGES)
    hidden = np.asarray(augment.random(images, KEY, cutout=0.4, cutout_fill=1.0)) == 1.0
    found = np.asarray(augment.random(images, KEY, **{**ALL, "cutout": 0.4, "cutout_fill": 1.0}))
    assert (found[hidden] == 1.0).all()
    assert (found[~hidden] < 1.0).mean() > 0.9


def test_what_one_change_does_does_not_hang_on_the_others():
    ramps = jnp.tile(jnp.linspace(0.2, 0.8, 12)[None, None, :, None], (60, 12, 1, 3))
    alone = augment.random(ramps, KEY, flip=0.5)
    together = augment.random(ramps, KEY, **{**ALL, "cutout": 0.0, "eyepatch": 0.0})
    mirrored, as_well = (
        np.asarray(each[:, :, :6].mean((1, 2, 3)) > each[:, :, 6:].mean((1, 2, 3)))
        for each in (alone, together)
    )
    np.testing.assert_array_equal(mirrored, as_well)
    assert 10 < mirrored.sum() < 50


def test_the_same_key_gives_the_same_and_another_key_and_image_another(changed):
    function = jax.jit(choices.augmentation(**ALL))
    np.testing.assert_array_equal(function(jnp.asarray(IMAGES), KEY), changed)
    same_image = jnp.tile(jnp.asarray(IMAGES[:1]), (8, 1, 1, 1))
    flat = np.concatenate([function(same_image, key) for key in (KEY, jax.random.key(12))]).reshape(16, -1)
    distances = np.abs(flat[:, None] - flat[None]).max(axis=-1)
    assert distances[~np.eye(16, dtype=bool)].min() > 0.05


def test_no_key_is_used_twice():
    with jax.debug_key_reuse(True):
        augment.random(jnp.asarray(IMAGES), jax.random.key(0), **ALL)


def test_eight_devices_give_what_one_gives(changed):
    mesh = devices.mesh(len(IMAGES))
    assert mesh.size == 8
    spread = jax.jit(choices.augmentation(**ALL))(devices.place(jnp.asarray(IMAGES), mesh), KEY)
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_allclose(spread, changed, atol=1e-6)


def test_values_stay_between_0_and_1(changed):
    assert 0 <= changed.min() < 0.1 < 0.9 < changed.max() <= 1


@pytest.mark.parametrize("name", [*ALL, "cutout_fill"])
def test_an_amount_out_of_range_is_named_before_there_are_images(name):
    rule = f"lie between 0 and {MOST[name]}" if name in MOST else "be at least 0 and finite"
    for amount in (-0.1, float("nan"), float("inf"), *([1.1] if name in MOST else [])):
        with pytest.raises(DataError) as error:
            choices.augmentation(**{"crop": 0.5, "cutout": 0.5, name: amount})
        assert str(error.value) == f"augment.{name} must {rule}, got {amount}"


def test_an_amount_that_changes_nothing_without_another():
    with pytest.raises(DataError, match=r"augment\.aspect=0\.3 .*set augment\.crop too"):
        choices.augmentation(aspect=0.3)
    with pytest.raises(DataError, match=r"augment\.cutout_fill=0\.5 .*set augment\.cutout too"):
        choices.augmentation(cutout_fill=0.5)
