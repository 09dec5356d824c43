"""One signature, one docstring and one set of checks for every batch function.

All losses and miners take the same arguments beside their own. These are declared here, once: what `per_anchor` and
its siblings return shows them in ``help()``, binds them as Python would, and checks those that decide the computation
before anything is traced.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax

from metric_jax import types
from metric_jax.distances import Distance, check_measure
from metric_jax.pairs import as_array, as_labels
from metric_jax.reductions import Reduction, check_reduction

_REQUIRED = ("embeddings", "labels")
_ARRAYS = {
    "embeddings": as_array,
    "labels": as_labels,
    "references": as_array,
    "reference_labels": as_labels,
    "reference_where": as_array,
    "where": as_array,
}
_ARGS = """\
    embeddings: ``[batch, dim]``, floating; not normalised behind your back.
    labels: ``[batch]`` integers, or with ``match`` any array ``[batch, ...]``.
    {measure}: The `Distance` between an anchor and a reference.
    references: ``[references, dim]``: what anchors are compared with instead of their own batch (a memory, a gallery).
    reference_labels: ``[references]``.
    reference_where: ``[references]`` booleans: False leaves a reference out.
    where: ``[batch]`` booleans: False leaves a row out, as anchor and as reference, whatever it holds.
    match: ``(label, label) -> bool``: who is a positive of whom; equality of labels by default.
{reduction}    tile: How many anchors are compared at a time: memory is O(tile * references). ``"auto"``: by the shapes.
    axis_name: Inside ``jax.shard_map``, the mesh axis (or axes) over which references are gathered{reduced}.
"""
_REDUCTION = """\
    reduction: ``"mean"`` over terms, ``"mean_active"`` over terms that are not zero, ``"sum"``, or ``"none"``: one
        value per anchor, the total of its terms. 0 when there is no term.
"""
_RAISES = """\
Raises:
    TypeError: Embeddings that are not floating, labels that are not integers, masks that are not boolean, a distance
        that is not a `Distance`, an unknown argument.
    ValueError: Shapes that do not match, an empty batch, labels beyond their integer type, an unknown reduction or
        tile.
"""


def publish(
    run: Callable[..., Any],
    documented: Callable[..., Any],
    *,
    measure: str,
    default: Distance,
    static: Sequence[str],
    reduces: bool,
) -> Callable[..., Any]:
    """The public, jitted function that calls ``run(embeddings, labels, **all_arguments)``.

    Args:
        run: What to compute.
        documented: Whose name, docstring and own keyword arguments the public function has.
        measure: What the distance argument is called: ``"distance"`` or ``"similarity"``.
        default: Its default.
        static: The own arguments that are not arrays.
        reduces: Whether there is a ``reduction`` argument.

    Returns:
        The function.
    """
    signature = _signature(documented, measure, default, reduces)
    options = (measure, "match", "tile", "axis_name", *static, *(["reduction"] if reduces else []))
    traced = jax.jit(run, static_argnames=options)

    @functools.wraps(documented)
    def public(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            known = ", ".join(signature.parameters)
            raise TypeError(f"{documented.__name__}: {error}; it takes {known}") from None
        bound.apply_defaults()
        given = bound.arguments
        _check_options(given, measure)
        for name, convert in _ARRAYS.items():
            if name in _REQUIRED or given[name] is not None:
                given[name] = convert(given[name], name)
        return traced(**given)

    public.__signature__ = signature  # type: ignore[attr-defined]
    public.__doc__ = _docstring(documented, measure, reduces)
    return public


def _signature(
    documented: Callable[..., Any], measure: str, default: Distance, reduces: bool
) -> inspect.Signature:
    """``(embeddings, labels, *, the function's own, the common ones)``."""

    def keyword(name: str, default: Any, annotation: Any) -> inspect.Parameter:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    positional = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)
        for name, annotation in (("embeddings", types.Embeddings), ("labels", types.Labels))
    ]
    own = [p for p in inspect.signature(documented).parameters.values() if p.kind is p.KEYWORD_ONLY]
    common = [
        keyword(measure, default, Distance),
        keyword("references", None, types.References | None),
        keyword("reference_labels", None, types.ReferenceLabels | None),
        keyword("reference_where", None, types.RowMask | None),
        keyword("where", None, types.Mask | None),
        keyword("match", None, types.Match | None),
        *([keyword("reduction", "mean", Reduction)] if reduces else []),
        keyword("tile", "auto", int | str),
        keyword("axis_name", None, types.AxisName),
    ]
    return inspect.Signature([*positional, *own, *common])


def _docstring(documented: Callable[..., Any], measure: str, reduces: bool) -> str:
    """The function's own docstring, with the common arguments and errors in their places."""
    common = _ARGS.format(
        measure=measure,
        reduction=_REDUCTION if reduces else "",
        reduced=" and means are taken" if reduces else "",
    )
    own = inspect.cleandoc(documented.__doc__ or f"{documented.__name__}.")
    own, example, examples = own.partition("\nExample:")
    head, returns, returned = own.partition("\nReturns:")
    args = "" if "\nArgs:" in head else "\n\nArgs:"
    return f"{head.rstrip()}{args}\n{common}{returns}{returned.rstrip()}\n\n{_RAISES}{example}{examples}"


def _check_options(given: dict[str, Any], measure: str) -> None:
    """Checks what is static: it decides the computation, so it is checked before anything is traced."""
    match = given["match"]
    check_measure(given[measure], measure)
    if match is not None and not callable(match):
        raise TypeError(f"match must be a function of two labels, got {match!r}")
    if not callable(given.get("penalty", callable)):
        raise TypeError(f"penalty must be a function such as jax.nn.softplus, got {given['penalty']!r}")
    if "reduction" in given:
        check_reduction(given["reduction"])
