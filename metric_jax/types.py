"""The types of the library's boundary: jaxtyping's shapes are part of the documentation."""

from collections.abc import Callable

from jaxtyping import Array, Bool, Float, Int

Embeddings = Float[Array, "batch dim"]
References = Float[Array, "references dim"]
Labels = Int[Array, "batch"]
ReferenceLabels = Int[Array, "references"]
Mask = Bool[Array, "batch"]
RowMask = Bool[Array, "references"]
Row = Float[Array, "references"]

Match = Callable[[Array, Array], Array]
AxisName = str | tuple[str, ...] | None
