"""The losses of `metric_jax.losses.weighting` and `.structured`, as loops: see `references`.

Where the papers hold weights constant, so does the gradient, and there is a second function that lists the weights: a
reference that is given them no longer computes them.
"""

import math

import numpy as np
from references import relu, softplus


def log_sum(exponents):
    """The logarithm of a sum of exponentials; -inf if there are none."""
    exponents = list(exponents)
    if not exponents:
        return -math.inf
    if any(math.isnan(x) for x in exponents):
        return math.nan
    largest = max(exponents)
    return largest + math.log(sum(math.exp(x - largest) for x in exponents))


def soft(x):
    """``log(1 + exp(x))``, also of -inf."""
    return 0.0 if x == -math.inf else softplus(x)


# One anchor at a time.


def multi_similarity(similarities, positives, negatives, alpha=2.0, beta=50.0, base=0.5, epsilon=0.1):
    """Wang et al. (2019), equations 10 to 12."""
    of_positives, of_negatives = similarities[positives], similarities[negatives]
    if not (len(of_positives) or len(of_negatives)):
        return []
    if epsilon is not None:
        hardest_positive = min(of_positives, default=math.inf)
        hardest_negative = max(of_negatives, default=-math.inf)
        of_positives = [s for s in of_positives if s - epsilon < hardest_negative]
        of_negatives = [s for s in of_negatives if s + epsilon > hardest_positive]
    pull = math.log(1 + sum(math.exp(-alpha * (s - base)) for s in of_positives)) / alpha
    push = math.log(1 + sum(math.exp(beta * (s - base)) for s in of_negatives)) / beta
    return [pull + push]


def generalized_lifted(distances, positives, negatives, margin=1.0):
    """Hermans, Beyer, Leibe (2017), equation 7."""
    if not (positives.any() and negatives.any()):
        return []
    pull = log_sum(d for d in distances[positives])
    push = log_sum(margin - d for d in distances[negatives])
    return [relu(pull + push)]


def signal_to_noise_contrastive(distances, positives, negatives, positive_margin=0.0, negative_margin=1.0):
    """Yuan et al. (2019): positive pairs and negative pairs, averaged apart."""
    return (
        [relu(d - positive_margin) for d in distances[positives]],
        [relu(negative_margin - d) for d in distances[negatives]],
    )


# All anchors, with weights that are held constant.


def circle_weights(anchors, margin=0.25, **_):
    """What every similarity is multiplied by: Sun et al. (2020), equation 5, with O_p = 1 + m and O_n = -m."""
    return [
        [
            relu(1 + margin - s) if is_positive else relu(s + margin)
            for s, is_positive in zip(anchor.distances, anchor.positives, strict=True)
        ]
        for anchor in anchors
    ]


def circle(anchors, margin=0.25, scale=256.0, weights=None):
    """Sun et al. (2020), equation 6."""
    weights = circle_weights(anchors, margin) if weights is None else weights
    found = []
    for anchor, w in zip(anchors, weights, strict=True):
        s, count = anchor.distances, range(len(anchor.distances))
        pull = log_sum(-scale * w[p] * (s[p] - (1 - margin)) for p in count if anchor.positives[p])
        push = log_sum(scale * w[n] * (s[n] - margin) for n in count if anchor.negatives[n])
        has_both = anchor.positives.any() and anchor.negatives.any()
        found.append([soft(pull + push)] if has_both else [])
    return found


def ranked_list_weights(
    anchors, margin=0.4, alpha=1.2, positive_temperature=0.0, negative_temperature=10.0, **_
):
    """The weights of an anchor's pairs, those of a kind adding up to 1: Wang et al. (2019), equations 6 and 7."""
    found = []
    for anchor in anchors:
        raw = np.zeros(len(anchor.distances))
        for j, d in enumerate(anchor.distances):
            if anchor.positives[j] and not d <= alpha - margin:
                raw[j] = math.exp(positive_temperature * (d - (alpha - margin)))
            if anchor.negatives[j] and not d >= alpha:
                raw[j] = math.exp(negative_temperature * (alpha - d))
        for kind in (anchor.positives, anchor.negatives):
            if raw[kind].sum() != 0:
                raw[kind] /= raw[kind].sum()
        found.append(raw)
    return found


def ranked_list(anchors, margin=0.4, alpha=1.2, balance=0.5, weights=None, **temperatures):
    """Wang et al. (2019), equations 2 to 9: both sets, weighted."""
    if weights is None:
        weights = ranked_list_weights(anchors, margin, alpha, **temperatures)
    found = []
    for anchor, w in zip(anchors, weights, strict=True):
        d, count = anchor.distances, range(len(anchor.distances))
        too_far = sum(w[p] * relu(d[p] - (alpha - margin)) for p in count if anchor.positives[p])
        too_near = sum(w[n] * relu(alpha - d[n]) for n in count if anchor.negatives[n])
        has_pair = anchor.positives.any() or anchor.negatives.any()
        found.append([(1 - balance) * too_far + balance * too_near] if has_pair else [])
    return found


# All anchors at once.


def margin_based(anchors, margin=0.2, beta=1.2):
    """Wu et al. (2017), equation 5, with the boundary of the anchor's class if there is one for each."""
    found = []
    for anchor in anchors:
        boundary = beta if np.ndim(beta) == 0 else beta[anchor.label]
        pull = [relu(d - boundary + margin) for d in anchor.distances[anchor.positives]]
        push = [relu(boundary - d + margin) for d in anchor.distances[anchor.negatives]]
        found.append(pull + push)
    return found


