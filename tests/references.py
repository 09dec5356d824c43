"""What the library is judged by: plain float64 NumPy loops, written from the papers. No jax in here.

A loss is a function of one anchor that lists its terms, one number each, and everything around it (masks, references,
matches, reductions) is done once, in `batch_loss`, by loops over lists. Slow, and simple enough to be believed. The
formulas of the larger families stand in `references_*.py`.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

# Distances: row against row, over the last axis.


def squared_euclidean(x, y):
    return np.sum((x - y) ** 2, axis=-1)


def euclidean(x, y):
    return np.sqrt(squared_euclidean(x, y))


def manhattan(x, y):
    return np.sum(np.abs(x - y), axis=-1)


def cosine_similarity(x, y):
    lengths = np.sqrt(np.sum(x * x, axis=-1) * np.sum(y * y, axis=-1))
    return np.sum(x * y, axis=-1) / np.where(lengths == 0, 1.0, lengths)


def cosine(x, y):
    return 1.0 - cosine_similarity(x, y)


def dot_product(x, y):
    return np.sum(x * y, axis=-1)


def signal_to_noise(x, y):
    signal = np.var(x, axis=-1)
    return np.var(x - y, axis=-1) / np.where(signal == 0, 1.0, signal)


DISTANCES = {
    distance.__name__: distance
    for distance in (
        *(euclidean, squared_euclidean, manhattan),
        *(cosine, cosine_similarity, dot_product, signal_to_noise),
    )
}


# Penalties of a triplet.


def relu(violation):
    return max(violation, 0.0) if not math.isnan(violation) else violation


def softplus(violation):
    return max(violation, 0.0) + math.log1p(math.exp(-abs(violation)))


# Losses: the terms of one anchor.


def contrastive(distances, positives, negatives, margin=1.0):
    """Hadsell, Chopra, LeCun (2006): a term for every pair."""
    return [d**2 for d in distances[positives]] + [relu(margin - d) ** 2 for d in distances[negatives]]


def batch_hard(distances, positives, negatives, margin=0.2, penalty=relu):
    """Hermans, Beyer, Leibe (2017): the farthest positive against the nearest negative."""
    if not (positives.any() and negatives.any()):
        return []
    return [penalty(distances[positives].max() - distances[negatives].min() + margin)]


def semi_hard(distances, positives, negatives, margin=0.2, penalty=relu):
    """FaceNet (2015) by TFA's rule: each positive against the nearest negative farther than it, else the farthest."""
    if not negatives.any():
        return []
    terms = []
    for d_positive in distances[positives]:
        farther = [d for d in distances[negatives] if d > d_positive]
        d_negative = min(farther) if farther else distances[negatives].max()
        terms.append(penalty(d_positive - d_negative + margin))
    return terms


def batch_all(distances, positives, negatives, margin=0.2, penalty=relu):
    """Every positive against every negative."""
    return [
        penalty(d_positive - d_negative + margin)
        for d_positive in distances[positives]
        for d_negative in distances[negatives]
    ]


# From one anchor to a batch.


class Anchor(NamedTuple):
    """An anchor's distances to all references, which are its positives and its negatives; and who they all are."""

    distances: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray
    row: np.ndarray
    label: np.ndarray
    references: np.ndarray
    reference_labels: np.ndarray
    where: bool


def anchors(
    embeddings,
    labels,
    *,
    distance=euclidean,
    references=None,
    reference_labels=None,
    reference_where=None,
    where=None,
    match=None,
):
    """Yields every `Anchor` of a batch."""
    in_own_batch = references is None
    where = np.ones(len(embeddings), bool) if where is None else np.asarray(where)
    if in_own_batch:
        references, reference_labels = embeddings, labels
        reference_where = where if reference_where is None else reference_where
    reference_where = (
        np.ones(len(references), bool) if reference_where is None else np.asarray(reference_where)
    )
    match = match or (lambda a, b: a == b)
    for i, row in enumerate(embeddings):
        distances = distance(row[None], references)
        same = np.array([bool(match(labels[i], label)) for label in reference_labels])
        itself = np.array([in_own_batch and i == j for j in range(len(references))])
        usable = where[i] & reference_where & ~itself
        yield Anchor(
            distances, usable & same, usable & ~same, row, labels[i], references, reference_labels, where[i]
        )


