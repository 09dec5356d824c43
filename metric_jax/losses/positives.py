"""A loop over the positives of all anchors at once: the first of each, the second of each, and so on.

Some losses build something out of every positive pair that is no longer a row of distances, such as the sum of the two
embeddings. All pairs together would be a matrix of batch² rows; one positive of every anchor at a time makes a batch,
and there are as many of these as the largest class needs.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from metric_jax.anchors import Batch
from metric_jax.collectives import max_over
from metric_jax.pairs import Comparison
from metric_jax.sums import sum_where


def sum_over_positives(batch: Batch, term: Callable[..., Any], *operands: Any) -> Any:
    """``Σ_s term(batch, index, valid, *operands)``, differentiable in the batch's rows and in the operands.

    Args:
        batch: Anchors and their references.
        term: Gets the batch and, each ``[batch]``, the index of every anchor's s-th positive among the references and
            whether the anchor has that many. It must not close over traced arrays: these are operands.
        *operands: Pytrees of numbers.

    Returns:
        The sum, a pytree as ``term`` returns it.
    """
    compared = batch.comparison
    most = jnp.max(batch.over_anchors(lambda _, positives, __: jnp.sum(positives)))
    most = max_over(most, batch.axis_name)  # the devices take their steps together
    rows: dict[str, Any] = {"anchors": compared.anchors, "references": compared.references}
    fixed = {name: x for name, x in compared._asdict().items() if name not in rows}

    def step(s: Array, fixed: dict[str, Any], rows: dict[str, Any], *operands: Any) -> Any:
        here = dataclasses.replace(batch, comparison=Comparison(**rows, **fixed))

        def find(_: Array, positives: Array, __: Array) -> tuple[Array, Array]:
            index = jnp.argmax(jnp.cumsum(positives) > s)
            return index, jnp.sum(positives) > s

        index, valid = here.over_anchors(find)
        return term(here, index, valid, *operands)

    return sum_where(jnp.arange(len(compared.references)) < most, step, fixed, rows, *operands)
