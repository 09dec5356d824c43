"""The types of the library's boundary: jaxtyping's shapes are part of the documentation."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int

Embeddings = Float[Array, "batch dim"]
References = Float[Array, "references dim"]
Proxies = Float[Array, "classes *centers dim"]
Labels = Int[Array, "batch"]
ReferenceLabels = Int[Array, "references"]
ProxyLabels = Int[Array, "classes"]
Mask = Bool[Array, "batch"]
RowMask = Bool[Array, "references"]
Row = Float[Array, "references"]

Match = Callable[[Array, Array], Array]
AxisName = str | tuple[str, ...] | None


class Pairs(NamedTuple):
    """Indices of pairs; all four arrays have one shape. Where ``valid`` is False the others mean nothing.

    Pairs come as one list ``[pairs]``, in any order, or as ``[batch, slots]`` with those of anchor i in row i, as a
    miner returns them: a loss then looks through the slots of an anchor, and not through the whole list for each. A
    pair that is there twice counts once, and one that is there as a positive and as a negative is refused, or where it
    is not known before it is traced, is a positive.

    Attributes:
        anchor: Index into the batch.
        reference: Index into the references: the batch itself, unless others were given.
        is_positive: Whether the two belong together.
        valid: Whether there is such a pair.
    """

    anchor: Int[Array, "*pairs"]
    reference: Int[Array, "*pairs"]
    is_positive: Bool[Array, "*pairs"]
    valid: Bool[Array, "*pairs"]


class Triplets(NamedTuple):
    """Indices of triplets; all four arrays have one shape. Where ``valid`` is False the indices are 0.

    Like `Pairs`, one list, or ``[batch, slots]`` with those of anchor i in row i.

    Attributes:
        anchor: Index into the batch.
        positive: Index into the references: the batch itself, unless others were given.
        negative: Index into the references.
        valid: Whether the anchor has such a triplet.
    """

    anchor: Int[Array, "*triplets"]
    positive: Int[Array, "*triplets"]
    negative: Int[Array, "*triplets"]
    valid: Bool[Array, "*triplets"]
