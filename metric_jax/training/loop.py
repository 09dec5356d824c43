"""The training loop: config and folder in, trained model and results out.

The only module of the library that knows what a config is; it unpacks it into plain arguments.

Three habits keep the device busy and the run safe. The metrics of a step are read only after the next step is on its
way, so the host never waits in between. A checkpoint is saved only after the metrics of its step were found finite and
written down, so it has its lines, and comes of finite gradients. And all that a step depends on (parameters, optimizer,
position in the data, random key) is in the checkpoint or follows from the config, so a run that is killed and started
again ends where it would have ended.
"""

import contextlib
import functools
import math
import os
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from metric_jax import data, diagnostics
from metric_jax import memory as memories
from metric_jax import whitening as whitenings
from metric_jax.data import datasets, samplers
from metric_jax.distances import Distance
from metric_jax.training import choices, collapse, devices, folders, optimizers, processes, tracking
from metric_jax.training import state as states
from metric_jax.training.best import Best
from metric_jax.training.checkpoint import Checkpoints
from metric_jax.training.errors import RunError, StoppedError
from metric_jax.training.evaluate import Evaluator, beside
from metric_jax.training.objective import Objective
from metric_jax.training.profiling import Profile
from metric_jax.training.progress import Clock, Progress
from metric_jax.training.reporter import Pending, Reporter
from metric_jax.training.signals import Termination
from metric_jax.training.state import TrainState
from metric_jax.training.step import Output, check_views, make_encoder, make_train_step
from metric_jax.training.stream import Source
from metric_jax.training.writer import MetricsWriter


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
    """Trains as the config says and evaluates on its test set.

    Started again in the same folder, it goes on from the newest checkpoint, and ends with the same parameters and
    metrics as if it had never stopped. Once it is finished it only returns its results.

    Args:
        config: As in configs/base.py, which declares every key.
        workdir: The run's folder. Holds afterwards config.json, metrics.jsonl, TensorBoard events, checkpoints/ and
            results.json.

    Returns:
        What results.json holds: the metrics of `evaluation.retrieval`, each with a ``baseline_`` twin of raw pixels,
        ``steps``, ``images_per_s`` (of the bare training steps) and ``seconds`` (of everything).

    Raises:
        ValueError: One of `USER_ERRORS`: a wrong name or number, data that is missing or does not fit, a folder that
            holds another run, a loss that is not finite.
    """
    clock = Clock()
    if not isinstance(config, ml_collections.ConfigDict):
        told = f"got {type(config).__name__}: change what configs/base.py's get_config() returns"
        raise RunError(f"the config must be a ConfigDict with every key, {told}")
    if not workdir:
        raise RunError("the workdir is empty: name a folder for the run, as in --workdir=runs/digits")
    plan = _plan(config)
    best = Best(config.best_metric, patience=config.patience)
    tracking.check(config.wandb)
    folder = pathlib.Path(os.path.expanduser(workdir))
    results = folders.check(folder, config.to_dict())
    if results is not None:
        print(f"this run is finished, and {folder} holds its results", file=sys.stderr)
        return results

    devices.keep_compiled(config.compiled)
    train, test = datasets.load(**config.data)
    images_digest = datasets.digest(train, test)
    sampler = choices.sampler(train, **config.batch, seed=config.seed)
    batch_size = config.batch.classes * config.batch.samples
    mesh = devices.mesh(batch_size)
    source = Source(data.renumbered(train), sampler, config.steps, mesh)
    stream = source.begin()
    graphdef, state, train_step = _build(
        config, plan, mesh, classes=len(set(train.labels)), batch_shape=(batch_size, *train.images.shape[1:])
    )
    evaluator = Evaluator(
        graphdef,
        test,
        distance=plan.distance,
        batch_size=config.eval_batch,
        mesh=mesh,
        views=config.eval_views,
        mirrored=config.eval_mirrored,
        augment=plan.augment,
    )

    watch = _watch(config, plan)

    with contextlib.ExitStack() as stack:
        termination = stack.enter_context(Termination())
        if processes.is_first():
            folders.claim(folder, config.to_dict())
            stack.enter_context(folders.locked(folder))
        checkpoints = stack.enter_context(
            Checkpoints(folder / folders.CHECKPOINTS, keep=config.checkpoints_kept)
        )
        if checkpoints.latest is not None:
            state, notes = checkpoints.restore(state, stream)
            clock.resume(notes["clock"])
            best.resume(notes["best"])
            if notes.get("data", images_digest) != images_digest:
                raise RunError(
                    f"{folder} holds a run on other images than these: give it those that it began with, or name "
                    "another workdir"
                )
            watch.resume(notes.get("watch", watch.notes()))  # older checkpoints have none
            stream = source.follow(stream, state)
        done = int(state.step)
        writer = None
        if processes.is_first():
            tracker = tracking.start(config.wandb, folder, config.to_dict())
            writer = stack.enter_context(MetricsWriter(folder, after=done, tracker=tracker))
        progress = stack.enter_context(Progress(clock, steps=config.steps, done=done, batch_size=batch_size))
        progress.say(
            f"{len(train)} images of {len(set(train.labels))} classes to train on, {len(test)} of "
            f"{len(set(test.labels))} to test on; {batch_size} a batch, on {mesh.size} of {jax.device_count()} devices"
            + (f"; going on from step {done}" if done else "")
        )
        report = Reporter(
            writer,
            progress,
            clock,
            plan.learning_rate,
            watch,
            batch_size=batch_size,
            saved=checkpoints.describe_latest,
        )
        profile = stack.enter_context(Profile(folder / folders.PROFILE, steps=config.profile, after=done))

        pending: Pending | None = None
        for step in range(done + 1, config.steps + 1):
            if best.enough:
                break
            profile.begin(step)
            logs, evaluates, saves = (
                step == config.steps or step % every == 0
                for every in (config.log_every, config.eval_every, config.checkpoint_every)
            )
            with clock.waiting():
                batch = next(stream)
            images, labels = devices.place((batch.images, batch.labels), mesh)
            state, output = train_step(state, images, labels)
            profile.end(step, output)
            diagnosed = plan.diagnose(output, labels) if logs or evaluates else None
            if pending:
                report(pending)
            pending = Pending(step, output, diagnosed)
            stops = termination.asked or processes.asked_to_end(step)
            if evaluates or saves or stops:
                report.check(pending)
                # Of a save too: a network is whitened by what it embeds itself, not by what an earlier one did.
                state = evaluator.whiten(state, train, shrinkage=config.eval_whitening)
                report(pending, functools.partial(evaluator, state) if evaluates else None)
                pending = None
            is_best = evaluates and best.see(step, evaluator(state))
            if evaluates:
                state = source.look(state, evaluator.glance)
                stream = source.follow(stream, state)
                clock.restart()
            if saves or is_best or best.enough or stops:
                notes = {
                    "clock": clock.notes(),
                    "best": best.notes(),
                    "watch": watch.notes(),
                    "data": images_digest,
                    "tested_on": datasets.ids_digest(test),
                }
                checkpoints.save(state, stream, step=step, notes=notes, best=best.step)
                clock.restart()
            if stops:
                checkpoints.wait()
                raise StoppedError(
                    f"stopped by SIGTERM after step {step}, with a checkpoint: the same command goes on from there"
                )

        results = {
            **beside(evaluator(state), evaluator.raw_pixels),
            **best.results,
            "steps": int(state.step),
            "images_per_s": round(clock.steps_per_second * batch_size, 1),
            "seconds": round(clock.seconds, 1),
        }
        checkpoints.wait()  # a run that has results has its last checkpoint
        if processes.is_first():
            folders.write_json(folder / folders.RESULTS, results)
    return results


