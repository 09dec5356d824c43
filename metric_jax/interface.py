"""One signature, one docstring and one set of checks for every batch function.

All losses and miners take the same arguments beside their own. These are declared here, once: what `per_anchor` and
its siblings return shows them in ``help()``, binds them as Python would, and checks those that decide the computation
before anything is traced.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metric_jax import limits, types
from metric_jax.distances import Distance, check_measure
from metric_jax.limits import Limits
from metric_jax.pairs import as_array, as_labels, as_pairs, check_pairs
from metric_jax.reductions import Reduction, check_reduction


@dataclasses.dataclass(frozen=True)
class Argument:
    """An argument that many functions share.

    Attributes:
        doc: Its lines in a docstring.
        annotation: Its type.
        default: Its default; without one it comes first and may be positional.
        convert: ``(value, name) -> arrays``; None if it is an option, which decides the computation.
    """

    doc: str
    annotation: Any
    default: Any = None
    convert: Callable[[Any, str], Any] | None = None


_REQUIRED = inspect.Parameter.empty
_DISTANCE = Argument("The `Distance` between an anchor and a reference.", Distance)
_SIMILARITY = Argument(
    "The similarity between an anchor and a reference: a `Distance` by which larger is closer.", Distance
)
_ARGUMENTS = {
    "embeddings": Argument(
        "``[batch, dim]``, floating; not normalised behind your back.", types.Embeddings, _REQUIRED, as_array
    ),
    "labels": Argument(
        "``[batch]`` integers, or with ``match`` any array ``[batch, ...]``; None if ``pairs`` are given.",
        types.Labels | None,
        _REQUIRED,
        as_labels,
    ),
    "x": Argument(
        "``[batch, dim]``, floating: one view of every item.", types.Embeddings, _REQUIRED, as_array
    ),
    "y": Argument(
        "``[batch, dim]``, floating: the other view, row i of the same item as row i of x.",
        types.Embeddings,
        _REQUIRED,
        as_array,
    ),
    "distance": _DISTANCE,
    "similarity": _SIMILARITY,
    "references": Argument(
        "``[references, dim]``: what anchors are compared with instead of their own batch (a memory, a gallery).",
        types.References | None,
        convert=as_array,
    ),
    "reference_labels": Argument("``[references]``.", types.ReferenceLabels | None, convert=as_labels),
    "reference_where": Argument(
        "``[references]`` booleans: False leaves a reference out.", types.RowMask | None, convert=as_array
    ),
    "with_batch": Argument(
        "Whether anchors are compared with their own batch too, which then stands before the references.",
        bool,
        False,
    ),
    "where": Argument(
        "``[batch]`` booleans: False leaves a row out, as anchor and as reference, whatever it holds.",
        types.Mask | None,
        convert=as_array,
    ),
    "match": Argument(
        "``(label, label) -> bool``: who is a positive of whom; equality of labels by default.",
        types.Match | None,
    ),
    "pairs": Argument(
        "`Pairs` or `Triplets`, mined or your own: no other pair counts, and labels are not looked at.",
        types.Pairs | types.Triplets | None,
        convert=as_pairs,
    ),
    "proxies": Argument(
        "``[classes, dim]``, or ``[classes, centers, dim]`` where the loss says so; row c is the class c.",
        types.Proxies,
        _REQUIRED,
        as_array,
    ),
    "proxy_labels": Argument(
        "``[classes]`` integers: the class of every proxy, if that is not its row.",
        types.ProxyLabels | None,
        convert=as_labels,
    ),
    "reduction": Argument(
        '``"mean"`` over terms, ``"mean_active"`` over terms that are not zero, ``"sum"``, or ``"none"``: one value\n'
        "    per anchor, the total of its terms. 0 when there is no term.",
        Reduction,
        "mean",
    ),
    "tile": Argument(
        'How many anchors are compared at a time: memory is O(tile * references). ``"auto"``: by the shapes.',
        int | str,
        "auto",
    ),
    "axis_name": Argument(
        "Inside ``jax.shard_map``, the mesh axis (or axes) over which the batch is spread: anchors meet the\n"
        "    references of all devices, and means are taken over all.",
        types.AxisName,
    ),
    "class_axis": Argument(
        "Inside ``jax.shard_map``, the mesh axis over which the proxies are spread, each device holding as many\n"
        "    classes, in order. It may be that of ``axis_name``.",
        str | None,
    ),
}

_NEVER_NONE = ("embeddings", "x", "y", "proxies")

BATCH = (
    *("embeddings", "labels", "references", "reference_labels", "reference_where", "with_batch"),
    *("where", "match", "pairs", "reduction", "tile", "axis_name"),
)
MINER = tuple(name for name in BATCH if name not in ("pairs", "reduction"))
PROXY = (
    *("embeddings", "labels", "proxies", "proxy_labels", "where", "reduction", "tile", "axis_name"),
    "class_axis",
)
TWO_VIEWS = ("x", "y", "where", "reduction", "tile", "axis_name")
ROWS = ("embeddings", "where", "tile", "axis_name")

_RAISES = """\
Raises:
    TypeError: Embeddings that are not floating, labels that are not integers, masks that are not boolean, a distance
        that is not a `Distance`, an unknown argument.
    ValueError: Shapes that do not match, an empty batch, labels beyond their integer type, a hyperparameter out of its
        range, an unknown reduction or tile.