def batch_loss(terms_of, embeddings, labels, *, own=None, whole=False, reduction="mean", **pairs):
    """The loss of a batch: each anchor's terms, reduced.

    ``terms_of(distances, positives, negatives, **own)`` lists one anchor's terms, or gives a tuple of such lists, the
    parts that are averaged apart; with ``whole``, ``terms_of([Anchor, ...], **own)`` does so for all anchors.
    """
    rows, own = list(anchors(embeddings, labels, **pairs)), own or {}
    found = terms_of(rows, **own) if whole else [terms_of(*row[:3], **own) for row in rows]
    parts = zip(*(terms if isinstance(terms, tuple) else (terms,) for terms in found), strict=True)
    return sum(reduced(part, reduction) for part in parts)


def reduced(terms, reduction):
    """A list of each anchor's terms as one number, or one an anchor. A mean over nothing is 0."""
    everything = [term for of_anchor in terms for term in of_anchor]
    if reduction == "none":
        return np.array([sum(of_anchor) for of_anchor in terms], float)
    if reduction == "sum":
        return float(sum(everything))
    counted = {"mean": everything, "mean_active": [term for term in everything if term != 0]}[reduction]
    return float(sum(counted) / len(counted)) if counted else 0.0


# Mining: indices of references, the lowest of several that tie.


def mine_batch_hard(embeddings, labels, **pairs):
    """``(positive, negative, valid)``, each ``[n]``: the farthest positive and the nearest negative of each anchor."""
    mined = []
    for distances, positives, negatives, *_ in anchors(embeddings, labels, **pairs):
        if positives.any() and negatives.any():
            farthest = max(np.flatnonzero(positives), key=lambda j, d=distances: d[j])
            nearest = min(np.flatnonzero(negatives), key=lambda j, d=distances: d[j])
            mined.append((farthest, nearest, True))
        else:
            mined.append((0, 0, False))
    return tuple(np.array(column) for column in zip(*mined, strict=True))


def mine_semi_hard(embeddings, labels, *, max_positives=None, **pairs):
    """``(positive, negative, valid)``, each ``[n, slots]``: a semi-hard negative for each of an anchor's positives."""
    count = len(embeddings if pairs.get("references") is None else pairs["references"])
    slots = min(max_positives or count, count)
    mined = []
    for distances, positives, negatives, *_ in anchors(embeddings, labels, **pairs):
        row = []
        for positive in np.flatnonzero(positives) if negatives.any() else ():
            farther = [j for j in np.flatnonzero(negatives) if distances[j] > distances[positive]]
            if farther:
                negative = min(farther, key=lambda j, d=distances: d[j])
            else:
                negative = max(np.flatnonzero(negatives), key=lambda j, d=distances: d[j])
            row.append((positive, negative, True))
        mined.append((row + [(0, 0, False)] * slots)[:slots])
    return tuple(np.array([[slot[part] for slot in row] for row in mined]) for part in range(3))


# Diagnostics.


