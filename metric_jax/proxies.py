"""Losses that compare a batch with proxies: one learned row, or a few, for each class.

Most of them are a softmax over classes, and differ only in how the similarities of one row become logits. So that is
all one writes: `softmax_head` turns such a formula into a loss. It asks of a row two numbers, the log-sum-exp of the
logits of its own class and that of all others. Two such numbers from different classes add up exactly, and that is what
lets a million classes be spread over devices (`class_axis`): each device looks at its own classes only, and what the
devices exchange is two numbers a row, never a logit.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import checkify
from jaxtyping import Array

from metric_jax.anchors import Batch
from metric_jax.collectives import axes_of, devices_of, gathered, log_sum_exp_over, sum_over
from metric_jax.distances import Distance, as_rows, check_same_dim, cosine_similarity
from metric_jax.interface import PROXY, publish
from metric_jax.limits import Limits
from metric_jax.pairs import compare, outside
from metric_jax.reductions import Parts, Reduction, Terms, reduce, terms
from metric_jax.sums import log_sum_exp
from metric_jax.types import AxisName


@dataclasses.dataclass(frozen=True)
class ProxyBatch(Batch):
    """A batch whose references are proxies, those of this device if ``class_axis`` spreads them.

    Attributes:
        class_shape: ``(classes,)``, or ``(classes, centers)``: what a row of the references is the flat form of.
        class_axis: The mesh axis over which classes are spread.
    """

    class_shape: tuple[int, ...] = ()
    class_axis: str | None = None

    @property
    def proxies(self) -> Array:
        """``[classes, dim]`` or ``[classes, centers, dim]``."""
        references = self.comparison.references
        return references.reshape(*self.class_shape, references.shape[-1])

    @property
    def proxy_labels(self) -> Array:
        """``[classes]``."""
        return self.comparison.reference_labels.reshape(self.class_shape[0], -1)[:, 0]

    def over_rows(self, fn: Callable[..., Any], *of_rows: Any) -> Any:
        """Calls ``fn(similarities [*class_shape], is_own [classes], *of_row)`` on every row and stacks the results.

        ``is_own`` tells which classes are the row's own; none is, if the row is left out. Where ``class_axis`` spreads
        the batch as well as the classes, these are the rows of all its devices, and what fn finds in the classes of
        this one: `merged` then makes it one result for each row of this device.
        """

        def one_row(similarities: Array, positives: Array, negatives: Array, *of_row: Any) -> Any:
            del negatives
            is_own = positives.reshape(self.class_shape[0], -1)[:, 0]
            return fn(similarities.reshape(self.class_shape), is_own, *of_row)

        compared = self.comparison
        names = ("anchors", "labels", "where", "position")
        mine, of_rows = self.gathered(({name: getattr(compared, name) for name in names}, of_rows))
        batch = Batch(compared._replace(**mine), self.distance, tile=self.tile)
        return batch.over_anchors(one_row, *of_rows)

    def gathered(self, of_rows: Any) -> Any:
        """Arrays ``[batch, ...]`` of the rows that meet this device's classes."""
        if self.class_axis not in axes_of(self.axis_name):
            return of_rows
        return gathered(of_rows, self.class_axis)

    def merged(self, over_classes: Callable[[Array, str], Array], of_rows: Any) -> Any:
        """What each device found in its classes, joined by ``over_classes(array, axis)``, of the device's own rows."""
        axis, count = self.class_axis, len(self.comparison.anchors)
        if axis is None:
            return of_rows
        of_rows = jax.tree.map(lambda x: over_classes(x, axis), of_rows)
        if axis not in axes_of(self.axis_name):
            return of_rows
        start = lax.axis_index(axis) * count
        return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, count), of_rows)

    def cross_entropy(
        self,
        logits_of: Callable[..., Array],
        *of_rows: Any,
        own_in_denominator: bool = True,
        plus: float | Array = 0.0,
    ) -> Terms:
        """The terms ``-log(Σ_own exp(logit) / Σ_all exp(logit)) + plus`` of every row that has a class of its own.

        Args:
            logits_of: ``(similarities, is_own, *of_row) -> logits [classes]``, as in `over_rows`.
            *of_rows: Pytrees of arrays ``[batch, ...]``.
            own_in_denominator: Without it, the row's own classes are left out of Σ_all.
            plus: What is added to every term.

        Returns:
            Terms, ``[batch]``.
        """

        def one_row(similarities: Array, is_own: Array, *of_row: Any) -> tuple[Array, Array]:
            logits = logits_of(similarities, is_own, *of_row)
            chex.assert_shape(
                logits,
                is_own.shape,
                custom_message="a head must return one logit for each class",
                exception_type=ValueError,
            )
            return log_sum_exp(logits, is_own), log_sum_exp(logits, ~is_own)

        own, others = self.merged(log_sum_exp_over, self.over_rows(one_row, *of_rows))
        has_own, has_others = own != -jnp.inf, others != -jnp.inf  # a NaN has
        both = has_own & has_others
        gap = jnp.where(both, others, 0.0) - jnp.where(both, own, 0.0)
        # -log(own / (own + others)), in the form that keeps its digits when it is small.
        values = jnp.where(both, jax.nn.softplus(gap) if own_in_denominator else gap, 0.0)
        return jax.vmap(terms)(values + plus, has_own if own_in_denominator else both)

    def class_terms(self, terms_of: Callable[..., Terms], *of_rows: Any) -> Terms:
        """The sum of the terms that ``terms_of(similarities, is_own, *of_row)`` finds in all classes.

        A row that has no class of its own has no terms.
        """

        def one_row(similarities: Array, is_own: Array, *of_row: Any) -> tuple[Terms, Array]:
            return terms_of(similarities, is_own, *of_row), is_own.sum()

        found, own = self.merged(lax.psum, self.over_rows(one_row, *of_rows))
        return Terms(*(jnp.where(own > 0, leaf, 0.0) for leaf in found))

    def sum_over_classes(self, values: Array) -> Array:
        """The sum of an array over the devices that hold other classes."""
        return sum_over(values, self.class_axis)

    def over_proxies(self, fn: Callable[..., Parts]) -> Parts:
        """The terms of every proxy of this device: ``fn(similarities, positives, negatives)`` of it and the batch.

        The batch is gathered over ``axis_name``, each device of which computes its share of the proxies.
        """
        compared = self.comparison
        count = len(compared.references)
        axes = tuple(axis for axis in axes_of(self.axis_name) if axis != self.class_axis)
        share = -(-count // lax.axis_size(axes)) if axes else count
        index = jnp.arange(share) + (lax.axis_index(axes) * share if axes else 0)
        kept = jnp.minimum(index, count - 1)
        reverse = compare(
            compared.references[kept],
            compared.reference_labels[kept],
            references=compared.anchors,
            reference_labels=compared.labels,
            reference_where=compared.where,
            where=index < count,
            axis_name=self.axis_name,
        )
        found = Batch(reverse, self.distance, tile=self.tile).over_anchors(fn)
        if not axes:
            return found
        none = jnp.zeros(count)
        return jax.tree.map(
            lambda x: lax.psum(none.astype(x.dtype).at[index].set(x, mode="drop"), axes), found
        )


def softmax_head(
    logits_of: Callable[..., Array] | None = None,
    *,
    similarity: Distance = cosine_similarity,
    centers: bool = False,
    own_in_denominator: bool = True,
    angular: bool = False,
    static: Sequence[str] = (),
    within: Mapping[str, Limits] | None = None,
) -> Callable[..., Any]:
    """Turns the logits of one row into a softmax loss over classes.

    The decorated function takes one row's ``similarities [classes]`` (``[classes, centers]`` with ``centers``),
    ``is_own [classes]``, which of the classes are the row's own, and its own keyword arguments, and returns logits
    ``[classes]``. The loss of a row is ``-log(Σ_own exp(logit) / Σ_all exp(logit))``, and takes ``(embeddings, labels,
    proxies)`` and, beside those keywords, ``similarity``, ``proxy_labels``, ``where``, ``reduction``, ``tile``,
    ``axis_name`` and ``class_axis``. Its terms are the rows whose label has a proxy.

    Args:
        logits_of: The formula, when used as a bare decorator.
        similarity: The default similarity.
        centers: Whether a class has several proxies: they are then ``[classes, centers, dim]``.
        own_in_denominator: Whether Σ_all holds the row's own class.
        angular: Whether the formula needs a cosine, and no other similarity will do.
        static: Names of own arguments that are not arrays (functions, strings).
        within: Own arguments, by name, that must lie within `Limits`.

    Returns:
        The loss, jitted.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> @mj.softmax_head(similarity=mj.dot_product)
        ... def biased_softmax_loss(similarities, is_own, *, bias):
        ...     return similarities + bias
        >>> proxies, bias = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([0.0, 5.0])
        >>> biased_softmax_loss(jnp.array([[7.0, 2.0]]), jnp.array([1]), proxies, bias=bias)
        Array(0.6931472, dtype=float32)
    """
    if logits_of is None:
        return functools.partial(
            softmax_head,
            similarity=similarity,
            centers=centers,
            own_in_denominator=own_in_denominator,
            angular=angular,
            static=static,
            within=within,
        )

    def body(batch: ProxyBatch, **own: Any) -> Terms:
        return batch.cross_entropy(functools.partial(logits_of, **own), own_in_denominator=own_in_denominator)

    functools.update_wrapper(body, logits_of)
    return proxy_loss(
        body, similarity=similarity, centers=centers, angular=angular, static=static, within=within
    )


def proxy_loss(
    body: Callable[..., Parts] | None = None,
    *,
    distance: Distance | None = None,
    similarity: Distance | None = None,
    centers: bool = False,
    angular: bool = False,
    of_proxies: bool = False,
    static: Sequence[str] = (),
    within: Mapping[str, Limits] | None = None,
) -> Callable[..., Any]:
    """Like `softmax_head`, for any loss of a batch and proxies: ``body(batch, *, own)`` gives terms ``[batch]``.

    With ``of_proxies`` it gives the terms of every proxy of the device, as `ProxyBatch.over_proxies` does. The loss's
    attribute ``centers`` tells to who makes proxies whether a class has several.
    """
    if body is None:
        return functools.partial(
            proxy_loss,
            distance=distance,
            similarity=similarity,
            centers=centers,
            angular=angular,
            of_proxies=of_proxies,
            static=static,
            within=within,
        )
    measure = "distance" if similarity is None else "similarity"
    default = similarity or distance
    assert default is not None, "a proxy loss has a default distance or a default similarity"
    name = body.__name__

    def run(*, reduction: Reduction, axis_name: AxisName, **given: Any) -> Array:
        chosen = given.pop(measure)
        if angular and chosen.name != cosine_similarity.name:
            raise ValueError(
                f"{name} works on angles: similarity must be mj.cosine_similarity, got {chosen!r}"
            )
        batch, own = _proxy_batch(chosen, centers, axis_name=axis_name, **given)
        return reduce(body(batch, **own), reduction, batch.class_axis if of_proxies else axis_name)

    def check(
        *, labels: Array | None, proxies: Array, proxy_labels: Array | None, where: Array | None, **rest: Any
    ) -> None:
        if labels is None:
            raise TypeError(
                f"{name}: labels must be an array of integers, got None: pass the class of every row"
            )
        if proxy_labels is None and proxies.ndim == 2 + centers:
            check_classes(name, labels, len(proxies) * devices_of(rest["class_axis"]), where)

    public = publish(
        run,
        body,
        shared=PROXY,
        measure=measure,
        default=default,
        static=static,
        within=within,
        check=check,
    )
    public.centers = centers  # type: ignore[attr-defined]
    return public


def check_classes(owner: str, labels: Array | None, classes: int, where: Array | None) -> None:
    """Raises unless every label is the number of a class. A traced one is checked through checkify, as limits are.

    Whatever else is wrong is left to the checks of types and shapes.
    """
    if labels is None or not jnp.issubdtype(labels.dtype, jnp.integer):
        return
    where = jnp.ones(labels.shape, bool) if where is None else where
    if where.shape != labels.shape:
        return
    message = f"{owner}: labels must be in [0, {classes}), one for each proxy, or pass proxy_labels"
    if isinstance(labels, jax.core.Tracer) or isinstance(where, jax.core.Tracer):
        checkify.debug_check(~(where & ((labels < 0) | (labels >= classes))).any(), message)
    elif found := outside(labels, where.astype(bool), classes).tolist():
        raise ValueError(f"{message}; got {found[0]}")


def _proxy_batch(
    measure: Distance,
    centers: bool,
    *,
    embeddings: Array,
    labels: Array,
    proxies: Array,
    proxy_labels: Array | None,
    where: Array | None,
    tile: int | str,
    axis_name: AxisName,
    class_axis: str | None,
    **own: Any,
) -> tuple[ProxyBatch, dict[str, Any]]:
    """The batch that the arguments of a public function describe, and the function's own arguments."""
    rows, proxies = as_rows(embeddings, "embeddings"), as_rows(proxies, "proxies")
    shape = "[classes, centers, dim]" if centers else "[classes, dim]"
    if proxies.ndim != 2 + centers or 0 in proxies.shape:
        raise ValueError(f"proxies must be {shape}, got shape {proxies.shape}")
    check_same_dim(rows, proxies, "embeddings", "proxies")
    class_shape, dtype = proxies.shape[:-1], jnp.promote_types(rows.dtype, proxies.dtype)
    if proxy_labels is None:
        proxy_labels = jnp.arange(len(proxies), dtype=label_type(labels))
        if class_axis is not None:
            proxy_labels += (lax.axis_index(class_axis) * len(proxies)).astype(proxy_labels.dtype)
    if not jnp.issubdtype(proxy_labels.dtype, jnp.integer):
        raise TypeError(f"proxy_labels must be integers, got {proxy_labels.dtype}")
    if len({jnp.issubdtype(x.dtype, jnp.unsignedinteger) for x in (labels, proxy_labels)}) == 2:
        raise TypeError(
            f"labels are {labels.dtype} and proxy_labels {proxy_labels.dtype}: make them one type, or a negative class "
            "and a large one may become equal"
        )
    if proxy_labels.shape != class_shape[:1]:
        raise ValueError(
            f"proxy_labels has shape {proxy_labels.shape} for {len(proxies)} classes: one label each"
        )
    comparison = compare(
        rows.astype(dtype),
        labels,
        references=proxies.reshape(-1, proxies.shape[-1]).astype(dtype),
        reference_labels=jnp.repeat(proxy_labels, np.prod(class_shape[1:], dtype=int)),
        where=where,
    )
    batch = ProxyBatch(
        comparison, measure, tile=tile, axis_name=axis_name, class_shape=class_shape, class_axis=class_axis
    )
    return batch, own


def label_type(labels: Array) -> Any:
    """Integers of 32 bits at least, signed if the labels are: small ones may not number all classes."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        return jnp.int32
    is_unsigned = jnp.issubdtype(labels.dtype, jnp.unsignedinteger)
    return jnp.promote_types(labels.dtype, jnp.uint32 if is_unsigned else jnp.int32)
