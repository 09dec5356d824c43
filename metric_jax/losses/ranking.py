"""Ranking losses: average precision and recall, made smooth.

Retrieval is judged by ranks: how many references stand before a positive in the list sorted by similarity. A rank is a
sum of steps, one for each reference that may or may not stand before,

    R(a, p) = 1 + Σ_{k ≠ p} [s(a, k) > s(a, p)]

and a step has no slope. So each is replaced by a sigmoid ``σ((s(a, k) - s(a, p)) / τ)``, and what is judged by ranks,
average precision or recall at k, can be trained. The smaller τ, the closer to the true rank, and the fewer references
have a gradient. FastAP does without: it sorts distances into a histogram, whose bins overlap smoothly.

An anchor is no part of its own ranking. Each positive's rank takes a pass over the row, so that time is
O(batch² * positives of an anchor), and memory that of the row alone. The losses by ranks have first derivatives, in
reverse mode, and no others.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from metric_jax.anchors import per_anchor
from metric_jax.distances import cosine, cosine_similarity
from metric_jax.limits import POSITIVE, check_count
from metric_jax.reductions import Terms, terms
from metric_jax.sums import sum_where


@per_anchor(distance=cosine, static=("bins",), within={"largest": POSITIVE})
def fastap_loss(
    distances: Array, positives: Array, negatives: Array, *, bins: int = 10, largest: float | Array = 2.0
) -> Terms:
    """FastAP: one minus the average precision of a histogram of distances.

    ``L(a) = 1 - 1/|P| Σ_l h⁺_l H⁺_l / H_l`` with the number ``h_l`` of references in bin l, those up to it
    ``H_l = h_1 + … + h_l``, and ⁺ for the positives among them; its terms are the anchors that have a positive. There
    are ``bins + 1`` centers, from 0 to the largest distance, and a distance between two of them counts for both, in
    proportion to how near it is.

    Args:
        bins: By how many steps of distance the ranking is told; an integer.
        largest: The distance of the last center; what lies beyond counts as that far. 2 is the largest cosine distance,
            which is half the squared distance of unit rows that the paper sorts: both make one histogram.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> mj.fastap_loss(embeddings, jnp.array([0, 0, 1]), bins=2, reduction="none")
        Array([0.5, 0.5, 0. ], dtype=float32)

    References:
        Cakir, He, Xia, Kulis, Sclaroff (2019), Deep Metric Learning to Rank.
        https://openaccess.thecvf.com/content_CVPR_2019/html/Cakir_Deep_Metric_Learning_to_Rank_CVPR_2019_paper.html
    """
    check_count("fastap_loss", "bins", bins)
    steps = jnp.clip(distances * (bins / largest), 0.0, bins)

    def counts(center: Array) -> tuple[Array, Array]:
        membership = jax.nn.relu(1.0 - jnp.abs(steps - center))
        return jnp.sum(membership, where=positives), jnp.sum(membership, where=negatives)

    # One bin at a time, computed again in the backward pass: a row of memberships for each would be kept otherwise.
    centers = jnp.arange(bins + 1, dtype=steps.dtype)
    of_positives, of_negatives = lax.map(jax.checkpoint(counts, prevent_cse=False), centers)
    so_far = jnp.cumsum(of_positives + of_negatives)
    is_empty = so_far == 0.0
    # As H⁻ / H, not 1 - H⁺ / H: a loss near 0 keeps its digits.
    wrong = jnp.where(is_empty, 0.0, jnp.cumsum(of_negatives) / jnp.where(is_empty, 1.0, so_far))
    number = jnp.sum(positives)
    return terms(jnp.sum(of_positives * wrong) / jnp.maximum(number, 1), where=number > 0)


@per_anchor(similarity=cosine_similarity, within={"temperature": POSITIVE})
def smooth_ap_loss(
    similarities: Array, positives: Array, negatives: Array, *, temperature: float | Array = 0.01
) -> Terms:
    """Smooth-AP: one minus the average precision, with sigmoids for the steps of its ranks.

    ``L(a) = 1 - 1/|P| Σ_p R⁺(p) / R(p)`` with the rank ``R(p) = 1 + Σ_{k ≠ p} σ((s(a, k) - s(a, p)) / τ)`` of p among
    all and its rank ``R⁺`` among the positives; its terms are the anchors that have a positive. Classes may be of any
    sizes. (PML 2.9.0 counts the anchor as its own first hit, and mixes up classes and samples unless there are as many
    of the one as of the other.)

    Args:
        temperature: τ, in units of the similarity.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        The positive of anchor 0 ties with two negatives: it has rank 2.

        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
        >>> mj.smooth_ap_loss(embeddings, jnp.array([0, 0, 1, 2]), reduction="none")[0]
        Array(0.5, dtype=float32)

    References:
        Brown, Xie, Kalogeiton, Zisserman (2020), Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval.
        https://arxiv.org/abs/2007.12163
    """

    def wrong(positive: Array) -> Array:
        before = _before(positive, similarities, temperature)
        rank_among_positives = 1.0 + jnp.sum(before, where=_without(positives, positive))
        misplaced = jnp.sum(before, where=negatives)
        return misplaced / (rank_among_positives + misplaced)  # 1 - R⁺ / R, with its digits near 0

    total = sum_where(positives, wrong)
    number = jnp.sum(positives)
    return terms(total / jnp.maximum(number, 1), where=number > 0)


@per_anchor(
    similarity=cosine_similarity,
    static=("ks",),
    within={"rank_temperature": POSITIVE, "similarity_temperature": POSITIVE},
)
def recall_at_k_loss(
    similarities: Array,
    positives: Array,
    negatives: Array,
    *,
    ks: tuple[int, ...] = (1, 2, 4, 8, 16),
    rank_temperature: float | Array = 1.0,
    similarity_temperature: float | Array = 0.01,
) -> Terms:
    """Recall@k surrogate: one minus the recall at k, with sigmoids for its steps, averaged over several k.

    ``L(a) = 1 - 1/|K| Σ_k 1/min(k, |P|) Σ_p σ((k - R(p)) / τ₁)`` with the rank
    ``R(p) = 1 + Σ_{j ≠ p} σ((s(a, j) - s(a, p)) / τ₂)`` of p among all; its terms are the anchors that have a positive.
    Of more positives than k only k can be found: hence the minimum, which the authors' code has too.

    Args:
        ks: Lengths of the lists that positives should be in; a tuple of integers.
        rank_temperature: τ₁, in ranks.
        similarity_temperature: τ₂, in units of the similarity.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> mj.recall_at_k_loss(embeddings, jnp.array([0, 0, 1]), ks=(1,), reduction="none")
        Array([0.5, 0.5, 0. ], dtype=float32)

    References:
        Patel, Tolias, Matas (2022), Recall@k Surrogate Loss with Large Batches and Similarity Mixup.
        https://arxiv.org/abs/2108.11179
    """
    if not isinstance(ks, tuple) or not ks:
        raise ValueError(f"recall_at_k_loss: ks must be a tuple of positive integers, got {ks!r}")
    for k in ks:
        check_count("recall_at_k_loss", "ks", k)

    def recall(positive: Array) -> Array:
        before = _before(positive, similarities, similarity_temperature)
        rank = 1.0 + jnp.sum(before, where=_without(positives | negatives, positive))
        found = [jax.nn.sigmoid((k - rank) / rank_temperature) / jnp.minimum(k, number) for k in ks]
        return sum(found[1:], found[0]) / len(ks)

    number = jnp.sum(positives)
    return terms(1.0 - sum_where(positives, recall), where=number > 0)


# How PNP's variants charge a positive with R negatives before it: (R, alpha, b) -> cost.
_PNP: dict[str, Callable[[Array, float | Array, float | Array], Array]] = {
    "O": lambda R, alpha, b: R,
    "Iu": lambda R, alpha, b: (1.0 + R) * jnp.log1p(R),
    "Ib": lambda R, alpha, b: (b * R - jnp.log1p(b * R)) / b**2,
    "Ds": lambda R, alpha, b: jnp.log1p(R),
    "Dq": lambda R, alpha, b: -jnp.expm1(-alpha * jnp.log1p(R)),
}


@per_anchor(
    similarity=cosine_similarity,
    static=("variant",),
    within={"temperature": POSITIVE, "alpha": POSITIVE, "b": POSITIVE},
)
def pnp_loss(
    similarities: Array,
    positives: Array,
    negatives: Array,
    *,
    variant: str = "Dq",
    temperature: float | Array = 0.01,
    alpha: float | Array = 1.0,
    b: float | Array = 2.0,
) -> Terms:
    """PNP: penalises negatives before positives, and leaves the order among positives alone.

    ``L(a) = 1/|P| Σ_p f(R(p))`` with the number ``R(p) = Σ_n σ((s(a, n) - s(a, p)) / τ)`` of negatives before p; its
    terms are the anchors that have a positive. The variants differ in the slope of f, which says which positives to
    work on:

    *   ``"O"``: ``R``, all alike;
    *   ``"Iu"``: ``(1 + R) log(1 + R)``, and ``"Ib"``: ``(b R - log(1 + b R)) / b²``, slopes that increase with R,
        without and with a bound: the hopeless ones first;
    *   ``"Ds"``: ``log(1 + R)``, and ``"Dq"``: ``1 - (1 + R)^-α``, slopes that decrease, the latter quickly: those
        nearly in place first, which the paper found best.

    Args:
        variant: Which f: ``"O"``, ``"Iu"``, ``"Ib"``, ``"Ds"`` or ``"Dq"``.
        temperature: τ, in units of the similarity.
        alpha: α of ``"Dq"``: how quickly positives far behind are given up.
        b: b of ``"Ib"``: how quickly the slope reaches its bound.

    Returns:
        The loss: a scalar, or ``[batch]`` with ``reduction="none"``.

    Example:
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> embeddings = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> mj.pnp_loss(embeddings, jnp.array([0, 0, 1]), variant="O", reduction="none")
        Array([0.5, 1. , 0. ], dtype=float32)

    References:
        Li, Min, Song, Zhu, Kang, Wei, Wei, Jiang (2022), Rethinking the Optimization of Average Precision: Only
        Penalizing Negative Instances before Positive Ones is Enough. https://arxiv.org/abs/2102.04640
    """
    if variant not in _PNP:
        raise ValueError(f"variant must be one of {', '.join(_PNP)}, got {variant!r}")

    def cost(positive: Array) -> Array:
        before = _before(positive, similarities, temperature)
        return _PNP[variant](jnp.sum(before, where=negatives), alpha, b)

    total = sum_where(positives, cost)
    number = jnp.sum(positives)
    return terms(total / jnp.maximum(number, 1), where=number > 0)


def _before(positive: Array, similarities: Array, temperature: float | Array) -> Array:
    """``[references]``: to what degree each stands before the positive in the ranking; one half at a tie."""
    return jax.nn.sigmoid((similarities - similarities[positive]) / temperature)


def _without(mask: Array, index: Array) -> Array:
    """The mask with False at the index."""
    return mask & (jnp.arange(len(mask)) != index)
