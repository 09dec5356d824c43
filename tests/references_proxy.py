"""Losses against proxies, as plain loops written from the papers. See `references` for what they are handed.

A row of similarities holds the proxies of all classes; positives are those of the row's own class. With several centers
a class, they stand side by side. Angles are angles here: arccos, cos, and a list of cases.
"""

import math

import numpy as np
from references import euclidean


def log_of_sum(logits):
    largest = max(logits)
    return largest + math.log(sum(math.exp(logit - largest) for logit in logits))


def softmax_loss(logits, own, own_in_denominator=True):
    """``-log(Σ_own exp / Σ exp)``, as one term; none if there is no own class."""
    numerator = [logit for logit, is_own in zip(logits, own, strict=True) if is_own]
    denominator = [
        logit for logit, is_own in zip(logits, own, strict=True) if own_in_denominator or not is_own
    ]
    if not (numerator and denominator):
        return []
    return [log_of_sum(denominator) - log_of_sum(numerator)]


def normalized_softmax(similarities, positives, negatives, temperature=0.05):
    return softmax_loss(similarities / temperature, positives)


def instance(similarities, positives, negatives, scale=1.0):
    return softmax_loss(scale * similarities, positives)


def cosface(similarities, positives, negatives, margin=0.35, scale=64.0):
    return softmax_loss(
        [scale * (s - margin if own else s) for s, own in zip(similarities, positives, strict=True)],
        positives,
    )


def with_added_angle(cosine, margin):
    angle = math.acos(min(max(cosine, -1.0), 1.0)) if not math.isnan(cosine) else cosine
    if angle + margin > math.pi:
        return cosine - margin * math.sin(margin)
    return math.cos(angle + margin)


def arcface(similarities, positives, negatives, margin=0.5, scale=64.0):
    logits = [
        scale * (with_added_angle(s, margin) if own else s)
        for s, own in zip(similarities, positives, strict=True)
    ]
    return softmax_loss(logits, positives)


def centers_of(anchor):
    """One row of similarities for each class, and which class is the anchor's own."""
    classes = sorted(set(anchor.reference_labels))
    rows = [anchor.distances[np.asarray(anchor.reference_labels) == label] for label in classes]
    own = [anchor.positives[np.asarray(anchor.reference_labels) == label].any() for label in classes]
    return rows, np.array(own)


def subcenter_arcface(anchors, margin=0.5, scale=64.0):
    found = []
    for anchor in anchors:
        rows, own = centers_of(anchor)
        found.append(arcface(np.array([max(row) for row in rows]), own, ~own, margin, scale))
    return found


def with_multiplied_angle(cosine, margin):
    """SphereFace's ψ: cos(m θ), folded so that it falls from θ = 0 to θ = π."""
    angle = math.acos(min(max(cosine, -1.0), 1.0)) if not math.isnan(cosine) else cosine
    for k in range(margin):
        if angle <= (k + 1) * math.pi / margin or k == margin - 1:
            return (-1) ** k * math.cos(margin * angle) - 2 * k
    raise AssertionError("a margin is at least 1")


def sphereface(anchors, margin=4, with_weights=False):
    found = []
    for anchor in anchors:
        logits = []
        for cosine, own, proxy in zip(anchor.distances, anchor.positives, anchor.references, strict=True):
            length = math.sqrt(np.sum(anchor.row**2)) * (math.sqrt(np.sum(proxy**2)) if with_weights else 1.0)
            logits.append(length * (with_multiplied_angle(cosine, margin) if own else cosine))
        found.append(softmax_loss(logits, anchor.positives))
    return found


def large_margin_softmax(anchors, margin=4):
    return sphereface(anchors, margin, with_weights=True)


def p2sgrad(similarities, positives, negatives):
    if not positives.any():
        return []
    return [
        (cosine - (1.0 if own else 0.0)) ** 2 for cosine, own in zip(similarities, positives, strict=True)
    ]


def proxy_nca(similarities, positives, negatives, scale=1.0):
    """Over squared distances of rows and proxies at length 1: 2 - 2 cos."""
    return softmax_loss(-scale * (2 - 2 * similarities), positives, own_in_denominator=False)


def proxy_nca_pp(similarities, positives, negatives, temperature=1 / 9):
    return softmax_loss(-(2 - 2 * similarities) / temperature, positives)


def proxy_anchor(anchors, margin=0.1, scale=32.0):
    """Terms of proxies, not of rows: a pull, if a row of the batch is of its class, and a push."""
    if not anchors:
        return []
    found = []
    for p, label in enumerate(anchors[0].reference_labels):
        counted = [anchor for anchor in anchors if anchor.positives.any() or anchor.negatives.any()]
        own = [anchor.distances[p] for anchor in counted if anchor.label == label]
        others = [anchor.distances[p] for anchor in counted if anchor.label != label]
        pull = math.log1p(sum(math.exp(-scale * (s - margin)) for s in own))
        push = math.log1p(sum(math.exp(scale * (s + margin)) for s in others))
        found.append(([pull] if own else [], [push] if counted else []))
    return found


def soft_triple(anchors, scale=20.0, temperature=0.1, margin=0.01, tau=0.0):
    if not anchors:
        return []
    labels = np.asarray(anchors[0].reference_labels)
    lengths = np.sqrt(np.sum(anchors[0].references ** 2, axis=1, keepdims=True))
    directions = anchors[0].references / np.where(lengths == 0, 1.0, lengths)
    spreads = []
    for label in sorted(set(labels)):
        centers = directions[labels == label]
        count = len(centers)
        total = sum(
            float(euclidean(centers[t], centers[s])) for t in range(count) for s in range(t + 1, count)
        )
        spreads.append(total / max(count * (count - 1), 1))
    found = []
    for anchor in anchors:
        rows, own = centers_of(anchor)
        logits = []
        for row, is_own in zip(rows, own, strict=True):
            weights = np.exp((row - row.max()) / temperature)
            similarity = float(np.sum(weights * row) / np.sum(weights))
            logits.append(scale * (similarity - (margin if is_own else 0.0)))
        found.append([term + tau * sum(spreads) / len(spreads) for term in softmax_loss(logits, own)])
    return found


def center(distances, positives, negatives):
    return [0.5 * distance for distance in distances[positives]]
