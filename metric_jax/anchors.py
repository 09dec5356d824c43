"""per_anchor: write a loss for one anchor, get a loss for a batch.

Every batch loss of metric learning is, for one anchor, a function of its distances to all references and of which of
these are positives and negatives. So a loss is written once, as a formula of a few lines over one such row, and this
module does for all of them what would otherwise be written in each: vmap over anchors, tiles that keep memory linear in
the batch, references other than the batch, masks, matching rules, negatives from other devices, and the reduction.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
from jaxtyping import Array

from metric_jax import pairs
from metric_jax.distances import Distance, center, check_measure, euclidean
from metric_jax.pairs import Comparison, Match, compare
from metric_jax.reductions import Terms, check_reduction, reduce

# Distances in flight per tile: a tile of this many stays in a CPU's cache and still fills an accelerator.
TILE_ENTRIES = 2**20

_COMMON_ARGS = """
    embeddings: ``[batch, dim]``, floating; not normalised behind your back.
    labels: ``[batch]`` integers, or with ``match`` any array ``[batch, ...]``.
    {measure}: The `Distance` between an anchor and a reference.
    references: ``[references, dim]``, what anchors are compared with instead of their own batch (a memory, a gallery).
    reference_labels: ``[references]``.
    reference_where: ``[references]`` booleans: False leaves a reference out.
    where: ``[batch]`` booleans: False leaves a row out, as anchor and as reference, whatever it holds.
    match: ``(label, label) -> bool``, who is a positive of whom; equality of labels by default.
{reduction}    tile: How many anchors are compared at a time: memory is O(tile * references). ``"auto"`` decides by the shapes.
    axis_name: Inside ``jax.shard_map``, the mesh axis (or axes) over which references are gathered{reduced}.
"""
_REDUCTION_ARG = """\
    reduction: ``"mean"`` over terms, ``"mean_active"`` over terms that are not zero, ``"sum"``, or ``"none"``: one value
        per anchor, the total of its terms. 0 when there is no term.
"""
_RAISES = """
Raises:
    TypeError: Embeddings that are not floating, labels that are not integers, masks that are not boolean, a distance that
        is not a `Distance`, an unknown argument.
    ValueError: Shapes that do not match, an empty batch, labels beyond their integer type, an unknown reduction or tile.
