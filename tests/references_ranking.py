"""The formulas of the ranking losses: float64 loops, no jax. See `references`."""

import math

import numpy as np


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def before(similarities, among, index, temperature):
    """The smooth number of references, of those in ``among`` and without the one at ``index``, that rank before it."""
    others = [k for k in np.flatnonzero(among) if k != index]
    return sum(sigmoid((similarities[k] - similarities[index]) / temperature) for k in others)


def fastap(distances, positives, negatives, bins=10, largest=2.0):
    """Cakir et al. (2019): average precision of a histogram with triangular bins."""
    if not positives.any():
        return []
    if not negatives.any():
        return [0.0]  # all that is found is relevant; below, up to rounding
    width = largest / bins
    centers = [width * l for l in range(bins + 1)]

    def histogram(values):
        return [
            sum(max(0.0, 1 - abs(min(d, largest) - center) / width) for d in values) for center in centers
        ]

    h_positive, h_negative = histogram(distances[positives]), histogram(distances[negatives])
    total = 0.0
    for l in range(bins + 1):
        H_positive, H = sum(h_positive[: l + 1]), sum(h_positive[: l + 1]) + sum(h_negative[: l + 1])
        if h_positive[l] > 0:
            total += h_positive[l] * H_positive / H
    return [1 - total / positives.sum()]


def smooth_ap(similarities, positives, negatives, temperature=0.01):
    """Brown et al. (2020): ranks by sigmoids, among positives over among all."""
    if not positives.any():
        return []
    precisions = []
    for p in np.flatnonzero(positives):
        rank_among_positives = 1 + before(similarities, positives, p, temperature)
        rank = 1 + before(similarities, positives | negatives, p, temperature)
        precisions.append(rank_among_positives / rank)
    return [1 - np.mean(precisions)]


def recall_at_k(
    similarities, positives, negatives, ks=(1, 2, 4, 8, 16), rank_temperature=1.0, similarity_temperature=0.01
):
    """Patel et al. (2022), with the normaliser of the authors' code."""
    if not positives.any():
        return []
    ranks = [
        1 + before(similarities, positives | negatives, p, similarity_temperature)
        for p in np.flatnonzero(positives)
    ]
    recalls = [
        sum(sigmoid((k - rank) / rank_temperature) for rank in ranks) / min(k, positives.sum()) for k in ks
    ]
    return [1 - np.mean(recalls)]


def pnp(similarities, positives, negatives, variant="Dq", temperature=0.01, alpha=1.0, b=2.0):
    """Li et al. (2022): the mean over positives of a function of the negatives before each."""
    if not positives.any():
        return []
    costs = []
    for p in np.flatnonzero(positives):
        R = before(similarities, negatives, p, temperature)
        costs.append(
            {
                "O": R,
                "Iu": (1 + R) * math.log(1 + R),
                "Ib": (b * R - math.log(1 + b * R)) / b**2,
                "Ds": math.log(1 + R),
                "Dq": 1 - 1 / (1 + R) ** alpha,
            }[variant]
        )
    return [np.mean(costs)]