def lifted(anchors, margin=1.0):
    """Oh Song et al. (2016), equation 4: i and j are the two ends; the negatives of j are who j is a negative of."""
    found = []
    for anchor in anchors:
        of_anchor = []
        for j in np.flatnonzero(anchor.positives):
            exponents = [margin - d for d in anchor.distances[anchor.negatives]]
            exponents += [margin - other.distances[j] for other in anchors if other.negatives[j]]
            if exponents:
                of_anchor.append(relu(anchor.distances[j] + log_sum(exponents)) ** 2 / 2)
        found.append(of_anchor)
    return found


def intra_pair_variance(anchors, positive_epsilon=0.01, negative_epsilon=0.01):
    """Yu, Tao (2019): how far below, or above, the mean of its kind every pair is."""
    of_positives = [s for anchor in anchors for s in anchor.distances[anchor.positives]]
    of_negatives = [s for anchor in anchors for s in anchor.distances[anchor.negatives]]
    lowest = (1 - positive_epsilon) * sum(of_positives) / max(len(of_positives), 1)
    highest = (1 + negative_epsilon) * sum(of_negatives) / max(len(of_negatives), 1)
    return [
        (
            [relu(lowest - s) ** 2 for s in anchor.distances[anchor.positives]],
            [relu(s - highest) ** 2 for s in anchor.distances[anchor.negatives]],
        )
        for anchor in anchors
    ]


def share_of_node(similarity, node, bins):
    """δ of Ustinova, Lempitsky (2016), equation 2: 1 at the node, 0 from the next ones on, linear between."""
    width = 2 / bins
    return relu(1 - abs(min(max(similarity, -1.0), 1.0) - (-1 + node * width)) / width)


def soft_histogram(similarities, bins):
    """Their share of every node, equation 1."""
    nodes = range(bins + 1)
    count = max(len(similarities), 1)
    return [sum(share_of_node(s, node, bins) for s in similarities) / count for node in nodes]


def histogram_double_sum(anchors, bins=100):
    """The paper's loss, equation 4: Σ_r h⁻_r Σ_{q ≤ r} h⁺_q."""
    of_positives = [s for anchor in anchors for s in anchor.distances[anchor.positives]]
    of_negatives = [s for anchor in anchors for s in anchor.distances[anchor.negatives]]
    positive, negative = soft_histogram(of_positives, bins), soft_histogram(of_negatives, bins)
    return sum(negative[r] * sum(positive[: r + 1]) for r in range(bins + 1))


def histogram(anchors, bins=100):
    """The same, one positive pair after the other: Σ_q δ_q Σ_{r ≥ q} h⁻_r of each."""
    of_negatives = [s for anchor in anchors for s in anchor.distances[anchor.negatives]]
    negative = soft_histogram(of_negatives, bins)
    return [
        [
            sum(share_of_node(s, q, bins) * sum(negative[q:]) for q in range(bins + 1))
            for s in anchor.distances[anchor.positives]
        ]
        for anchor in anchors
    ]


def angular(anchors, alpha=math.pi / 4):
    """Wang et al. (2017), equations 7 and 8, on rows of length 1."""

    def unit(row):
        length = math.sqrt(sum(row * row))
        return row / length if length != 0 else row

    tangent = math.tan(alpha) ** 2
    found = []
    for anchor in anchors:
        of_anchor = []
        for j in np.flatnonzero(anchor.positives) if anchor.negatives.any() else ():
            a, p = unit(anchor.row), unit(anchor.references[j])
            exponents = [
                4 * tangent * np.dot(a + p, unit(anchor.references[k])) - 2 * (1 + tangent) * np.dot(a, p)
                for k in np.flatnonzero(anchor.negatives)
            ]
            of_anchor.append(soft(log_sum(exponents)))
        found.append(of_anchor)
    return found


# Triplets.


def batch_hard_options(anchors, distance, margin=0.2, penalty=relu, swap=False):
    """Batch-hard; with the swap, Balntas et al. (2016), the negative is measured from the nearer of the other two."""
    found = []
    for anchor in anchors:
        if not (anchor.positives.any() and anchor.negatives.any()):
            found.append([])
            continue
        p = max(np.flatnonzero(anchor.positives), key=lambda j: anchor.distances[j])
        n = min(np.flatnonzero(anchor.negatives), key=lambda j: anchor.distances[j])
        nearer = anchor.distances[n]
        if swap:
            nearer = min(nearer, distance(anchor.references[p], anchor.references[n]))
        found.append([penalty(anchor.distances[p] - nearer + margin)])
    return found


def semi_hard_options(anchors, distance, margin=0.2, penalty=relu, swap=False, otherwise="farthest"):
    """Semi-hard, with the swap, and without the pairs that no negative is farther than."""
    found = []
    for anchor in anchors:
        d, of_anchor = anchor.distances, []
        negatives = np.flatnonzero(anchor.negatives)
        for p in np.flatnonzero(anchor.positives) if len(negatives) else ():
            farther = [n for n in negatives if d[n] > d[p]]
            if not farther and otherwise == "drop":
                continue
            n = min(farther, key=lambda n: d[n]) if farther else max(negatives, key=lambda n: d[n])
            nearer = d[n]
            if swap:
                nearer = min(nearer, distance(anchor.references[p], anchor.references[n]))
            of_anchor.append(penalty(d[p] - nearer + margin))
        found.append(of_anchor)
    return found