def summary(embeddings, labels, *, margin=0.2, distance=euclidean, where=None):
    """How hard a batch is, and how far its embeddings spread."""
    pairs = {"distance": distance, "where": where}
    positive_distances, negative_distances, hard = [], [], []
    hard_positives = hard_negatives = 0
    for distances, positives, negatives, *_ in anchors(embeddings, labels, **pairs):
        positive_distances += list(distances[positives])
        negative_distances += list(distances[negatives])
        hard += batch_hard(distances, positives, negatives, margin)
        hard_positives += sum(
            d > n for d in distances[positives] for n in [min(distances[negatives], default=np.inf)]
        )
        hard_negatives += sum(
            d < p for d in distances[negatives] for p in [max(distances[positives], default=-np.inf)]
        )
    rows = embeddings if where is None else embeddings[where]
    spread = math.sqrt(np.mean(np.sum((rows - rows.mean(axis=0)) ** 2, axis=-1)))
    result = {
        "active_fraction": np.mean([term > 0 for term in hard]),
        "hard_positives": hard_positives,
        "hard_negatives": hard_negatives,
        "spread": spread,
        "collapsed": spread < 0.01,
    }
    for name, values in (("positive", positive_distances), ("negative", negative_distances)):
        result[f"{name}_mean"] = np.mean(values)
        for percent in (10, 50, 90):
            result[f"{name}_q{percent}"] = np.quantile(values, percent / 100)
    return result


# Retrieval.


def retrieval(embeddings, labels, *, gallery=None, gallery_labels=None, ks=(1, 2, 4, 8), distance=euclidean):
    """Metrics of every query's full ranking, with the irrelevant first among gallery items at one distance."""
    leave_one_out = gallery is None
    if leave_one_out:
        gallery, gallery_labels = embeddings, labels
    metrics, left_out = [], 0

    def gain(relevant):
        return sum(1 / math.log2(rank + 1) for rank, is_relevant in enumerate(relevant, 1) if is_relevant)

    for i, query in enumerate(embeddings):
        others = [j for j in range(len(gallery)) if not (leave_one_out and i == j)]
        distances = distance(query[None], gallery)
        ranked = sorted(others, key=lambda j, i=i, d=distances: (d[j], gallery_labels[j] == labels[i]))
        relevant = [bool(gallery_labels[j] == labels[i]) for j in ranked]
        if not any(relevant):
            left_out += 1
            continue
        total = sum(relevant)
        precision_at = [sum(relevant[:rank]) / rank for rank in range(1, len(relevant) + 1)]
        metrics.append(
            {
                "map_at_r": sum(precision_at[i] * relevant[i] for i in range(total)) / total,
                "precision@1": precision_at[0],
                "r_precision": precision_at[total - 1],
                "mrr": 1 / (1 + relevant.index(True)),
                "map": sum(precision_at[i] for i in range(len(relevant)) if relevant[i]) / total,
                **{f"recall@{k}": float(any(relevant[:k])) for k in ks},
                **{f"precision@{k}": precision_at[k - 1] for k in ks},
                **{f"ndcg@{k}": gain(relevant[:k]) / gain([True] * min(k, total)) for k in ks},
            }
        )
    means = {name: float(np.mean([metric[name] for metric in metrics])) for name in metrics[0]}
    return {**means, "queries": len(metrics), "left_out": left_out}


# Derivatives, and batches on which they exist.


def central_differences(function, x, step=1e-4):
    """The gradient of a scalar function, one coordinate at a time, with an error of O(step⁴)."""
    slopes = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        nudge = np.zeros_like(x)
        nudge[index] = step
        near = function(x + nudge) - function(x - nudge)
        far = function(x + 2 * nudge) - function(x - 2 * nudge)
        slopes[index] = (8 * near - far) / (12 * step)
    return slopes


def random_batch(labels, dim, seed):
    """Rows around a center per class, exact in float32."""
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(max(labels) + 1, dim))
    rows = 0.5 * centers[labels] + 0.5 * generator.normal(size=(len(labels), dim))
    return np.round(rows * 1024) / 1024


def smooth_batches(function, labels, dim):
    """The random batches at which a function has a gradient: differences by a small and a large step agree on it.

    Near a kink (an argmax about to change, a hinge at its corner, a distance of 0) they do not. The large step is the
    distance that is kept from any.
    """
    for seed in itertools.count():
        batch = random_batch(labels, dim, seed)
        near, far = (central_differences(function, batch, step) for step in (1e-5, 5e-4))
        if np.abs(near - far).max() < 1e-6 * np.abs(near).max():
            yield batch
