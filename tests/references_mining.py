"""Mining by loops over lists: what `references` has for batch-hard and semi-hard triplets, for all other miners.

Triplets are ``(positive, negative, valid)`` and pairs ``(reference, is_positive, valid)``, each ``[n, slots]``. A miner
that draws is told its random numbers: ``noise(key, ...)`` gives one for each reference.
"""

import math

import numpy as np
import references
from references import anchors


def columns(rows, slots):
    """Lists of each anchor's tuples as arrays ``[n, slots]``, filled up with zeros."""
    filled = [(row + [(0, 0, False)] * slots)[:slots] for row in rows]
    return tuple(np.array([[slot[part] for slot in row] for row in filled]) for part in range(3))


def count_of(embeddings, pairs):
    return len(embeddings if pairs.get("references") is None else pairs["references"])


def in_range(candidates, d, hardest_first, bounds, ranks):
    """The candidates in a range of distances, and of these those whose rank from the hardest is in a range."""
    near = [j for j in candidates if bounds[0] <= d[j] <= bounds[1]]
    ranked = sorted(near, key=lambda j: (hardest_first * d[j], j))
    return ranked[ranks[0] : ranks[1]]


def nearest(candidates, d):
    return min(candidates, key=lambda j: (d[j], j), default=None)


def farthest(candidates, d):
    return min(candidates, key=lambda j: (-d[j], j), default=None)


def batch_easy_hard(
    embeddings,
    labels,
    *,
    positive="easy",
    negative="semi_hard",
    positive_range=(-math.inf, math.inf),
    negative_range=(-math.inf, math.inf),
    positive_ranks=(0, None),
    negative_ranks=(0, None),
    **pairs,
):
    """Xuan, Stylianou, Pless (2020), with PML's rules for what is semi-hard: one triplet an anchor, no slots."""
    mined = []
    for d, positives, negatives, *_ in anchors(embeddings, labels, **pairs):
        ps = in_range(np.flatnonzero(positives), d, -1, positive_range, positive_ranks)
        ns = in_range(np.flatnonzero(negatives), d, 1, negative_range, negative_ranks)
        p = nearest(ps, d) if positive == "easy" else farthest(ps, d)
        n = farthest(ns, d) if negative == "easy" else nearest(ns, d)
        if positive == "semi_hard" and n is not None:
            p = farthest([j for j in ps if d[j] < d[n]], d)
        if negative == "semi_hard" and p is not None:
            n = nearest([j for j in ns if d[j] > d[p]], d)
        mined.append((0, 0, False) if p is None or n is None else (p, n, True))
    return tuple(np.array(column) for column in zip(*mined, strict=True))


