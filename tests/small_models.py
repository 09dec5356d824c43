"""What the tests of every published network do with one."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from references_models import write_safetensors

from metric_jax.models import MODELS, load_pretrained


def images(n, image_shape=(32, 32, 3), seed=0):
    return jnp.asarray(np.random.default_rng(seed).random((n, *image_shape)), jnp.float32)


def loaded(net, weights, folder):
    """The network with these weights, by way of a file."""
    load_pretrained(net, write_safetensors(folder / "weights.safetensors", weights))
    return net


def features(net, x, *, train=False):
    """What stands before the head."""
    return compiled(net, lambda net, x: net.features(x, train=train), x)


def embed(net, x):
    """Its embeddings."""
    return compiled(net, lambda net, x: net(x), x)


def compiled(net, run, x):
    """What ``run`` makes of a network and images, by a compiled function that leaves the network as it is."""
    graphdef, state = nnx.split(net)
    return jax.jit(lambda state, x: run(nnx.merge(graphdef, state), x))(state, x)


def in_torch(x, mean, std):
    """Images as torch is given them, in float64."""
    return ((np.asarray(x, np.float64) - mean) / std).transpose(0, 3, 1, 2)


def size_without_head(name):
    """How many parameters the model of that name has at its full size."""
    net = nnx.eval_shape(lambda: MODELS[name]((224, 224, 3), rngs=nnx.Rngs(0)))
    parameters = nnx.to_flat_state(nnx.state(net, nnx.Param))
    return sum(variable.size for key, variable in parameters if key[0] != "head")


def unmoved(net, x):
    """The parameters that a training step on these images would not change."""
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    @jax.jit
    def gradients(params):
        def total(params):
            embeddings = nnx.merge(graphdef, params, rest, copy=True)(x, train=True)
            return jnp.sum(embeddings * jnp.cos(jnp.arange(embeddings.size).reshape(embeddings.shape)))

        return jax.grad(total)(params)

    found = nnx.to_flat_state(gradients(params))
    assert all(jnp.isfinite(variable[...]).all() for _, variable in found)
    return [".".join(map(str, key)) for key, variable in found if not jnp.any(variable[...])]