def check(config: ml_collections.ConfigDict) -> None:
    """Raises what `train_and_evaluate` would raise of this config before there is any data."""
    _plan(config)
    Best(config.best_metric, patience=config.patience)
    tracking.check(config.wandb)


class _Plan(NamedTuple):
    """What a config's names stand for."""

    objective: Objective
    distance: Distance
    margin: float
    learning_rate: optax.Schedule
    optimizer: optax.GradientTransformation
    augment: choices.Augment | None
    diagnose: Callable[[Output, Array], dict[str, Array]]


# Images of a batch whose distances are looked at one by one: all pairs of so many take 110 MB.
_DIAGNOSED = 2048

# Numbers of which no less makes sense, by the smallest that does.
_AT_LEAST = {
    1: ("steps", "log_every", "eval_every", "checkpoint_every", "checkpoints_kept", "eval_batch"),
    0: ("seed", "batch.chunk", "loss.before_steps", "memory.size", "memory.start", "profile"),
}


def _plan(config: ml_collections.ConfigDict) -> _Plan:
    """Looks up and checks all that can be checked before there is any data."""
    flat = folders.flatten(config.to_dict())
    for key, value in flat.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise RunError(f"{key} must be finite, got {value}")
    for least, keys in _AT_LEAST.items():
        for key in keys:
            if flat[key] < least:
                raise RunError(f"{key} must be at least {least}, got {flat[key]}")
    if config.seed >= 2**32:
        raise RunError(f"seed must be less than 2³², got {config.seed}")
    if not 0 <= config.ema < 1:
        raise RunError(f"ema must be at least 0 and less than 1, got {config.ema}")
    datasets.check(config.data.source, config.data.split)
    batch = config.batch
    samplers.check(batch.sampler, super_classes=batch.super_classes, neighbours=batch.neighbours)
    choices.check_model(**config.model)
    distance = choices.distance(config.loss.distance, loss=config.loss.name)
    margin = choices.margin(config.loss.margin, loss=config.loss.name)
    wanted = config.optimizer
    learning_rate = optimizers.schedule(
        wanted.schedule,
        learning_rate=wanted.learning_rate,
        warmup=wanted.warmup,
        steps=config.steps,
        final=wanted.final,
        drop=wanted.drop,
        drops=wanted.drops,
    )
    objective = choices.loss(**config.loss, memory_size=config.memory.size, memory_start=config.memory.start)
    if config.loss.before_steps >= config.steps:
        raise RunError(
            f"loss.before_steps={config.loss.before_steps} leaves none of steps={config.steps} to {config.loss.name}"
        )
    if config.data.mirrors and config.augment.flip:
        raise RunError(
            f"augment.flip={config.augment.flip} makes of a class what data.mirrors calls another: leave either out"
        )
    augment = choices.augmentation(**config.augment)
    check_views(config.eval_views, augment)
    if config.eval_whitening is not None and not 0 < config.eval_whitening <= 1:
        raise RunError(
            f"eval_whitening must be a shrinkage, above 0 and at most 1, or None, got {config.eval_whitening}"
        )
    loss_rate = wanted.learning_rate if wanted.loss_learning_rate is None else wanted.loss_learning_rate
    if wanted.loss_learning_rate is not None and not objective.learns:
        raise RunError(f"{config.loss.name} learns nothing: leave optimizer.loss_learning_rate alone")

    @jax.jit
    def diagnosed(*columns: Array) -> list[Array]:
        """The rows of a batch to look at: of every class as many, of most classes if two of each are too many."""
        each = min(batch.samples, max(2, _DIAGNOSED // batch.classes))
        by_class = [column.reshape(-1, batch.samples, *column.shape[1:])[:, :each] for column in columns]
        return [column.reshape(-1, *column.shape[2:])[:_DIAGNOSED] for column in by_class]

    def diagnose(output: Output, labels: Array) -> dict[str, Array]:
        rows = diagnosed(output.embeddings, labels)
        found = diagnostics.summary(*rows, margin=margin, distance=distance)
        return {**found, **{f"loss.{name}": value for name, value in output.learned.items()}}

    return _Plan(
        objective=objective,
        distance=distance,
        margin=margin,
        learning_rate=learning_rate,
        optimizer=optimizers.optimizer(
            wanted.name,
            learning_rate,
            weight_decay=wanted.weight_decay,
            momentum=wanted.momentum,
            clip=wanted.clip,
            loss_factor=loss_rate / wanted.learning_rate,
        ),
        augment=augment,
        diagnose=diagnose,
    )


def _watch(config: ml_collections.ConfigDict, plan: _Plan) -> collapse.Watch:
    """Who says whether the run has collapsed."""
    labels = jnp.repeat(jnp.arange(config.batch.classes), config.batch.samples)
    model, loss = config.model, config.loss
    return collapse.Watch(
        plan.objective.of_one_point(labels, dim=model.dim),
        margin=plan.margin,
        before_steps=loss.before_steps,
        quiet_steps=config.optimizer.warmup,
        remedies=collapse.remedies(
            loss.name,
            steps=config.steps,
            before=loss.before,
            learning_rate=config.optimizer.learning_rate,
            distance=plan.distance.name,
            normalise=model.normalise,
            norm=model.norm,
            neck=model.neck,
        ),
    )


def _build(
    config: ml_collections.ConfigDict,
    plan: _Plan,
    mesh: Mesh,
    *,
    classes: int,
    batch_shape: tuple[int, ...],
) -> tuple[nnx.GraphDef, TrainState, jax.stages.Wrapped]:
    """The model, its state before the first step, and the step; traced once, so that what is wrong shows now."""
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    dim = config.model.dim
    graphdef, state = states.create(
        choices.model(**config.model, image_shape=batch_shape[1:], key=init_key),
        plan.optimizer,
        step_key,
        loss_params=plan.objective.init(jax.random.fold_in(init_key, 1), classes=classes, dim=dim),
        memory=memories.create(config.memory.size, dim) if config.memory.size else None,
        frozen=config.optimizer.freeze,
        averages=config.ema > 0,
        centres=jnp.zeros((classes, dim)) if config.batch.sampler == "hard_classes" else None,
        whitening=None if config.eval_whitening is None else whitenings.none(dim),
    )
    layout = devices.layout(state, mesh, sharded=config.devices.shard_params)
    statistics = not config.optimizer.freeze_statistics
    encode = make_encoder(graphdef, mesh, chunk=config.batch.chunk, batch_statistics=statistics)
    step = make_train_step(
        encode,
        plan.optimizer,
        plan.objective,
        augment=plan.augment,
        ema=config.ema,
        mesh=mesh,
        layout=layout,
    )
    state = devices.arrange(state, layout)
    images, labels = (
        jax.ShapeDtypeStruct(shape, dtype, sharding=devices.spread(mesh))
        for shape, dtype in ((batch_shape, jnp.uint8), (batch_shape[:1], jnp.int32))
    )
    step.trace(state, images, labels)
    return graphdef, state, step