"""


def publish(
    run: Callable[..., Any],
    documented: Callable[..., Any],
    *,
    shared: Sequence[str],
    measure: str = "",
    default: Distance | None = None,
    static: Sequence[str] = (),
    within: Mapping[str, Limits] | None = None,
    vectors: Sequence[str] = (),
    check: Callable[..., None] | None = None,
) -> Callable[..., Any]:
    """The public, jitted function that calls ``run(**all_arguments)``.

    Args:
        run: What to compute.
        documented: Whose name, docstring and own keyword arguments the public function has.
        shared: Which of the shared arguments it takes: `BATCH`, `MINER`, `PROXY`, `TWO_VIEWS` or `ROWS`.
        measure: What the distance argument is called: ``"distance"`` or ``"similarity"``; empty if there is none.
        default: Its default.
        static: The own arguments that are not arrays: their names, or the one.
        within: The limits of own arguments.
        vectors: The own arguments that may have axes though their default is a number.
        check: A further check, ``check(**all_arguments)``, of what is known before anything is traced.

    Returns:
        The function. Its attribute ``within`` tells the limits to who learns a hyperparameter.
    """
    arguments = {name: _ARGUMENTS[name] for name in shared}
    required = {name: argument for name, argument in arguments.items() if argument.default is _REQUIRED}
    measured = {measure: dataclasses.replace(_ARGUMENTS[measure], default=default)} if measure else {}
    arguments = {**required, **measured, **arguments}
    static = (static,) if isinstance(static, str) else static  # as jax.jit takes it
    signature = _signature(documented, arguments)
    unknown = {*static, *(within or {})} - set(signature.parameters)
    if unknown:
        raise TypeError(f"{documented.__name__} has no argument {', '.join(sorted(unknown))}")
    options = [name for name, argument in arguments.items() if argument.convert is None]
    own = [parameter for name, parameter in signature.parameters.items() if name not in arguments]
    numbers = [parameter.name for parameter in own if parameter.name not in static]

    def computed(**given: Any) -> Any:
        return run(**{**given, **{name: _widened(given[name]) for name in numbers}})

    traced = jax.jit(computed, static_argnames=(*options, *static))

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
        given.update({name: limits.joined(given[name]) for name in vectors})
        limits.check_kinds(documented.__name__, given, own, vectors)
        limits.check(documented.__name__, given, within or {})
        for name in numbers:
            _check_arrays(documented.__name__, name, given[name])
        for name, argument in arguments.items():
            if argument.convert is None or (given[name] is None and name not in _NEVER_NONE):
                continue
            given[name] = argument.convert(given[name], name)
        if "pairs" in given:
            check_pairs(**given)
        if check is not None:
            check(**given)
        for name in (*options, *static):
            _check_hashable(documented.__name__, name, given[name])
        return traced(**given)

    public.__signature__ = signature  # type: ignore[attr-defined]
    public.within = dict(within or {})  # type: ignore[attr-defined]
    public.__doc__ = _docstring(documented, arguments)
    return public


def _widened(x: Any) -> Any:
    """A hyperparameter of half precision in float32, in which its gradient is summed before it is rounded.

    A small or an unsigned integer in int32, in which it can be negated and squared.
    """
    if not isinstance(x, jax.Array):
        return x
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if x.ndim == 0 and jnp.issubdtype(x.dtype, jnp.integer):
        return x.astype(jnp.promote_types(x.dtype, jnp.int32))
    return x


def _check_arrays(owner: str, name: str, value: Any) -> None:
    """Raises a TypeError for what is no array and no pytree of arrays, before jit does, which knows no remedy."""
    for leaf in jax.tree.leaves(value):
        try:
            jax.typeof(leaf)
        except TypeError:
            raise TypeError(
                f"{owner}: {name} must be an array or a number, got {leaf!r}: only what per_anchor is told in static= "
                "may be anything else"
            ) from None


def _check_hashable(owner: str, name: str, value: Any) -> None:
    """Raises a TypeError for what decides the computation and cannot be told from others, before jit does."""
    try:
        hash(value)
    except TypeError:
        if isinstance(value, jax.core.Tracer):
            remedy = "it decides what is compiled, so name it in the static_argnames of your jax.jit"
            raise TypeError(f"{owner}: {name} must be known, got a traced value: {remedy}") from None
        remedy = "a Python number" if isinstance(value, jax.Array | np.ndarray) else "a tuple, not a list"
        raise TypeError(f"{owner}: {name} must be hashable, got {value!r}: pass {remedy}") from None


def _signature(documented: Callable[..., Any], arguments: Mapping[str, Argument]) -> inspect.Signature:
    """``(what is required, *, the function's own, the shared ones)``."""
    own = [p for p in inspect.signature(documented).parameters.values() if p.kind is p.KEYWORD_ONLY]
    taken = [p.name for p in own if p.name in arguments]
    if taken:
        raise TypeError(
            f"{documented.__name__}: every loss has an argument {taken[0]} of its own: give this one another name"
        )
    shared = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY
            if argument.default is not _REQUIRED
            else inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=argument.default,
            annotation=argument.annotation,
        )
        for name, argument in arguments.items()
    ]
    positional = [p for p in shared if p.kind is not p.KEYWORD_ONLY]
    return inspect.Signature([*positional, *own, *shared[len(positional) :]])


