"""What evaluation is judged by: loops over pairs and episodes, in exact fractions where they count. No jax in here."""

import itertools
import math
from fractions import Fraction

import numpy as np

# Verification: a pair is accepted when its distance is at most the threshold.


def thresholds(distances):
    return [-math.inf, *sorted(set(distances))]


def rates(distances, is_same, threshold):
    """(FAR, FNMR) of a threshold."""
    accepted = {True: 0, False: 0}
    total = {True: 0, False: 0}
    for distance, same in zip(distances, is_same, strict=True):
        accepted[bool(same)] += distance <= threshold
        total[bool(same)] += 1
    return Fraction(int(accepted[False]), total[False]), 1 - Fraction(int(accepted[True]), total[True])


def auc(distances, is_same):
    genuine = [d for d, same in zip(distances, is_same, strict=True) if same]
    impostors = [d for d, same in zip(distances, is_same, strict=True) if not same]
    won = sum(2 * (g < i) + (g == i) for g in genuine for i in impostors)
    return Fraction(int(won), 2 * len(genuine) * len(impostors))


def eer(distances, is_same):
    """Where a segment between neighbouring points (FAR, FNMR) meets the line on which both are equal."""
    points = [rates(distances, is_same, t) for t in thresholds(distances)]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if (y0 - x0) >= 0 >= (y1 - x1):
            # x0 + s (x1 - x0) = y0 + s (y1 - y0)
            return x0 + (y0 - x0) / ((x1 - x0) - (y1 - y0)) * (x1 - x0)
    raise AssertionError("the curve goes from (0, 1) to (1, 0)")


def delong(distances, is_same):
    """(AUC, its standard error): from how often each pair is on the right side of those of the other kind."""
    genuine = [d for d, same in zip(distances, is_same, strict=True) if same]
    impostors = [d for d, same in zip(distances, is_same, strict=True) if not same]
    of_genuine = [sum((g < i) + (g == i) / 2 for i in impostors) / len(impostors) for g in genuine]
    of_impostors = [sum((g < i) + (g == i) / 2 for g in genuine) / len(genuine) for i in impostors]
    middle = sum(of_genuine) / len(genuine)
    variance = 0.0
    for shares in (of_genuine, of_impostors):
        variance += sum((share - middle) ** 2 for share in shares) / (len(shares) - 1) / len(shares)
    return middle, math.sqrt(variance)


def right(distances, is_same, threshold):
    return sum((d <= threshold) == same for d, same in zip(distances, is_same, strict=True))


def best_threshold(distances, is_same):
    """The smallest of those with the most right decisions."""
    return max(thresholds(distances), key=lambda t: (right(distances, is_same, t), -t))


def fold_accuracies(distances, is_same, folds):
    accuracies = []
    for fold in sorted(set(folds)):
        here = [i for i, f in enumerate(folds) if f == fold]
        there = [i for i, f in enumerate(folds) if f != fold]
        threshold = best_threshold(distances[there], is_same[there])
        accuracies.append(right(distances[here], is_same[here], threshold) / len(here))
    return accuracies


def threshold_at(distances, is_same, far):
    """The largest of the thresholds whose FAR is at most the wanted one, with its FAR and its TAR."""
    found = [(t, *rates(distances, is_same, t)) for t in thresholds(distances)]
    threshold, measured, fnmr = max(x for x in found if float(x[1]) <= far)
    return threshold, float(measured), float(1 - fnmr)


# Few-shot classification


def centred_on(support, row):
    centred = [x - sum(shown[i] for shown in support) / len(support) for i, x in enumerate(row)]
    length = math.sqrt(sum(x**2 for x in centred))
    return np.array([x / length if length else 0.0 for x in centred])


def few_shot(embeddings, episode, shots, method, distance, centred=False):
    """The share of queries that are sorted rightly; the episode holds the rows of each class, support first."""
    if centred:
        shown = [embeddings[row] for rows in episode for row in rows[:shots]]
        embeddings = np.array([centred_on(shown, row) for row in embeddings])
    correct = total = 0
    for own, rows in enumerate(episode):
        for query in rows[shots:]:
            to_class = []
            for others in episode:
                support = embeddings[others[:shots]]
                if method == "prototype":
                    support = [sum(support) / shots]
                to_class.append(min(distance(embeddings[query], s) for s in support))
            correct += all(to_class[own] < d for i, d in enumerate(to_class) if i != own)
            total += 1
    return correct / total


# Clustering: two partitions of the same items


def _contingency(a, b):
    return {(x, y): sum(1 for p in zip(a, b, strict=True) if p == (x, y)) for x in set(a) for y in set(b)}


def _entropy(a):
    return -sum(a.count(x) / len(a) * math.log(a.count(x) / len(a)) for x in set(a))


def mutual_information(a, b):
    n = len(a)
    terms = _contingency(a, b).items()
    return sum(c / n * math.log(n * c / (a.count(x) * b.count(y))) for (x, y), c in terms if c)


def expected_mutual_information(a, b):
    """Over all ways to shuffle one partition: the overlap of two parts is hypergeometric."""
    n = len(a)
    total = 0.0
    for x in set(a):
        for y in set(b):
            p, q = a.count(x), b.count(y)
            for c in range(max(1, p + q - n), min(p, q) + 1):
                probability = math.comb(p, c) * math.comb(n - p, q - c) / math.comb(n, q)
                total += probability * c / n * math.log(n * c / (p * q))
    return total


def nmi(a, b):
    return mutual_information(a, b) / ((_entropy(a) + _entropy(b)) / 2)


def ami(a, b):
    expected = expected_mutual_information(a, b)
    return (mutual_information(a, b) - expected) / ((_entropy(a) + _entropy(b)) / 2 - expected)


def purity(classes, clusters):
    table = _contingency(classes, clusters)
    return sum(max(table[x, y] for x in set(classes)) for y in set(clusters)) / len(classes)


# Intervals


def bootstrap_means(groups):
    """The mean of every possible resample of a few groups of values, all equally likely."""
    resamples = itertools.product(groups, repeat=len(groups))
    return np.array([np.mean(np.concatenate(resample)) for resample in resamples])
