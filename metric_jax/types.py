"""The array types of the library's boundary, as jaxtyping annotations: shapes are part of the documentation."""

from jaxtyping import Array, Bool, Float, Int

Embeddings = Float[Array, "batch dim"]
References = Float[Array, "references dim"]
Labels = Int[Array, "batch"]
Mask = Bool[Array, "batch"]

Row = Float[Array, "references"]
RowMask = Bool[Array, "references"]
PairMatrix = Float[Array, "batch references"]

Scalar = Float[Array, ""]
