"""What compare.py measures of the embeddings of a set: how well they tell classes apart, and where the classes lie."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from metric_jax import diagnostics, mining
from metric_jax.data import Images
from metric_jax.data.augment.occlusion import eyepatch
from metric_jax.distances import Distance
from metric_jax.evaluation import retrieval, roc, threshold_at
from metric_jax.evaluation.pairs import Compared
from metric_jax.evaluation.rates import equal_error_rate
from metric_jax.training import RunError
from metric_jax.training.evaluate import compared, draw_pairs
from metric_jax.training.step import to_unit

MOST = 3000  # images to measure on: geometry looks at all pairs of them

Embed = Callable[[np.ndarray], np.ndarray]


def everything(
    embed: Embed, train: Images, test: Images, *, worn: np.ndarray, distance: Distance
) -> dict[str, float]:
    """All that the table shows of one network.

    Args:
        embed: From images ``[n, height, width, channels]`` uint8 to embeddings ``[n, dim]``.
        train: Images of the classes that it was trained on.
        test: Images of other classes.
        worn: Those of ``test``, some with an eyepatch.
        distance: The distance between embeddings.

    Returns:
        `accuracy` and `geometry` of the test set; those of the test set with eyepatches, as ``eyepatch_...``;
        ``eyepatch_shift``, how far a patch moves a photo that wears one, as a fraction of the mean distance between
        the centres of two classes; and the geometry of the training set, as ``trained_...``.
    """
    clean, patched = embed(test.images), embed(worn)
    wears = (worn != test.images).any(axis=(1, 2, 3))
    shift = np.linalg.norm(patched - clean, axis=1)[wears].mean() if wears.any() else 0.0
    found = {**accuracy(clean, test.labels, distance), **geometry(clean, test.labels, distance)}
    under = {**accuracy(patched, test.labels, distance), **geometry(patched, test.labels, distance)}
    known = geometry(embed(train.images), train.labels, distance)
    return {
        **found,
        **{f"eyepatch_{key}": value for key, value in under.items()},
        "eyepatch_shift": float(shift / apart(clean, test.labels)),
        **{f"trained_{key}": value for key, value in known.items()},
    }


def accuracy(
    embeddings: np.ndarray,
    labels: np.ndarray,
    distance: Distance,
    fars: Sequence[float] = (),
    *,
    cohort: np.ndarray | None = None,
) -> dict[str, float]:
    """What docs/evaluation.md defines: how well classes are found again, and how well pairs are told apart.

    Args:
        embeddings: ``[n, dim]``.
        labels: ``[n]``.
        distance: The distance between embeddings.
        fars: False accept rates.
        cohort: ``[strangers, dim]``, embeddings of other classes.

    Returns:
        ``map_at_r``, ``recall@1``, ``eer`` and ``tar@far=...`` of these FARs; with a cohort ``relative_eer`` and
        ``relative_tar@far=...`` too, by `evaluation.relative_distances`.
    """
    found = retrieval(jnp.asarray(embeddings), jnp.asarray(labels), ks=(1,), distance=distance)
    pairs = draw_pairs(labels)
    rates = error_rates(compared(embeddings, pairs, distance=distance), fars)
    relative = {}
    if cohort is not None:
        relative = error_rates(compared(embeddings, pairs, distance=distance, cohort=cohort), fars)
    return {
        "map_at_r": found["map_at_r"],
        "recall@1": found["recall@1"],
        **rates,
        **{f"relative_{key}": value for key, value in relative.items()},
    }


def error_rates(pairs: Compared, fars: Sequence[float]) -> dict[str, float]:
    """``eer``, and ``tar@far=...`` of these FARs; raises a RunError for one that these impostors cannot resolve."""
    try:
        tars = {f"tar@far={far}": threshold_at(pairs.distances, pairs.is_same, far)[2] for far in fars}
    except ValueError as error:
        raise RunError(f"this test set is too small: {error}") from error
    return {"eer": float(equal_error_rate(roc(pairs.distances, pairs.is_same))), **tars}


def geometry(embeddings: np.ndarray, labels: np.ndarray, distance: Distance) -> dict[str, float]:
    """Where the classes lie.

    Args:
        embeddings: ``[n, dim]``.
        labels: ``[n]``.
        distance: The distance between embeddings.

    Returns:
        *   ``spread``: the mean Euclidean distance of a class's images to their mean, averaged over classes, over
            `apart`. 0: every class is a point. 1: its images lie as far from their centre as another class's centre.
        *   ``hard_positives``: the share of pairs of one class, (a, p), farther apart than a and its nearest stranger.
        *   ``hard_negatives``: the share of pairs of two classes, (a, n), closer than a and its farthest fellow.
        *   ``gap``: the mean over all a of how much farther its nearest stranger is than its farthest fellow, over the
            mean distance of strangers.
    """
    rows, classes = jnp.asarray(embeddings), jnp.asarray(labels)
    found = diagnostics.summary(rows, classes, distance=distance)
    same = labels[:, None] == labels
    anchor, positive, negative, valid = mining.batch_hard(rows, classes, distance=distance)
    gaps = distance(rows[anchor], rows[negative]) - distance(rows[anchor], rows[positive])
    within = [
        np.linalg.norm(own - own.mean(axis=0), axis=1).mean()
        for own in (embeddings[labels == label] for label in np.unique(labels))
    ]
    return {
        "spread": float(np.mean(within) / apart(embeddings, labels)),
        "hard_positives": float(found["hard_positives"]) / (same.sum() - len(labels)),
        "hard_negatives": float(found["hard_negatives"]) / (~same).sum(),
        "gap": float(jnp.mean(gaps, where=valid) / found["negative_mean"]),
    }


def apart(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """The mean Euclidean distance between the centres of two classes."""
    centres = np.stack([embeddings[labels == label].mean(axis=0) for label in np.unique(labels)])
    first, second = np.triu_indices(len(centres), 1)
    return float(np.linalg.norm(centres[first] - centres[second], axis=1).mean())


def some_classes(images: Images, *, most: int = MOST, seed: int = 0) -> Images:
    """All images, or those of so many classes, drawn at random, that they are no more than ``most``; two at least."""
    order = np.random.default_rng(seed).permutation(np.unique(images.labels))
    sizes = np.cumsum([np.sum(images.labels == label) for label in order])
    return images[np.isin(images.labels, order[: max(2, int(np.sum(sizes <= most)))])]


def with_eyepatches(images: np.ndarray, *, probability: float, seed: int) -> np.ndarray:
    """The images ``[n, height, width, channels]`` uint8, each with a patch over one eye with that probability."""
    worn = eyepatch(to_unit(jnp.asarray(images)), jax.random.key(seed), probability=probability)
    return np.asarray(jnp.round(255 * worn)).astype(np.uint8)
