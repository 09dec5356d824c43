"""per_anchor: write a loss for one anchor, get a loss for a batch.

Every batch loss of metric learning is, for one anchor, a function of its distances to all references and of which of
these are positives and negatives. So a loss is written once, as a formula of a few lines over one such row, and this
module does for all of them what would otherwise be written in each: vmap over anchors, tiles that keep memory linear in
the batch, references other than the batch, masks, matching rules, negatives from other devices, and the reduction.
"""

import dataclasses
import functools
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from metric_jax import pairs
from metric_jax.distances import Distance, center, euclidean
from metric_jax.interface import BATCH, MINER, publish
from metric_jax.limits import Limits, is_count
from metric_jax.pairs import Comparison, compare
from metric_jax.reductions import Parts, Reduction, Terms, reduce
from metric_jax.tiles import alike, sum_in_tiles
from metric_jax.types import AxisName, Match, Pairs

# Measured on CPU from batch 1024 to 65,536: a tile of this many distances stays in cache, and one of fewer rows than
# that makes a slow matrix product, which costs more than leaving the cache.
TILE_ENTRIES, TILE_ROWS = 2**20, 64


@dataclasses.dataclass(frozen=True)
class Batch:
    """What the body of a batch function works on: who is compared with whom, and how.

    ``is_own`` says that the references are the anchors themselves, in their order, and ``summed`` that only the sum
    over anchors is asked for, and not one value for each.
    """

    comparison: Comparison
    distance: Distance
    match: Match | None = None
    tile: int | str = "auto"
    axis_name: AxisName = None
    is_own: bool = False
    summed: bool = False

    @property
    def frozen(self) -> "Batch":
        """The same batch under ``stop_gradient``: mining is not differentiated."""
        return dataclasses.replace(self, comparison=lax.stop_gradient(self.comparison))

    def over_anchors(
        self,
        fn: Callable[..., Any],
        *of_anchors: Any,
        rows: Array | None = None,
        distance: Distance | None = None,
        summed: bool = False,
    ) -> Any:
        """Calls ``fn(distances, positives, negatives, *of_anchor)`` on the row of every anchor and stacks the results.

        A tile is rematerialised in the backward pass, so that no row outlives its tile: value and gradient cost
        O(batch * dim + tile * references) memory. What is the same for all anchors, ``fn`` may close over.

        Args:
            fn: What to compute of one anchor.
            *of_anchors: Pytrees of arrays ``[batch, ...]`` that fn gets its anchor's entry of.
            rows: ``[batch, dim]``: compared with the references in place of the anchors.
            distance: Used in place of the batch's own.
            summed: Whether the `Terms` that fn returns may come added up over anchors, which makes gradients cheaper.

        Returns:
            What fn returns, with a leading axis ``[batch]``; or `Terms` without one.
        """
        distance = distance or self.distance
        compared = self.comparison
        middle = center(compared.references, compared.reference_where)
        references = distance.prepare(compared.references, middle)

        def one_anchor(anchor: tuple[Any, ...]) -> Any:
            row, index, label, where, position, slots, extras = anchor
            given = compared.pairs if slots is None else slots
            positives, negatives = pairs.of_anchor(index, label, where, position, given, compared, self.match)
            return fn(distance.against(row, references, distance.precision), positives, negatives, *extras)

        rows = distance.prepare(compared.anchors if rows is None else rows, middle)
        of_rows = (compared.labels, compared.where, compared.position)
        slots = compared.pairs if compared.pairs is not None and compared.pairs.anchor.ndim == 2 else None
        anchors = (rows, jnp.arange(len(rows)), *of_rows, slots, of_anchors)
        held = 1 if distance.has_product else references.shape[1]
        listed = compared.pairs.anchor.size if compared.pairs is not None and slots is None else 0
        tile = tile_size(len(rows), max(len(references), listed), self.tile, held)
        if tile >= len(rows):
            return jax.vmap(one_anchor)(anchors)
        first = jax.tree.map(lambda x: x[0], anchors)
        if summed and isinstance(jax.eval_shape(one_anchor, first), Terms):
            return _sum_of_terms(one_anchor, anchors, tile)
        return lax.map(jax.checkpoint(one_anchor, prevent_cse=False), anchors, batch_size=tile)


