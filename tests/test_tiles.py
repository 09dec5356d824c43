"""Sums whose gradient is computed along with them: the values of plain JAX, and one pass over the tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metric_jax as mj
from metric_jax.tiles import sum_in_tiles

ROWS = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
PLACES = np.arange(7)


def in_tiles(rows, scale, tile):
    """``Σ_i scale sin(i |x_i|²)``, and how many are positive; the scale is closed over."""

    def one(item):
        place, row = item
        value = scale * jnp.sin(place * jnp.sum(row**2))
        return value, (value > 0).astype(jnp.float32)

    return sum_in_tiles(one, (jnp.arange(7), rows), tile)


def by_loop(rows, scale):
    """The same sum, and the slopes with respect to rows and scale, in float64."""
    rows = rows.astype(np.float64)
    angles = PLACES * (rows**2).sum(1)
    of_rows = 2 * rows * (scale * PLACES * np.cos(angles))[:, None]
    return scale * np.sin(angles).sum(), of_rows, np.sin(angles).sum(), (scale * np.sin(angles) > 0).sum()


@pytest.mark.parametrize("tile", [1, 2, 3, 7])
def test_value_gradient_and_counts(tile):
    step = jax.value_and_grad(lambda *given: in_tiles(*given, tile), (0, 1), has_aux=True)
    (value, count), (of_rows, of_scale) = jax.jit(step)(ROWS, 3.0)
    expected, to_rows, to_scale, positive = by_loop(ROWS, 3.0)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(of_rows, to_rows, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_scale, to_scale, rtol=1e-5)
    assert count == positive


def test_the_gradient_is_scaled_by_what_the_sum_is_used_for():
    gradient = jax.grad(lambda rows: 2.0 * in_tiles(rows, 3.0, 2)[0] ** 2)(ROWS)
    value, to_rows, *_ = by_loop(ROWS, 3.0)
    np.testing.assert_allclose(gradient, 4.0 * value * to_rows, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tile", [2, 8])
def test_a_loss_multiplies_its_batch_three_times(tile):
    """Once for the value, and once for each side of the gradient: no tile is computed again."""
    labels = np.arange(8) // 2
    step = jax.value_and_grad(lambda x: mj.supcon_loss(x, labels, tile=tile))
    program = str(jax.make_jaxpr(step)(np.ones((8, 5), np.float32)))
    assert program.count("dot_general") == 3


def test_one_tile_has_a_hessian():
    labels = np.array([0, 0, 1, 1, 2, 2, 2])

    def loss(x):
        return mj.ntxent_loss(x, labels, tile=7)

    found = jax.hessian(loss)(ROWS)
    step = 1e-2
    moved = ROWS.copy()
    moved[0, 0] += step
    back = ROWS.copy()
    back[0, 0] -= step
    slopes = (jax.grad(loss)(moved) - jax.grad(loss)(back)) / (2 * step)
    np.testing.assert_allclose(found[0, 0], slopes, rtol=0.02, atol=1e-3)
