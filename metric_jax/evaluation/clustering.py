"""Clustering: do the groups that k-means finds in the embeddings agree with the classes?"""

import warnings

import numpy as np

from metric_jax import types
from metric_jax.evaluation import checks

LARGEST_SEED = 2**32 - 1  # that scikit-learn takes


def clustering(
    embeddings: types.Embeddings | np.ndarray, labels: types.Labels | np.ndarray, *, seed: int = 0
) -> dict[str, float]:
    """K-means with as many clusters as there are classes, and how well the two partitions agree.

    With C the cluster and Y the class of an item, I their mutual information and H entropies::

        NMI     =  I(C; Y) / ½ (H(C) + H(Y))
        AMI     =  (I(C; Y) - E[I]) / (½ (H(C) + H(Y)) - E[I])         E[I]: of random partitions of the same sizes
        purity  =  1/n Σ_clusters (items of its largest class)

    NMI and purity grow with the number of classes even if clusters are random; AMI is then 0. k-means is Euclidean: to
    cluster by angle, pass ``mj.normalize(embeddings)``. It starts once, from k-means++.

    Args:
        embeddings: ``[items, dim]``, floating, finite.
        labels: ``[items]`` integers.
        seed: Of k-means: the same seed gives the same clusters.

    Returns:
        ``nmi``, ``ami`` and ``purity``, and ``clusters``, how many were found: as many as classes, or as many as there
        are distinct embeddings, if these are fewer.

    Raises:
        TypeError: Embeddings that are not floating, labels that are not integers.
        ValueError: Rows that hold NaN or infinity, lengths that differ, one class only, no class with two items, or a
            seed beyond 32 bits.

    Example:
        >>> import numpy as np
        >>> import metric_jax as mj
        >>> embeddings = np.array([[0.0], [0.1], [5.0], [5.1], [5.2]])
        >>> mj.evaluation.clustering(embeddings, np.array([0, 0, 1, 1, 0]))["purity"]
        0.8

    References:
        Vinh, Epps, Bailey (2010), Information Theoretic Measures for Clusterings Comparison (AMI).
        https://jmlr.org/papers/v11/vinh10a.html
        Manning, Raghavan, Schütze (2008), Introduction to Information Retrieval, 16.3 (NMI, purity).
        https://nlp.stanford.edu/IR-book/
    """
    rows = np.asarray(checks.finite_rows(embeddings, "embeddings"))
    host = checks.integers(labels, "labels", len(rows), "rows of embeddings")
    if (seed := checks.count(seed, "seed", least=0)) > LARGEST_SEED:
        raise ValueError(f"seed must be at most {LARGEST_SEED}, got {seed}")
    classes = len(np.unique(host))
    if classes < 2 or classes == len(host):
        raise ValueError(
            f"labels name {classes} classes for {len(host)} items: clustering needs two classes, and one with two items"
        )
    from sklearn import cluster, exceptions, metrics

    with warnings.catch_warnings():
        # of fewer distinct embeddings than classes: a collapse, which the results tell
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        # Divided by a power of 2, exactly, so that no square leaves the range.
        scaled = np.ldexp(rows, -np.frexp(np.abs(rows).max())[1])
        found = cluster.KMeans(classes, n_init=1, random_state=seed).fit_predict(scaled)
    together = metrics.cluster.contingency_matrix(host, found)
    return {
        "nmi": float(metrics.normalized_mutual_info_score(host, found)),
        "ami": float(metrics.adjusted_mutual_info_score(host, found)),
        "purity": float(together.max(axis=0).sum() / len(host)),
        "clusters": together.shape[1],
    }