"""


@dataclasses.dataclass(frozen=True)
class Batch:
    """What the body of a batch function works on: the comparison and how it is to be made."""

    comparison: Comparison
    distance: Distance
    match: Match | None
    tile: int | str

    def over_anchors(self, fn: Callable[..., Any], *, distance: Distance | None = None) -> Any:
        """Calls ``fn(distances, positives, negatives)`` on the row of every anchor and stacks the results.

        A tile is rematerialised in the backward pass, so that no row outlives its tile: value and gradient cost
        O(batch * dim + tile * references) memory.
        """
        distance = distance or self.distance
        compared = self.comparison
        middle = center(compared.references, compared.reference_where)
        references = distance.prepare(compared.references, middle)

        def one_anchor(anchor: tuple[Array, Array, Array, Array]) -> Any:
            row, label, where, index = anchor
            positives, negatives = pairs.of_anchor(label, where, index, compared, self.match)
            return fn(distance.against(row, references, distance.precision), positives, negatives)

        anchors = (
            distance.prepare(compared.anchors, middle),
            compared.labels,
            compared.where,
            compared.index,
        )
        tile = tile_size(len(compared.anchors), len(compared.references), self.tile)
        if tile >= len(compared.anchors):
            return jax.vmap(one_anchor)(anchors)
        return lax.map(jax.checkpoint(one_anchor, prevent_cse=False), anchors, batch_size=tile)


def tile_size(batch: int, references: int, tile: int | str) -> int:
    """How many anchors to compare at a time; ``"auto"`` makes tiles of equal size near ``TILE_ENTRIES`` distances."""
    if tile != "auto":
        return int(tile)
    largest = max(1, TILE_ENTRIES // references)
    tiles = -(-batch // largest)
    return -(-batch // tiles)


def per_anchor(
    fn: Callable[..., Terms] | None = None,
    *,
    distance: Distance | None = None,
    similarity: Distance | None = None,
    static: Sequence[str] = (),
) -> Callable[..., Any]:
    """Turns the formula of one anchor into a batch loss.

    The decorated function takes one anchor's ``distances [references]`` and the masks ``positives`` and ``negatives`` of
    the same length (neither holds the anchor itself), then its own keyword arguments, and returns `terms`. The result
    takes ``(embeddings, labels)`` and, besides those keywords, ``distance``, ``references``, ``reference_labels``,
    ``reference_where``, ``where``, ``match``, ``reduction``, ``tile`` and ``axis_name``.

    Args:
        fn: The formula, when used as a bare decorator.
        distance: The default distance; Euclidean when neither this nor ``similarity`` is given.
        similarity: The default similarity, for a formula of similarities: the result then takes ``similarity=``.
        static: Names of own arguments that are not arrays (functions, strings).

    Returns:
        The batch loss, jitted.

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
        return functools.partial(per_anchor, distance=distance, similarity=similarity, static=static)

    def body(batch: Batch, **own: Any) -> Terms:
        return batch.over_anchors(functools.partial(fn, **own))

    own = [p for p in inspect.signature(fn).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return _publish(body, fn, own, distance, similarity, static, reduces=True)


def batch_loss(
    body: Callable[..., Terms] | None = None, *, distance: Distance = euclidean, static: Sequence[str] = ()
) -> Callable[..., Any]:
    """Like `per_anchor`, for a loss that looks at the whole batch: ``body(batch, *, ...)`` returns terms ``[batch]``."""
    if body is None:
        return functools.partial(batch_loss, distance=distance, static=static)
    own = [p for p in inspect.signature(body).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return _publish(body, body, own, distance, None, static, reduces=True)


def miner(
    body: Callable[..., Any] | None = None, *, distance: Distance = euclidean, static: Sequence[str] = ()
) -> Callable[..., Any]:
    """Like `batch_loss`, for a function that returns indices: nothing is reduced, and no gradient flows."""
    if body is None:
        return functools.partial(miner, distance=distance, static=static)
    own = [p for p in inspect.signature(body).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return _publish(body, body, own, distance, None, static, reduces=False)


def _publish(
    body: Callable[..., Any],
    documented: Callable[..., Any],
    own: list[inspect.Parameter],
    distance: Distance | None,
    similarity: Distance | None,
    static: Sequence[str],
    *,
    reduces: bool,
) -> Callable[..., Any]:
    """The public function of a body: the common signature and docstring, the checks, jit."""
    measure = "similarity" if similarity is not None else "distance"
    default = similarity or distance or euclidean
    signature = _signature(own, measure, default, reduces)
    name = documented.__name__

    @functools.partial(
        jax.jit,
        static_argnames=(measure, "match", "tile", "axis_name", *(["reduction"] if reduces else []), *static),
    )
    def traced(embeddings: Array, labels: Array, **options: Any) -> Any:
        compared = {
            key: options.pop(key) for key in ("references", "reference_labels", "reference_where", "where")
        }
        match, axis_name = options.pop("match"), options.pop("axis_name")
        comparison = compare(embeddings, labels, **compared, match=match, axis_name=axis_name)
        batch = Batch(comparison, options.pop(measure), match, options.pop("tile"))
        if not reduces:
            return lax.stop_gradient(body(batch, **options))
        reduction = options.pop("reduction")
        return reduce(body(batch, **options), reduction, axis_name)

    @functools.wraps(documented)
    def public(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}: {error}; its arguments are {', '.join(signature.parameters)}") from None
        bound.apply_defaults()
        given = bound.arguments
        _check_options(given, measure)
        given["labels"] = pairs.as_labels(given["labels"], "labels")
        if given["reference_labels"] is not None:
            given["reference_labels"] = pairs.as_labels(given["reference_labels"], "reference_labels")
        return traced(**given)

    public.__signature__ = signature  # type: ignore[attr-defined]
    public.__doc__ = _docstring(documented, measure, reduces)
    return public


def _signature(
    own: list[inspect.Parameter], measure: str, default: Distance, reduces: bool
) -> inspect.Signature:
    positional = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("embeddings", "labels")
    ]
    common: dict[str, Any] = {
        measure: default,
        "references": None,
        "reference_labels": None,
        "reference_where": None,
        "where": None,
        "match": None,
        **({"reduction": "mean"} if reduces else {}),
        "tile": "auto",
        "axis_name": None,
    }
    keywords = [inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY, default=v) for k, v in common.items()]
    return inspect.Signature([*positional, *own, *keywords])


def _docstring(documented: Callable[..., Any], measure: str, reduces: bool) -> str:
    """The body's own docstring, with the arguments and errors common to all batch functions in their places."""
    common = _COMMON_ARGS.format(
        measure=measure,
        reduction=_REDUCTION_ARG if reduces else "",
        reduced=" and means are taken" if reduces else "",
    )
    own, found, examples = inspect.cleandoc(documented.__doc__ or documented.__name__).partition("\nExample:")
    head, returns, returned = own.partition("\nReturns:")
    args = "" if "\nArgs:" in head else "\n\nArgs:"
    return f"{head.rstrip()}{args}\n{common.strip(chr(10))}\n{returns}{returned}\n{_RAISES.strip()}\n{found}{examples}"


def _check_options(given: dict[str, Any], measure: str) -> None:
    """Checks what is static: it decides the computation, so it is checked before anything is traced."""
    tile, match = given["tile"], given["match"]
    check_measure(given[measure], measure)
    if tile != "auto" and not (isinstance(tile, int) and not isinstance(tile, bool) and tile > 0):
        raise ValueError(f'tile must be "auto" or a positive integer, got {tile!r}')
    if match is not None and not callable(match):
        raise TypeError(f"match must be a function of two labels, got {match!r}")
    if "reduction" in given:
        check_reduction(given["reduction"])
