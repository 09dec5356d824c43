"""The embeddings laid out in the plane: which points to show, and where."""

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from metric_jax.distances import as_rows, center
from metric_jax.reports import thumbnails
from metric_jax.reports.run import Run

MOST_POINTS = 2000
MOST_TSNE = 1000  # which takes t-SNE some 3 seconds
LEAST = 10  # of which there are neighbours to keep together
SPRITE_PIXELS, LARGEST_SIDE = 4_000_000, 96
NEIGHBOURS_ONLY = "Keeps neighbours together; distances between groups say little."
DIGITS = 4  # of a coordinate, scaled to [-1, 1]


class Projection(NamedTuple):
    """Points in the plane. ``points`` are ``[shown, 2]``, within [-1, 1]; ``note`` says what was lost."""

    title: str
    note: str
    points: np.ndarray


def choose(labels: np.ndarray, most: int = MOST_POINTS) -> np.ndarray:
    """Which points are shown, ascending: all, or of every class its share, evenly spaced in the data's order.

    Example:
        >>> import numpy as np
        >>> choose(np.array([0, 1, 0, 1, 0, 1, 0, 1]), most=4)
        array([0, 3, 4, 7])
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    by_class = np.argsort(labels, kind="stable")
    return np.sort(by_class[np.linspace(0, len(labels) - 1, most).round().astype(int)])


def projections(run: Run, shown: np.ndarray) -> list[Projection]:
    """The ways to lay out the points: PCA always, t-SNE where there are few, UMAP where it is installed.

    Under the cosine they are those of the directions. PCA is fitted to all points, the others to those shown.
    """
    embeddings = as_rows(jnp.asarray(run.embeddings), "embeddings")
    rows = np.asarray(run.distance.prepare(embeddings, center(embeddings)))
    found = [_pca(rows, shown)]
    points = rows[shown]
    if (points == points[0]).all() or not points.var(axis=0).any():
        return found  # one point, or what is one once it is squared, has no neighbours to keep
    if LEAST <= len(shown) <= MOST_TSNE:
        found.append(_tsne(points))
    if len(shown) >= LEAST and importlib.util.find_spec("umap"):
        found.append(_umap(points))
    return found


def _pca(rows: np.ndarray, shown: np.ndarray) -> Projection:
    from sklearn.decomposition import PCA

    pca = PCA(min(2, *rows.shape), random_state=0)
    with np.errstate(invalid="ignore"):  # of constant embeddings nothing is explained: 0/0
        points = pca.fit(rows).transform(rows[shown])
    points = np.pad(points, [(0, 0), (0, 2 - points.shape[1])])
    kept = np.nan_to_num(pca.explained_variance_ratio_).sum()
    return Projection("PCA", f"The two axes hold {kept:.0%} of the variance.", _scaled(points))


def _tsne(rows: np.ndarray) -> Projection:
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(rows) - 1) / 3)
    points = TSNE(
        2, perplexity=perplexity, init="pca" if rows.shape[1] > 1 else "random", random_state=0
    ).fit_transform(rows)
    return Projection("t-SNE", NEIGHBOURS_ONLY, _scaled(points))


def _umap(rows: np.ndarray) -> Projection:
    umap = importlib.import_module("umap")  # umap-learn, which is no dependency
    points = umap.UMAP(n_neighbors=min(15, len(rows) - 1), random_state=0, n_jobs=1).fit_transform(rows)
    return Projection("UMAP", NEIGHBOURS_ONLY, _scaled(points))


def _scaled(points: np.ndarray) -> np.ndarray:
    """Centered, within [-1, 1], both axes at the same scale."""
    points = points - (points.max(axis=0) + points.min(axis=0)) / 2
    return np.round(points / (np.abs(points).max() or 1.0), DIGITS)


def as_data(runs: Sequence[Run]) -> tuple[dict[str, Any], str]:
    """What the page's script draws, points, classes and names, and the sheet of their images as a data: URI."""
    run = runs[0]
    shown = choose(run.labels)
    labels, classes = np.unique(run.labels[shown], return_inverse=True)
    side = min(LARGEST_SIDE, int((SPRITE_PIXELS / len(shown)) ** 0.5))
    sheet = thumbnails.sprite(run.images[shown], side)
    data = {
        "projections": [
            {
                "title": projection.title if len(runs) == 1 else f"{each.name}: {projection.title}",
                "note": projection.note,
                "x": projection.points[:, 0].tolist(),
                "y": projection.points[:, 1].tolist(),
            }
            for each in runs
            for projection in projections(each, shown)
        ],
        "of": classes.tolist(),
        "classes": [run.class_names.get(int(label), str(label)) for label in labels],
        "names": [run.names[index] for index in shown],
        "sprite": {"columns": sheet.columns, "width": sheet.width, "height": sheet.height},
    }
    return data, thumbnails.data_uri(sheet.sheet)
