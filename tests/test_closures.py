"""Functions that a loss is given may close over arrays, known or traced, and these may be learned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from subjects import LABELS, N
from suite import assert_close, random_rows

import metric_jax as mj

LOSSES = {
    "contrastive": mj.batch_contrastive_loss,
    "batch_hard": mj.batch_hard_triplet_loss,
    "semi_hard": mj.batch_semi_hard_triplet_loss,
    "semi_hard_swap": functools.partial(mj.batch_semi_hard_triplet_loss, swap=True),
    "batch_all": mj.batch_all_triplet_loss,
    "angular": mj.angular_loss,
    "smooth_ap": mj.smooth_ap_loss,
    "recall_at_k": mj.recall_at_k_loss,
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_a_match_may_look_its_labels_up(loss, x64):
    rows = random_rows().astype(float)

    def value(rows, classes):
        return loss(rows, np.arange(N), match=lambda a, b: classes[a] == classes[b])

    found, gradient = jax.jit(jax.value_and_grad(value))(rows, LABELS)
    expected, slope = jax.value_and_grad(loss)(rows, LABELS)
    assert_close(found, expected, 1e-10)
    assert_close(gradient, slope, 1e-10)


@pytest.mark.parametrize("tile", ["auto", 3])
@pytest.mark.parametrize("name", ["batch_hard", "semi_hard", "semi_hard_swap", "batch_all"])
def test_what_a_penalty_closes_over_may_be_learned(name, tile, x64):
    def value(sharpness):
        def penalty(x):
            return jax.nn.softplus(sharpness * x) / sharpness

        return LOSSES[name](random_rows().astype(float), LABELS, penalty=penalty, tile=tile)

    found = jax.jit(jax.grad(value))(2.0)
    step = 1e-5
    assert_close(found, (value(2.0 + step) - value(2.0 - step)) / (2 * step), 1e-6)


@pytest.mark.parametrize("tile", [N, 3, 1])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_gradient_of_a_number_in_half_precision_is_summed_in_float32(tile, reduction):
    rows, labels = random_rows(n=256), np.arange(256) % 64

    def value(temperature):
        return mj.ntxent_loss(rows, labels, temperature=temperature, tile=tile, reduction=reduction).mean()

    found, expected = (jax.grad(value)(temperature) for temperature in (jnp.bfloat16(0.125), 0.125))
    assert found.dtype == jnp.bfloat16
    assert found == expected.astype(jnp.bfloat16)


@pytest.mark.parametrize("tile", [N, 3])
@pytest.mark.parametrize("loss", [mj.smooth_ap_loss, mj.ntxent_loss], ids=["smooth_ap", "ntxent"])
def test_rows_in_float32_have_gradients_in_float32_beside_a_number_in_float64(loss, tile, x64):
    rows = random_rows()
    gradient, slope = jax.grad(lambda rows, t: loss(rows, LABELS, temperature=t, tile=tile), argnums=(0, 1))(
        rows, jnp.array(0.1)
    )
    assert (gradient.dtype, slope.dtype) == (jnp.float32, jnp.float64)
    expected = jax.grad(lambda rows: loss(rows, LABELS, temperature=0.1, tile=N))(rows.astype(float))
    assert_close(gradient, expected, 1e-5)