def _sum_of_terms(of_anchor: Callable[[Any], Terms], anchors: Any, tile: int) -> Terms:
    """The terms of all anchors together, whose gradient is computed along with them."""

    def value_and_counts(anchor: Any) -> tuple[Array, tuple[Array, Array]]:
        found = of_anchor(anchor)
        return found.total, (found.number, found.active)

    total, counts = sum_in_tiles(value_and_counts, anchors, tile)
    return Terms(total, *counts)


def tile_size(batch: int, references: int, tile: int | str, held: int = 1, *, least: int = TILE_ROWS) -> int:
    """How many anchors to compare at a time; ``"auto"`` makes equal tiles of about ``TILE_ENTRIES`` numbers.

    ``held`` is how many numbers a distance takes up while it is computed: 1 in a matrix product. A tile of products has
    at least ``least`` anchors, even where these are more numbers.
    """
    if tile != "auto":
        if isinstance(tile, str) or not is_count(tile):
            raise ValueError(f'tile must be "auto" or a positive integer, got {tile!r}')
        return operator.index(tile)
    largest = max(1, least // held, TILE_ENTRIES // (references * held))
    tiles = -(-batch // largest)
    return -(-batch // tiles)


def per_anchor(
    fn: Callable[..., Parts] | None = None,
    *,
    distance: Distance | None = None,
    similarity: Distance | None = None,
    static: Sequence[str] = (),
    within: Mapping[str, Limits] | None = None,
) -> Callable[..., Any]:
    """Turns the formula of one anchor into a batch loss.

    The decorated function takes one anchor's ``distances [references]``, the masks ``positives`` and ``negatives`` of
    the same length (neither holds the anchor itself) and its own keyword arguments, and returns `terms`, or a tuple of
    them whose means are taken apart and added. The result takes ``(embeddings, labels)`` and, beside those keywords,
    ``distance``, ``references``, ``reference_labels``, ``reference_where``, ``with_batch``, ``where``, ``match``,
    ``pairs``, ``reduction``, ``tile`` and ``axis_name``. A batch of several tiles has a gradient in reverse mode alone;
    for `jax.hessian` pass ``tile=len(embeddings)``.

    Args:
        fn: The formula, when used as a bare decorator.
        distance: The default distance; Euclidean when neither this nor ``similarity`` is given.
        similarity: The default similarity, for a formula of similarities: the result then takes ``similarity=``.
        static: Names of own arguments that are not arrays (functions, strings), or that decide what is computed (a
            flag that ``if`` asks for).
        within: Own arguments, by name, that must lie within `Limits`. Whatever has a number for a default must be one.

    Returns:
        The batch loss, jitted.

    Raises:
        TypeError: The formula does not take three arrays and then keyword-only arguments, or returns no `terms`.
        ValueError: Both a distance and a similarity are given.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> @mj.per_anchor(distance=mj.euclidean)
        ... def nearest_positive_loss(distances, positives, negatives, *, scale=1.0):
        ...     nearest = jnp.min(distances, where=positives, initial=jnp.inf)
        ...     return mj.terms(scale * nearest, where=positives.any())
        >>> embeddings = jnp.array([[0.0], [1.0], [3.0], [9.0]])
        >>> nearest_positive_loss(embeddings, jnp.array([0, 0, 0, 1]), scale=3.0)
        Array(4., dtype=float32)
    """
    if fn is None:
        return functools.partial(
            per_anchor, distance=distance, similarity=similarity, static=static, within=within
        )
    name = _name_of(fn)
    _check_formula(fn, name)

    def one_anchor(*row: Array, **own: Any) -> Parts:
        found = fn(*row, **own)
        parts = (found,) if isinstance(found, Terms) else found
        if not (isinstance(parts, tuple) and parts and all(isinstance(part, Terms) for part in parts)):
            raise TypeError(
                f"{name} must return mj.terms(values, where=...) or a tuple of these, got "
                f"{type(found).__name__}"
            )
        return found

    def body(batch: Batch, **own: Any) -> Parts:
        comparison, own = alike((batch.comparison, own))
        batch = dataclasses.replace(batch, comparison=comparison)
        return batch.over_anchors(functools.partial(one_anchor, **own), summed=batch.summed)

    functools.update_wrapper(body, fn)
    body.__name__ = name
    return batch_loss(body, distance=distance, similarity=similarity, static=static, within=within)


def _name_of(fn: Callable[..., Any]) -> str:
    """What messages call a formula: a partial one as the whole, an object that is called as its class."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(fn, "__name__", type(fn).__name__)


def _check_formula(fn: Callable[..., Any], name: str) -> None:
    """Raises a TypeError unless fn takes three positional arguments, and whatever else by keyword only."""
    kinds = [parameter.kind for parameter in inspect.signature(fn).parameters.values()]
    positional = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    row, own = kinds[:3], kinds[3:]
    has_row = len(row) == 3 and all(kind in positional for kind in row)
    if not has_row or any(kind is not inspect.Parameter.KEYWORD_ONLY for kind in own):
        raise TypeError(
            f"{name} must take (distances, positives, negatives, *, ...): own arguments stand behind the *"
        )


def batch_loss(
    body: Callable[..., Parts] | None = None,
    *,
    distance: Distance | None = None,
    similarity: Distance | None = None,
    static: Sequence[str] = (),
    within: Mapping[str, Limits] | None = None,
    vectors: Sequence[str] = (),
    check: Callable[..., None] | None = None,
    match: Match | None = None,
) -> Callable[..., Any]:
    """Like `per_anchor`, for a loss that looks at the whole batch: ``body(batch, *, own)`` gives terms ``[batch]``.

    ``match`` says who matches whom where the caller does not; labels may then be anything that it takes.
    """
    if distance is not None and similarity is not None:
        raise ValueError("a loss takes a default distance or a default similarity, not both")
    if body is None:
        return functools.partial(
            batch_loss,
            distance=distance,
            similarity=similarity,
            static=static,
            within=within,
            vectors=vectors,
            check=check,
            match=match,
        )
    measure = "distance" if similarity is None else "similarity"

    def run(*, reduction: Reduction, axis_name: AxisName, **given: Any) -> Array:
        given["match"] = given["match"] or match
        batch, own = _batch(measure, axis_name=axis_name, **given)
        batch = dataclasses.replace(batch, summed=reduction != "none")
        return reduce(body(batch, **own), reduction, axis_name)

    default = similarity or distance or euclidean
    return publish(
        run,
        body,
        shared=BATCH,
        measure=measure,
        default=default,
        static=static,
        within=within,
        vectors=vectors,
        check=check,
    )


def miner(
    body: Callable[..., Any] | None = None,
    *,
    distance: Distance = euclidean,
    static: Sequence[str] = (),
    within: Mapping[str, Limits] | None = None,
    check: Callable[..., None] | None = None,
) -> Callable[..., Any]:
    """Like `batch_loss`, for a function that returns indices: nothing is reduced, and no gradient flows."""
    if body is None:
        return functools.partial(miner, distance=distance, static=static, within=within, check=check)

    def run(**given: Any) -> Any:
        batch, own = _batch("distance", **given)
        return lax.stop_gradient(body(batch.frozen, **own))

    return publish(
        run,
        body,
        shared=MINER,
        measure="distance",
        default=distance,
        static=static,
        within=within,
        check=check,
    )


def _batch(
    measure: str,
    *,
    embeddings: Array,
    labels: Array | None,
    references: Array | None,
    reference_labels: Array | None,
    reference_where: Array | None,
    with_batch: bool,
    where: Array | None,
    match: Match | None,
    tile: int | str,
    axis_name: AxisName,
    pairs: Pairs | None = None,
    **rest: Any,
) -> tuple[Batch, dict[str, Any]]:
    """The batch that the arguments of a public function describe, and the function's own arguments."""
    comparison = compare(
        embeddings,
        labels,
        references=references,
        reference_labels=reference_labels,
        reference_where=reference_where,
        with_batch=with_batch,
        where=where,
        match=match,
        pairs=pairs,
        axis_name=axis_name,
    )
    is_own = references is None and axis_name is None
    return Batch(comparison, rest.pop(measure), match, tile, axis_name, is_own), rest
