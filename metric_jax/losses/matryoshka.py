"""Matryoshka: embeddings whose first few dimensions are embeddings too.

Search over millions of items wants short embeddings, the last few places want long ones. A network trained by a loss on
several prefixes of its embeddings at once gives both: cut them where the memory or the time ends.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from metric_jax.limits import is_count

# The arguments, by name, whose last axis is that of the embeddings.
ROWS = ("embeddings", "references", "proxies", "x", "y", "anchor", "positive", "negative")


def matryoshka(
    loss: Callable[..., Array],
    dims: Sequence[int] = (8, 16, 32),
    weights: Sequence[float] | Array | None = None,
) -> Callable[..., Array]:
    """A loss of several prefixes of the embeddings.

    ``L = Σ_d w_d loss(embeddings[:, :d], ...)``; references and proxies are cut in the same places. Under a cosine each
    prefix is normalised by itself, as it will be when it is searched with; so do not normalise beforehand.

    Args:
        loss: Any loss of this library, or a function that calls its rows by the same names.
        dims: How long the prefixes are. The whole embedding is one of them only if its dimension is listed.
        weights: The weight of each prefix; 1 by default, as in the paper.

    Returns:
        A function that is called as ``loss`` is.

    Raises:
        ValueError: A number for dims; no dimension, one that is no positive integer or listed twice, or as many weights
            as there are not dimensions; when called, a dimension beyond that of the embeddings.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> loss = mj.matryoshka(mj.batch_contrastive_loss, dims=(1, 2), weights=(1.0, 0.5))
        >>> loss(jnp.array([[0.0, 0.0], [3.0, 4.0]]), jnp.array([0, 0]))
        Array(21.5, dtype=float32)

    References:
        Kusupati et al. (2022), Matryoshka Representation Learning. https://arxiv.org/abs/2205.13147
    """
    if not isinstance(dims, Iterable):
        raise ValueError(f"dims must list dimensions, got {dims}: pass ({dims},)")
    dims = tuple(dims)
    if not dims or not all(map(is_count, dims)) or len(set(dims)) < len(dims):
        raise ValueError(f"dims must be positive integers and all different, got {dims}")
    if weights is None:
        weights = (1.0,) * len(dims)
    if len(weights) != len(dims):
        raise ValueError(f"{len(weights)} weights for {len(dims)} dims: pass one for each")
    signature = inspect.signature(loss)

    @functools.wraps(loss)
    def nested(*args: Any, **kwargs: Any) -> Array:
        given = signature.bind(*args, **kwargs)
        if not _named(given).keys() & set(ROWS):
            raise ValueError(
                f"a nested loss is given {' or '.join(ROWS)} under these names, or nothing is cut"
            )
        rows = {name: jnp.asarray(x) for name, x in _named(given).items() if name in ROWS and x is not None}
        for name, x in rows.items():
            if x.ndim and x.shape[-1] < max(dims):
                raise ValueError(f"{name} have dimension {x.shape[-1]}: too few for dims={dims}")

        def of_prefix(dim: int) -> Array:
            cut = {name: x[..., :dim] for name, x in rows.items()}
            return loss(**{**_named(given), **cut})

        first, *others = (weight * of_prefix(dim) for weight, dim in zip(weights, dims, strict=True))
        return sum(others, first)

    return nested


def _named(given: inspect.BoundArguments) -> dict[str, Any]:
    """The arguments by name; what was caught by ``**kwargs`` stands beside the others."""
    named = dict(given.arguments)
    for name, parameter in given.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            named.update(named.pop(name, {}))
    return named
