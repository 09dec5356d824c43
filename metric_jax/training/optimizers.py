"""How parameters move: optimizers and schedules by name, clipping, and a learning rate of the loss's own.

Parameters are ``{"model": ..., "loss": ...}``: those of the network, and what the loss learns beside it.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from metric_jax.data.errors import unknown
from metric_jax.training.errors import RunError

MOMENTUM = 0.9
# Root mean square of an update by an orthogonal matrix: about Adam's, so that its learning rates serve both.
_MUON_RMS = 0.2


def schedule(
    name: str,
    *,
    learning_rate: float,
    warmup: int,
    steps: int,
    final: float = 0.0,
    drop: float = 0.1,
    drops: Sequence[float] = (0.5, 0.75),
) -> optax.Schedule:
    """The learning rate at every step, after a linear warm-up from 0.

    Args:
        name: ``"constant"``; ``"cosine"``, ``"linear"`` or ``"exponential"``, down to ``final``; or ``"step"``.
        learning_rate: Its largest value.
        warmup: How many steps it takes to get there.
        steps: How many steps there are in all.
        final: What is left of it after the last step, as a fraction.
        drop: What every drop of ``"step"`` multiplies it by.
        drops: When it drops, as fractions of all steps.

    Returns:
        From the number of a step to its learning rate.

    Raises:
        RunError: An unknown name, or values out of range.
    """
    if not learning_rate > 0:
        raise RunError(f"optimizer.learning_rate must be positive, got {learning_rate}")
    if not 0 <= warmup < steps:
        raise RunError(f"optimizer.warmup={warmup} must be at least 0 and less than steps={steps}")
    if not 0 <= final <= 1:
        raise RunError(f"optimizer.final must be a fraction of the learning rate, from 0 to 1, got {final}")
    if name == "exponential" and not final:
        raise RunError("optimizer.final is 0, which no exponential reaches: set it to 0.01 or so")
    if not 0 < drop < 1:
        raise RunError(f"optimizer.drop must lie between 0 and 1, got {drop}")
    numbers = all(isinstance(fraction, int | float) for fraction in drops)
    if name == "step" and not (
        numbers and all(warmup < round(fraction * steps) < steps for fraction in drops)
    ):
        raise RunError(
            f"optimizer.drops must be fractions of the steps, after the warm-up and below 1, got {tuple(drops)}"
        )
    left = steps - warmup
    after = {
        "constant": optax.constant_schedule(learning_rate),
        "cosine": optax.cosine_decay_schedule(learning_rate, left, alpha=final),
        "linear": optax.linear_schedule(learning_rate, final * learning_rate, left),
        "exponential": optax.exponential_decay(learning_rate, left, final or 1.0),
    }
    if name == "step":
        at = collections.Counter(round(fraction * steps) - warmup for fraction in drops)
        scales = {step: drop**times for step, times in at.items()}
        after[name] = optax.piecewise_constant_schedule(learning_rate, scales)
    if name not in after:
        raise RunError(unknown("optimizer.schedule", name, [*after, "step"]))
    if not warmup:
        return after[name]
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), after[name]], [warmup])


def optimizer(
    name: str,
    learning_rate: optax.Schedule,
    *,
    weight_decay: float = 0.0,
    momentum: float | None = None,
    clip: float = 0.0,
    loss_factor: float = 1.0,
) -> optax.GradientTransformation:
    """The optimizer of that name, of parameters ``{"model": ..., "loss": ...}``.

    Args:
        name: ``"adam"``, ``"adamw"``, ``"lion"``, ``"lamb"``, ``"lars"``, ``"sgd"``, or ``"muon"``, which moves a
            kernel, that of the head too, by about the orthogonal matrix nearest to its momentum, and all else as Adam
            with Nesterov's momentum.
        learning_rate: Its schedule.
        weight_decay: Of the network's kernels; of biases, norms and what the loss learns there is none. All have it but
            adam: sgd and lars by a term of the gradient, the others apart from it.
        momentum: Of sgd and lars; 0.9 if None.
        clip: The largest norm of the gradient of all parameters together; a longer one is shortened. 0: any.
        loss_factor: By how much faster than the network the loss learns.

    Returns:
        A gradient transformation.

    Raises:
        RunError: An unknown name, a number out of range, or one that the optimizer does not have.

    References:
        Jordan, Jin, Boza, You, Cesista, Newhouse, Bernstein (2024), Muon: An optimizer for hidden layers in neural
        networks. https://kellerjordan.github.io/posts/muon/
        Liu et al. (2025), Muon is Scalable for LLM Training. https://arxiv.org/abs/2502.16982
    """
    beta = MOMENTUM if momentum is None else momentum
    numbers = {"weight_decay": weight_decay, "momentum": beta, "clip": clip}
    for key, value in numbers.items():
        if value < 0:
            raise RunError(f"optimizer.{key} must not be negative, got {value}")
    if beta >= 1:
        raise RunError(f"optimizer.momentum must be less than 1, got {beta}")
    if loss_factor <= 0:
        raise RunError("optimizer.loss_learning_rate must be positive")
    decay = {"weight_decay": weight_decay, "mask": are_kernels}
    known: Mapping[str, Callable[[], optax.GradientTransformation]] = {
        "adam": lambda: optax.adam(learning_rate),
        "adamw": lambda: optax.adamw(learning_rate, **decay),
        "lion": lambda: optax.lion(learning_rate, **decay),
        "lamb": lambda: optax.lamb(learning_rate, **decay),
        "lars": lambda: optax.lars(
            learning_rate, weight_decay, are_kernels, trust_ratio_mask=are_kernels, momentum=beta
        ),
        "muon": lambda: muon(
            learning_rate,
            weight_decay=weight_decay,
            muon_weight_dimension_numbers=_as_matrices,
            consistent_rms=_MUON_RMS,
        ),
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(weight_decay, are_kernels), optax.sgd(learning_rate, momentum=beta)
        ),
    }
    if name not in known:
        raise RunError(unknown("optimizer.name", name, known))
    if weight_decay and name == "adam":
        raise RunError("adam has no weight decay: set optimizer.name='adamw' or optimizer.weight_decay=0")
    if momentum is not None and name not in ("sgd", "lars"):
        raise RunError(f"{name} has no momentum to choose: leave optimizer.momentum, or choose sgd or lars")
    parts = [known[name]()]
    if clip:
        parts.insert(0, optax.clip_by_global_norm(clip))
    if loss_factor != 1.0:
        parts.append(optax.stateless(lambda updates, _: _of_loss_times(loss_factor, updates)))
    return parts[0] if len(parts) == 1 else optax.chain(*parts)


def are_kernels(params: Any) -> Any:
    """Which of the parameters are kernels of the network, the matrices of its layers: True in their places."""

    def is_kernel(path: tuple[Any, ...], _: Any) -> bool:
        return (path[0].key, path[-1].key) == ("model", "kernel")

    return jax.tree_util.tree_map_with_path(is_kernel, params)


def _as_matrices(params: Any) -> Any:
    """Which axes of a kernel are the rows of its matrix, all but the last, and which its columns; None for all else."""

    def axes(x: jax.Array, is_kernel: bool) -> MuonDimensionNumbers | None:
        return MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1) if is_kernel else None

    return jax.tree.map(axes, params, are_kernels(params))


def _of_loss_times(factor: float, updates: dict[str, Any]) -> dict[str, Any]:
    """Every optimizer here moves a parameter in proportion to the learning rate: so a factor is a rate of its own."""
    return {**updates, "loss": jax.tree.map(lambda update: factor * update, updates["loss"])}
