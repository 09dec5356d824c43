"""The formulas of the softmax losses, of two views, of continuous labels: float64 loops, no jax. See `references`."""

import math

import numpy as np
from references import cosine_similarity


def log_sum_exp(values):
    """``log Σ exp(values)``, the largest taken out; -inf of nothing."""
    largest = max(values, default=-math.inf)
    if not math.isfinite(largest):
        return largest
    return largest + math.log(sum(math.exp(value - largest) for value in values))


def cross_entropy(logit, others):
    """``-log( exp(logit) / (exp(logit) + Σ exp(others)) )``, by ``log(1 + u)`` where the loss is small."""
    gap = log_sum_exp(others) - logit
    return max(gap, 0.0) + math.log1p(math.exp(-abs(gap)))


# Losses of classes: the terms of one anchor.


def ntxent(similarities, positives, negatives, temperature=0.1):
    """Chen et al. (2020): a term for every positive pair."""
    logits = similarities / temperature
    return [cross_entropy(logit, logits[negatives]) for logit in logits[positives]]


def npairs(similarities, positives, negatives):
    """Sohn (2016): ``log(1 + Σ exp(s_n - s_p))``."""
    return [cross_entropy(s, similarities[negatives]) for s in similarities[positives]]


def supcon(similarities, positives, negatives, temperature=0.1):
    """Khosla et al. (2020), equation 2: the mean over positives outside of the logarithm."""
    if not positives.any():
        return []
    logits = similarities / temperature
    log_denominator = log_sum_exp(logits[positives | negatives])
    return [-np.mean([logit - log_denominator for logit in logits[positives]])]


def nca(distances, positives, negatives):
    """Goldberger et al. (2004): the log-probability of a neighbour of the same class."""
    return soft_nearest_neighbor(distances, positives, negatives, 1.0)


def soft_nearest_neighbor(distances, positives, negatives, temperature=1.0):
    """Frosst et al. (2019), equation 1."""
    if not positives.any():
        return []
    logits = -distances / temperature
    return [cross_entropy(log_sum_exp(logits[positives]), logits[negatives])]


def tuplet_margin(similarities, positives, negatives, margin=0.1, scale=64.0):
    """Yu, Tao (2019): the angle of a positive, less the slack, against the negatives."""
    terms = []
    for cosine in similarities[positives]:
        # Rounding may put the cosine of two equal rows below 1, at an angle that is not there.
        angle = 0.0 if abs(cosine - 1) < 1e-14 else math.acos(cosine)
        of_positive = scale * math.cos(angle - margin)
        terms.append(cross_entropy(of_positive, scale * similarities[negatives]))
    return terms


# Losses of the whole batch.


def decoupled_contrastive(anchors, temperature=0.1, sigma=None):
    """Yeh et al. (2021): the negatives alone in the denominator; with sigma the weights of its DCLW."""
    pairs = [
        (i, s)
        for i, anchor in enumerate(anchors)
        if anchor.negatives.any()
        for s in anchor.distances[anchor.positives]
    ]
    mean = np.mean([math.exp(s / sigma) for _, s in pairs]) if sigma and pairs else None
    terms = [[] for _ in anchors]
    for i, s in pairs:
        weight = 1.0 if mean is None else 2.0 - math.exp(s / sigma) / mean
        negatives = anchors[i].distances[anchors[i].negatives]
        terms[i].append(-weight * s / temperature + log_sum_exp(negatives / temperature))
    return terms


def rank_n_contrast(anchors, temperature=2.0, label_distance=lambda a, b: np.abs(a - b).sum()):
    """Zha et al. (2023): each other row in turn against all whose labels are at least as far."""
    terms = []
    for anchor in anchors:
        others = np.flatnonzero(anchor.positives | anchor.negatives)
        apart = {j: label_distance(anchor.label, anchor.reference_labels[j]) for j in others}
        logits = -anchor.distances / temperature
        terms.append(
            [log_sum_exp([logits[k] for k in others if apart[k] >= apart[j]]) - logits[j] for j in others]
        )
    return terms


# Losses of two views: one item's similarities to the other view of all, and which of these is its own.


def infonce(similarities, is_own, is_other, temperature=0.07):
    """Radford et al. (2021): one direction of two."""
    (own,) = similarities[is_own] / temperature
    return cross_entropy(own, similarities[is_other] / temperature)


def siglip(similarities, is_own, is_other, temperature=0.1, bias=-10.0):
    """Zhai et al. (2023): yes to an item's other view, no to all the others."""
    yes, no = similarities[is_own] / temperature + bias, similarities[is_other] / temperature + bias
    return sum(cross_entropy(z, [0.0]) for z in yes) + sum(cross_entropy(-z, [0.0]) for z in no)


def two_views(of_item, x, y, similarity, symmetric=False, **own):
    """One value an item: that of x among y, or its mean with that of y among x."""
    values = []
    for i in range(len(x)):
        itself = np.arange(len(x)) == i
        value = of_item(similarity(x[i][None], y), itself, ~itself, **own)
        if symmetric:
            value = (value + of_item(similarity(y[i][None], x), itself, ~itself, **own)) / 2
        values.append(value)
    return np.array(values)


def items(of_item, anchors, **own):
    """The terms of all anchors, whose other view are their rows read backwards."""
    rows = np.array([anchor.row for anchor in anchors if anchor.where])
    symmetric = of_item is infonce
    values = iter(
        two_views(of_item, rows, rows[:, ::-1], cosine_similarity, symmetric, **own) if len(rows) else ()
    )
    return [[next(values)] if anchor.where else [] for anchor in anchors]
