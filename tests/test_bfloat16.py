"""Networks that compute in bfloat16: what is summed over images and pixels, a parameter's gradient, is in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_models import embed, images

from metric_jax import models

IMAGES = 32
SMALL = {
    "convnet": {"width": 8},
    "resnet18": {"width": 8, "depths": (1, 1)},
    "convnext_tiny": {"width": 8, "depths": (1, 1)},
    "vit_small": {"patch": 4, "width": 12, "blocks": 1, "heads": 3},
}


@pytest.mark.parametrize("name", ["convnext_tiny", "vit_small"])  # where an image's embedding is its own
def test_gradients_of_a_batch_are_the_sums_of_those_of_its_images(name):
    """Summed in bfloat16, those of biases lose up to a half: it cannot add 1 to 256."""
    net = models.MODELS[name](
        (32, 32, 3), dim=4, dtype="bfloat16", normalise=False, rngs=nnx.Rngs(0), **SMALL[name]
    )
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    x, weights = images(IMAGES), np.random.default_rng(1).uniform(0.5, 1.5, (IMAGES, 4)).astype(np.float32)

    def gradient(x, weights):
        def total(params):
            return jnp.sum(nnx.merge(graphdef, params, rest)(x, train=False) * weights)

        return jax.grad(total)(params)

    whole = nnx.to_flat_state(jax.jit(gradient)(x, weights))
    alone = nnx.to_flat_state(jax.jit(jax.vmap(gradient))(x[:, None], weights[:, None]))
    for (key, found), (_, parts) in zip(whole, alone, strict=True):
        expected = np.asarray(parts[...], np.float64).sum(axis=0)
        scale = np.abs(expected).max()
        assert scale > 0, key
        np.testing.assert_allclose(found[...], expected, rtol=0, atol=0.02 * scale, err_msg=str(key))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", SMALL)
def test_images_in_half_precision_are_computed_in_float32(name, dtype):
    net = models.MODELS[name]((32, 32, 3), dim=4, rngs=nnx.Rngs(0), **SMALL[name])
    x = images(2).astype(dtype)
    np.testing.assert_allclose(embed(net, x), embed(net, x.astype(jnp.float32)), rtol=0, atol=1e-6)
