"""A loop over the positives of all anchors at once: the first of each, the second of each, and so on.

Some losses build something out of every positive pair that is no longer a row of distances, such as the sum of the two
embeddings. All pairs together would be a matrix of batch² rows; one positive of every anchor at a time makes a batch,
and there are as many of these as the largest class needs.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from metric_jax.anchors import Batch
from metric_jax.collectives import max_over
from metric_jax.sums import sum_where


def sum_over_positives(batch: Batch, term: Callable[[Array, Array], Any]) -> Any:
    """``Σ_s term(index, valid)``, differentiable in the floats that ``term`` closes over.

    Args:
        batch: Anchors and their references.
        term: Gets, each ``[batch]``, the index of every anchor's s-th positive among the references and whether the
            anchor has that many.

    Returns:
        The sum, a pytree as ``term`` returns it.
    """
    most = jnp.max(batch.over_anchors(lambda _, positives, __: jnp.sum(positives)))
    most = max_over(most, batch.axis_name)  # the devices take their steps together

    def of_step(s: Array) -> Any:
        def find(_: Array, positives: Array, __: Array) -> tuple[Array, Array]:
            index = jnp.argmax(jnp.cumsum(positives) > s)
            return index, jnp.sum(positives) > s

        return term(*batch.over_anchors(find))

    return sum_where(jnp.arange(len(batch.comparison.references)) < most, of_step)
