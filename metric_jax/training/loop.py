"""The training loop: config and folder in, trained model and results out.

The only module of the library that knows what a config is; it unpacks it into plain arguments.

Three habits keep the device busy and the run safe. The metrics of a step are read only after the next step is on its
way, so the host never waits in between. A checkpoint is saved only after the metrics of its step were found finite and
written down, so every checkpoint is good and has its lines. And all that a step depends on (parameters, optimizer,
position in the data, random key) is in the checkpoint or follows from the config, so a run that is killed and started
again ends where it would have ended.
"""

import contextlib
import functools
import math
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import ml_collections
import optax
from jaxtyping import Array

from metric_jax import data, diagnostics
from metric_jax.data import datasets
from metric_jax.distances import Distance
from metric_jax.training import choices, devices, folders, tracking
from metric_jax.training import state as states
from metric_jax.training.best import Best
from metric_jax.training.checkpoint import Checkpoints
from metric_jax.training.errors import RunError, StoppedError
from metric_jax.training.evaluate import Evaluator, beside
from metric_jax.training.profiling import Profile
from metric_jax.training.progress import Clock, Progress
from metric_jax.training.reporter import Pending, Reporter
from metric_jax.training.signals import Termination
from metric_jax.training.step import make_train_step
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
    if not workdir:
        raise RunError("the workdir is empty: name a folder for the run, as in --workdir=runs/digits")
    plan = _plan(config)
    best = Best(config.best_metric, patience=config.patience)
    tracking.check(config.wandb)
    folder = pathlib.Path(workdir)
    results = folders.check(folder, config.to_dict())
    if results is not None:
        print(f"this run is finished, and {folder} holds its results", file=sys.stderr)
        return results

    train, test = datasets.load(**config.data)
    sampler = data.PKSampler(train.labels, **config.batch, seed=config.seed)
    stream = data.batches(train, sampler, count=config.steps)
    batch_size = config.batch.classes * config.batch.samples
    mesh = devices.mesh(batch_size)

    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    model = choices.model(**config.model, image_shape=train.images.shape[1:], key=init_key)
    graphdef, state = states.create(model, plan.optimizer, step_key)
    state = jax.device_put(state, devices.replicated(mesh))
    train_step = make_train_step(graphdef, plan.optimizer, plan.loss, augment=plan.augment, mesh=mesh)
    evaluator = Evaluator(graphdef, test, distance=plan.distance, batch_size=config.eval_batch, mesh=mesh)

    folders.claim(folder, config.to_dict())
    with contextlib.ExitStack() as stack:
        termination = stack.enter_context(Termination())
        checkpoints = stack.enter_context(
            Checkpoints(folder / folders.CHECKPOINTS, keep=config.checkpoints_kept)
        )
        if checkpoints.latest is not None:
            state, notes = checkpoints.restore(state, stream)
            clock.resume(notes["clock"])
            best.resume(notes["best"])
        done = int(state.step)
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
            diagnosed = plan.diagnose(output.embeddings, labels) if logs or evaluates else None
            if pending:
                report(pending)
            pending = Pending(step, output, diagnosed)
            stops = termination.asked
            if evaluates or saves or stops:
                report(pending, functools.partial(evaluator, state) if evaluates else None)
                pending = None
            is_best = evaluates and best.see(step, evaluator(state))
            if saves or is_best or best.enough or stops:
                notes = {"clock": clock.notes(), "best": best.notes()}
                checkpoints.save(state, stream, step=step, notes=notes, best=best.step)
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
        folders.write_json(folder / folders.RESULTS, results)
    return results


class _Plan(NamedTuple):
    """What a config's names stand for."""

    loss: choices.Loss
    distance: Distance
    learning_rate: optax.Schedule
    optimizer: optax.GradientTransformation
    augment: choices.Augment | None
    diagnose: Callable[[Array, Array], dict[str, Array]]


def _plan(config: ml_collections.ConfigDict) -> _Plan:
    """Looks up and checks all that can be checked before there is any data."""
    for key, value in folders.flatten(config.to_dict()).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise RunError(f"{key} must be finite, got {value}")
    for key in ("steps", "log_every", "eval_every", "checkpoint_every", "checkpoints_kept", "eval_batch"):
        if config[key] < 1:
            raise RunError(f"{key} must be at least 1, got {config[key]}")
    if config.seed < 0:
        raise RunError(f"seed must not be negative, got {config.seed}")
    datasets.check(config.data.source, config.data.split)
    choices.check_model(config.model.name)
    distance = choices.distance(config.loss.distance, loss=config.loss.name)
    margin = choices.margin(config.loss.margin, loss=config.loss.name)
    learning_rate = choices.schedule(
        config.optimizer.schedule,
        learning_rate=config.optimizer.learning_rate,
        warmup=config.optimizer.warmup,
        steps=config.steps,
    )
    return _Plan(
        loss=choices.loss(**config.loss),
        distance=distance,
        learning_rate=learning_rate,
        optimizer=choices.optimizer(
            config.optimizer.name, learning_rate, weight_decay=config.optimizer.weight_decay
        ),
        augment=choices.augmentation(**config.augment),
        diagnose=functools.partial(diagnostics.summary, margin=margin, distance=distance),
    )