def _docstring(documented: Callable[..., Any], arguments: Mapping[str, Argument]) -> str:
    """The function's own docstring, with the shared arguments and errors in their places."""
    shared = "".join(f"    {name}: {_indented(argument.doc)}\n" for name, argument in arguments.items())
    own = inspect.cleandoc(documented.__doc__ or f"{documented.__name__}.")
    own, example, examples = own.partition("\nExample:")
    head, returns, returned = own.partition("\nReturns:")
    args = "" if "\nArgs:" in head else "\n\nArgs:"
    return f"{head.rstrip()}{args}\n{shared}{returns}{returned.rstrip()}\n\n{_RAISES}{example}{examples}"


def _indented(doc: str) -> str:
    return doc.replace("\n", "\n    ")


def _check_options(given: dict[str, Any], measure: str) -> None:
    """Checks what is static: it decides the computation, so it is checked before anything is traced."""
    if measure:
        check_measure(given[measure], measure)
    match = given.get("match")
    if match is not None and not callable(match):
        raise TypeError(f"match must be a function of two labels, got {match!r}")
    if "penalty" in given:
        limits.check_penalty(given["penalty"])
    if not isinstance(given.get("with_batch", False), bool):
        raise TypeError(f"with_batch must be True or False, got {given['with_batch']!r}")
    if "reduction" in given:
        check_reduction(given["reduction"])
