"""One step: images in, a little better parameters out.

The step is a pure function of state and batch. What it computes with (the model's graph, the loss, the optimizer) is
fixed when it is made, so that it compiles once; the state it is given is donated, so that it is updated in place.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, UInt8

from metric_jax import grad_cache
from metric_jax import memory as memories
from metric_jax import whitening as whitenings
from metric_jax.distances import normalize
from metric_jax.training import devices
from metric_jax.training.choices import Augment
from metric_jax.training.errors import RunError
from metric_jax.training.objective import Objective
from metric_jax.training.state import TrainState, assemble, moved, rest_of
from metric_jax.whitening import Whitening

Encoder = Callable[[Any, Any, Array], tuple[Array, Any]]


class Output(NamedTuple):
    """What a step tells about itself; nothing of it is read before the next step is on its way.

    Attributes:
        loss: Of the batch, before the step.
        gradient_norm: Of all parameters together, before it is clipped.
        embeddings: Of the batch.
        learned: The numbers that the loss learns, by their names.
    """

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    embeddings: Float[Array, "batch dim"]
    learned: dict[str, Float[Array, ""]]


def make_train_step(
    encode: Encoder,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    *,
    augment: Augment | None,
    ema: float = 0.0,
    mesh: Mesh,
    layout: Any,
) -> jax.stages.Wrapped:
    """The jitted training step.

    Args:
        encode: From `make_encoder`.
        optimizer: Turns gradients into updates.
        objective: The loss of the whole batch.
        augment: ``(images, key) -> images``, or None.
        ema: The decay of the moving averages, if the state keeps any. After step t it is at most ``t / (t + 9)``, so
            that the beginning is soon forgotten.
        mesh: The devices.
        layout: Where on them the arrays of the state lie, from `devices.layout`.

    Returns:
        ``step(state, images [batch, height, width, channels] uint8, labels [batch]) -> (state, output)``. The state
        that goes in must not be used again.
    """

    def step(
        state: TrainState, images: UInt8[Array, "batch height width channels"], labels: Int[Array, "batch"]
    ) -> tuple[TrainState, Output]:
        pixels = to_unit(images)
        if augment is not None:
            pixels = augment(pixels, jax.random.fold_in(state.key, state.step))

        def loss(params: Any) -> tuple[Array, tuple[Array, Any]]:
            # Of what lies spread, a device needs all: else XLA would spread the layers as well, and exchange features.
            params, rest, memory = lax.with_sharding_constraint((params, state.rest, state.memory), whole)
            embeddings, rest = encode(params["model"], rest, pixels)
            value = objective(embeddings, labels, params["loss"], step=state.step, memory=memory, mesh=mesh)
            return value, (embeddings, rest)

        (value, (embeddings, rest)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        memory, average, taken = state.memory, state.average, state.step + 1
        if memory is not None:
            memory = memories.push(memory, embeddings, labels)
        if average is not None:
            share = 1.0 - jnp.minimum(ema, taken / (taken + 9))
            average = moved(average, {"params": params["model"], "rest": rest}, share=share)
        new = state._replace(
            step=taken, params=params, rest=rest, opt_state=opt_state, memory=memory, average=average
        )
        learned = objective.values(state.params["loss"])
        return new, Output(value, optax.tree.norm(gradients), embeddings, learned)

    whole = devices.replicated(mesh)
    return devices.jit(step, donate_argnums=0, out_shardings=(layout, None))


def make_encoder(
    graphdef: nnx.GraphDef, mesh: Mesh, *, chunk: int = 0, batch_statistics: bool = True
) -> Encoder:
    """What embeds the images of a step.

    Args:
        graphdef: The model's, from `state.create`.
        mesh: Where the batch is spread over.
        chunk: How many images go through the model at a time on each device, so that only their activations fill its
            memory; 0: all of them. Value and gradient are those of the whole batch.
        batch_statistics: Whether BatchNorm uses the mean and variance of the batch; else it uses the running ones, as
            after training, and leaves them as they are.

    Returns:
        ``(params, rest, images [batch, height, width, channels] in [0, 1]) -> (embeddings [batch, dim], rest)``. The
        embeddings are float32, whatever the model computes in, and so is the loss.
    """

    def encode(params: Any, rest: Any, images: Array) -> tuple[Array, Any]:
        model = assemble(graphdef, params, rest)
        embeddings = model(images, train=batch_statistics)
        return embeddings.astype(jnp.float32), rest_of(model, params)

    def encode_rows(variables: tuple[Any, Any], images: Array) -> Array:
        embeddings, rest = encode(*variables, images)
        if any(a is not b for a, b in zip(*map(jax.tree.leaves, (rest, variables[1])), strict=True)):
            raise RunError(
                "batch.chunk encodes a few images at a time, and the model's BatchNorm looks at all of a batch: set "
                "model.norm='group' or model.neck=False, if it has these, optimizer.freeze_statistics=True or "
                "batch.chunk=0"
            )
        return embeddings

    def encode_in_chunks(params: Any, rest: Any, images: Array) -> tuple[Array, Any]:
        all_of_it, rows = PartitionSpec(), PartitionSpec(*mesh.axis_names)
        on_each_device = jax.shard_map(
            grad_cache.chunked(encode_rows, chunk), mesh=mesh, in_specs=(all_of_it, rows), out_specs=rows
        )
        return on_each_device((params, rest), images), rest

    return encode_in_chunks if chunk else encode


def make_embed(
    graphdef: nnx.GraphDef, *, views: int = 1, mirrored: bool = False, augment: Augment | None = None
) -> Callable[[Any, Any, Whitening | None, Array], Array]:
    """``(params, rest, whitening, images) -> embeddings`` of the model as it is used after training.

    Args:
        graphdef: The model's, from `state.create`.
        views: An embedding is the mean of those of so many views of an image, of length 1 again if the model's are: the
            image itself and others that ``augment`` makes of it, all images being changed in the same ways.
        mirrored: Whether every view is looked at in the mirror too.
        augment: ``(images, key) -> images``, for further views.

    Raises:
        RunError: As of `check_views`.
    """
    check_views(views, augment)
    changed = cast(Augment, augment)

    def embed(
        params: Any,
        rest: Any,
        whitening: Whitening | None,
        images: UInt8[Array, "batch height width channels"],
    ) -> Array:
        model: Any = assemble(graphdef, params, rest)
        x = to_unit(images)

        def of(view: Array) -> Array:
            sides = (view, view[:, :, ::-1]) if mirrored else (view,)
            return sum(model(side, train=False).astype(jnp.float32) for side in sides) / len(sides)

        def add(total: Array, key: Array) -> tuple[Array, None]:
            return total + of(jax.vmap(lambda image: changed(image[None], key)[0])(x)), None

        embeddings = of(x)
        if views > 1:
            total, _ = lax.scan(add, embeddings, jax.random.split(jax.random.key(0), views - 1))
            embeddings = total / views
        if (views > 1 or mirrored) and model.normalise:
            embeddings = normalize(embeddings)
        if whitening is None:
            return embeddings
        embeddings = whitenings.apply(whitening, embeddings)
        return normalize(embeddings) if model.normalise else embeddings

    return embed


def check_views(views: int, augment: Augment | None) -> None:
    """Raises a RunError unless so many views of an image can be made of it."""
    if views < 1:
        raise RunError(f"eval_views must be at least 1, got {views}")
    if views > 1 and augment is None:
        raise RunError(
            f"eval_views={views} are made of an image as config.augment says, and it says nothing: set eval_views=1, "
            "or augment.rotate or the like"
        )


def to_unit(images: UInt8[Array, "..."]) -> Float[Array, "..."]:
    """Bytes as float32 in [0, 1]."""
    return images.astype(jnp.float32) / 255.0