def triplet_margin(embeddings, labels, *, margin=0.2, kind="all", max_triplets=64, **pairs):
    """All triplets that violate the margin, or keep it, by how much."""
    mined = []
    for d, positives, negatives, *_ in anchors(embeddings, labels, **pairs):
        row = []
        for p in np.flatnonzero(positives):
            for n in np.flatnonzero(negatives):
                gap = d[n] - d[p]
                is_kind = {
                    "all": gap <= margin,
                    "hard": gap <= margin and gap <= 0,
                    "semi_hard": 0 < gap <= margin,
                    "easy": gap > margin,
                }
                if is_kind[kind]:
                    row.append((gap, p, n))
        mined.append([(p, n, True) for _, p, n in sorted(row)])
    return columns(mined, max_triplets or (count_of(embeddings, pairs) ** 2) // 4)


def angular(embeddings, labels, *, angle=math.pi / 9, max_triplets=64, distance=None, **pairs):
    """Wang et al. (2017): triplets by the angle at the negative, from the three points themselves."""
    mined = []
    for anchor in anchors(embeddings, labels, **pairs):
        scale = normalised if distance is references.cosine else np.asarray
        a, others = scale(anchor.row), [scale(row) for row in anchor.references]
        row = []
        for p in np.flatnonzero(anchor.positives):
            for n in np.flatnonzero(anchor.negatives):
                middle = (a + others[p]) / 2
                found = math.atan2(np.linalg.norm(a - others[p]), 2 * np.linalg.norm(others[n] - middle))
                if found > angle:
                    row.append((-found, p, n))
        mined.append([(p, n, True) for _, p, n in sorted(row)])
    return columns(mined, max_triplets or (count_of(embeddings, pairs) ** 2) // 4)


def normalised(row):
    length = np.linalg.norm(row)
    return row / length if length else row


def pair_slots(positives, negatives, max_positives, max_negatives, count):
    """Two lists of ``(hardness, index)`` as slots: all at their own places, or as many as are wanted, hardest first."""
    row = []
    for found, wanted, is_positive in (
        (positives, max_positives, True),
        (negatives, max_negatives, False),
    ):
        if wanted is None:
            kept = {j for _, j in found}
            row += [(j, is_positive, True) if j in kept else (0, False, False) for j in range(count)]
        else:
            best = [(j, is_positive, True) for _, j in sorted(found, key=lambda f: (-f[0], f[1]))]
            slots = min(wanted, count)
            row += (best + [(0, False, False)] * slots)[:slots]
    return row


def pair_margin(
    embeddings,
    labels,
    *,
    positive_margin=0.2,
    negative_margin=0.8,
    max_positives=None,
    max_negatives=None,
    **pairs,
):
    """Positives beyond a margin and negatives within another."""
    mined, count = [], count_of(embeddings, pairs)
    for d, positives, negatives, *_ in anchors(embeddings, labels, **pairs):
        far = [(d[p], p) for p in np.flatnonzero(positives) if d[p] > positive_margin]
        near = [(-d[n], n) for n in np.flatnonzero(negatives) if d[n] < negative_margin]
        mined.append(pair_slots(far, near, max_positives, max_negatives, count))
    return columns(mined, len(mined[0]))


def multi_similarity(embeddings, labels, *, epsilon=0.1, max_positives=None, max_negatives=None, **pairs):
    """Wang et al. (2019), equations 6 and 7: each pair beside the hardest of the other kind."""
    mined, count = [], count_of(embeddings, pairs)
    for d, positives, negatives, *_ in anchors(embeddings, labels, **pairs):
        hard_ps, hard_ns = [], []
        if positives.any() and negatives.any():
            ps, ns = np.flatnonzero(positives), np.flatnonzero(negatives)
            hard_ps = [(d[p], p) for p in ps if d[p] > min(d[ns]) - epsilon]
            hard_ns = [(-d[n], n) for n in ns if d[n] < max(d[ps]) + epsilon]
        mined.append(pair_slots(hard_ps, hard_ns, max_positives, max_negatives, count))
    return columns(mined, len(mined[0]))


def distance_weighted(
    embeddings,
    labels,
    *,
    noise,
    key,
    cutoff=0.5,
    nonzero_loss_cutoff=1.4,
    max_positives=None,
    distance=None,
    **pairs,
):
    """Wu et al. (2017), section 4: each negative with the inverse of the density of its distance."""
    mined, count = [], count_of(embeddings, pairs)
    for i, anchor in enumerate(anchors(embeddings, labels, **pairs)):
        scale = normalised if distance is references.cosine else np.asarray
        a, others = scale(anchor.row), [scale(row) for row in anchor.references]
        row, n = [], len(a)
        for p in np.flatnonzero(anchor.positives):
            draw = []
            for j in np.flatnonzero(anchor.negatives):
                d = np.linalg.norm(a - others[j])
                if d < nonzero_loss_cutoff:
                    d = max(d, cutoff)
                    density = d ** (n - 2) * max(1 - d**2 / 4, 2e-16) ** ((n - 3) / 2)
                    draw.append((math.log(1 / density) + noise(key, i, p, count)[j], j))
            if draw:
                row.append((p, max(draw)[1], True))
            else:
                row.append((0, 0, False))
        mined.append(row)
    return columns(mined, min(max_positives or count, count))


def uniform_histogram(
    embeddings, labels, *, noise, key, bins=10, positives_per_bin=1, negatives_per_bin=1, **pairs
):
    """Of each bin of an anchor's distances those references whose random number is the lowest."""
    mined, count = [], count_of(embeddings, pairs)
    for i, (d, positives, negatives, *_) in enumerate(anchors(embeddings, labels, **pairs)):
        order, row = noise(key, i, count), []
        for mask, wanted, is_positive in (
            (positives, positives_per_bin, True),
            (negatives, negatives_per_bin, False),
        ):
            of_bin = [[] for _ in range(bins)]
            for j in np.flatnonzero(mask):
                least, most = min(d[mask]), max(d[mask])
                place = int((d[j] - least) * bins / (most - least)) if most > least else 0
                of_bin[min(place, bins - 1)].append((order[j], j))
            for inside in of_bin:
                drawn = [(j, is_positive, True) for _, j in sorted(inside)]
                slots = min(wanted, count)
                row += (drawn + [(0, False, False)] * slots)[:slots]
        mined.append(row)
    return columns(mined, len(mined[0]))
