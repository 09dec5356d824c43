"""Every recipe runs, is the loss that it says with the hyperparameters that it names, and cites what the loss cites."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metric_jax as mj

GENERATOR = np.random.default_rng(0)
ARRAYS = {
    "embeddings": 0.3 * GENERATOR.normal(size=(8, 4)).astype(np.float32),
    "labels": np.array([0, 1, 0, 2, 1, 0, 2, 2]),
    "proxies": GENERATOR.normal(size=(3, 4)).astype(np.float32),
    "x": 0.3 * GENERATOR.normal(size=(8, 4)).astype(np.float32),
    "y": 0.3 * GENERATOR.normal(size=(8, 4)).astype(np.float32),
}
every_recipe = pytest.mark.parametrize("recipe", mj.recipes.RECIPES.values(), ids=mj.recipes.RECIPES)


def arrays(recipe):
    """What the recipe's loss must be given."""
    parameters = inspect.signature(recipe.loss).parameters.values()
    given = {p.name: ARRAYS[p.name] for p in parameters if p.default is p.empty}
    if recipe.name == "soft_triple":
        given["proxies"] = np.stack([given["proxies"], -given["proxies"]], axis=1)
    return given


@every_recipe
def test_is_its_loss_with_its_hyperparameters(recipe):
    given = arrays(recipe)

    def expected(*arrays):
        is_scaled = [recipe.normalises and rows.dtype == jnp.float32 for rows in arrays]
        prepared = [
            mj.normalize(rows) if scaled else rows for rows, scaled in zip(arrays, is_scaled, strict=True)
        ]
        return recipe.loss(*prepared, **recipe.own)

    both = jax.jit(lambda *arrays: (jax.value_and_grad(recipe)(*arrays), expected(*arrays)))
    (value, gradient), of_loss = both(*given.values())
    np.testing.assert_allclose(value, of_loss, rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert np.any(gradient != 0)


@every_recipe
def test_a_call_may_change_a_hyperparameter(recipe, x64):
    given = {
        name: x.astype(float) if np.issubdtype(x.dtype, np.floating) else x
        for name, x in arrays(recipe).items()
    }
    value = recipe(**given)
    for name in [name for name, value in recipe.own.items() if isinstance(value, float)]:
        assert recipe(**given, **{name: 1.5 * recipe.own[name] + 0.01}) != value, name


@every_recipe
def test_names_all_numbers_that_its_loss_has(recipe):
    """So that it stays the paper's when a default changes."""
    left = {
        name: parameter.default
        for name, parameter in inspect.signature(recipe.loss).parameters.items()
        if isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool)
    }
    assert set(left) <= set(recipe.own)
    assert recipe.batch


@every_recipe
def test_cites_what_its_loss_cites(recipe):
    authors, year, link = re.fullmatch(r"(.*?) \((\d{4})\), (\S+)", recipe.paper).groups()
    assert link in recipe.loss.__doc__
    assert re.search(rf"{authors.split(',')[0].removesuffix(' et al.')}[^(]*\({year}\)", recipe.loss.__doc__)


UNIT = {"facenet", "margin", "ranked_list", "alignment", "uniformity", "koleo"}


@every_recipe
def test_which_recipes_see_lengths(recipe):
    assert recipe.normalises == (recipe.name in UNIT)
    given = arrays(recipe)
    if recipe.normalises:
        scaled = {name: 4 * rows if rows.dtype == np.float32 else rows for name, rows in given.items()}
        np.testing.assert_allclose(recipe(**scaled), recipe(**given), rtol=1e-5)


def test_a_masked_row_of_nan_has_no_gradient():
    rows, where = ARRAYS["embeddings"].copy(), np.arange(8) != 3
    rows[3] = np.nan
    facenet = mj.recipes.get("facenet")
    value, gradient = jax.value_and_grad(facenet)(rows, ARRAYS["labels"], where=where)
    expected, slope = jax.value_and_grad(facenet)(rows[where], ARRAYS["labels"][where])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[where], slope, atol=1e-7)
    assert not gradient[3].any()


def test_references_have_length_1_too():
    memory = {"references": 4.0 * ARRAYS["x"], "reference_labels": ARRAYS["labels"]}
    facenet = mj.recipes.get("facenet")
    found = facenet(ARRAYS["embeddings"], ARRAYS["labels"], **memory)
    expected = facenet(ARRAYS["embeddings"], ARRAYS["labels"], **{**memory, "references": ARRAYS["x"]})
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_an_unknown_recipe_is_named():
    with pytest.raises(ValueError, match="no recipe 'face-net', did you mean 'facenet'"):
        mj.recipes.get("face-net")
    with pytest.raises(ValueError, match="no recipe 'xyz'; there are contrastive, facenet"):
        mj.recipes.get("xyz")


@pytest.mark.parametrize("where", [True, [True], [True] * 5])
def test_a_wrong_mask_is_named_by_the_loss(where):
    with pytest.raises(ValueError, match="where needs one entry a row of embeddings"):
        mj.recipes.get("facenet")(ARRAYS["embeddings"], ARRAYS["labels"], where=where)


def test_a_wrong_argument_is_named():
    with pytest.raises(TypeError, match="embeddings must be floating, got int32"):
        mj.recipes.get("facenet")(jnp.ones((4, 2), int), jnp.zeros(4, int))
    with pytest.raises(TypeError, match="temperature"):
        mj.recipes.get("facenet")(jnp.ones((4, 2)), jnp.zeros(4, int), temperature=1.0)
