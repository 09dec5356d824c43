"""What a report should show, by loops over float64."""

import numpy as np


def euclidean(x, y):
    return float(np.sqrt(np.sum((np.asarray(x, np.float64) - np.asarray(y, np.float64)) ** 2)))


def hardest(embeddings, labels, count):
    """(farthest pairs of one class, nearest pairs of two), of each anchor's worst, no image twice."""
    found = []
    for same in (True, False):
        candidates = []
        for a in range(len(labels)):
            others = {
                b: euclidean(embeddings[a], embeddings[b])
                for b in range(len(labels))
                if b != a and (labels[a] == labels[b]) == same
            }
            has_both = {labels[a] == labels[b] for b in range(len(labels)) if b != a} == {True, False}
            if has_both:
                worst = (max if same else min)(others.values())
                candidates.append((worst, a, next(b for b in others if others[b] == worst)))
        candidates.sort(key=lambda c: (-c[0] if same else c[0], c[1]))
        pairs, seen = [], set()
        for distance, a, b in candidates:
            if len(pairs) < count and a not in seen and b not in seen:
                pairs.append((a, b, distance))
                seen |= {a, b}
        found.append(pairs)
    return found


def neighbours(embeddings, query, k):
    """The k nearest other rows, the nearest first."""
    others = [i for i in range(len(embeddings)) if i != query]
    return sorted(others, key=lambda i: euclidean(embeddings[i], embeddings[query]))[:k]
