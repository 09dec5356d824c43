"""One step: images in, a little better parameters out.

The step is a pure function of state and batch. What it computes with (the model's graph, the loss, the optimizer) is
fixed when it is made, so that it compiles once; the state it is given is donated, so that it is updated in place.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from metric_jax.training import devices
from metric_jax.training.choices import Augment, Loss
from metric_jax.training.state import TrainState, assemble, rest_of


class Output(NamedTuple):
    """What a step tells about itself; nothing of it is read before the next step is on its way."""

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    embeddings: Float[Array, "batch dim"]


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    *,
    augment: Augment | None,
    mesh: Mesh,
) -> Callable[[TrainState, Array, Array], tuple[TrainState, Output]]:
    """The jitted training step.

    Args:
        graphdef: The model's, from `state.create`.
        optimizer: Turns gradients into updates.
        loss: ``(embeddings, labels) -> scalar``, of the whole batch.
        augment: ``(images, key) -> images``, or None.
        mesh: Where the batch is spread over.

    Returns:
        ``step(state, images [batch, height, width, channels] uint8, labels [batch]) -> (state, output)``. The state
        that goes in must not be used again.
    """

    def step(
        state: TrainState, images: UInt8[Array, "batch height width channels"], labels: Int[Array, "batch"]
    ) -> tuple[TrainState, Output]:
        def objective(params: Any) -> tuple[Array, tuple[Array, Any]]:
            model = assemble(graphdef, params, state.rest)
            pixels = to_unit(images)
            if augment is not None:
                pixels = augment(pixels, jax.random.fold_in(state.key, state.step))
            embeddings = model(pixels, train=True)
            return loss(embeddings, labels), (embeddings, rest_of(model))

        (value, (embeddings, rest)), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = TrainState(state.step + 1, params, rest, opt_state, state.key)
        return new, Output(value, optax.tree.norm(gradients), embeddings)

    return jax.jit(step, donate_argnums=0, out_shardings=(devices.replicated(mesh), None))


def make_embed(graphdef: nnx.GraphDef) -> Callable[[Any, Any, Array], Array]:
    """The jitted ``(params, rest, images) -> embeddings`` of the model as it is used after training."""

    @jax.jit
    def embed(params: Any, rest: Any, images: UInt8[Array, "batch height width channels"]) -> Array:
        return assemble(graphdef, params, rest)(to_unit(images), train=False)

    return embed


def to_unit(images: UInt8[Array, "..."]) -> Float[Array, "..."]:
    """Bytes as float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255.0
