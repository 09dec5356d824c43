"""Retrieval, neighbours and verification of the benchmark, beside PML's calculator, faiss and scikit-learn."""

import functools
from typing import Any

from experiments import benchmark_rows as table
from experiments.benchmark_rows import FAISS, OURS, PML, PRODUCT, SKLEARN, Call, Row, Subject
from experiments.benchmark_sides import product


def warmed(call: Call) -> Call:
    """A call of what compiles as it is called, after it was called once: else the first would tell of the compiler."""
    call()
    return call


def retrieval(row: Row) -> Call:
    """MAP@R, with P@1 and R-precision computed along."""
    import metric_jax as mj

    metrics = ("map_at_r", "precision@1", "r_precision")
    run = functools.partial(mj.evaluation.retrieval, *row.data(), metrics=metrics)
    return warmed(lambda: run()["map_at_r"])


def pml_retrieval(row: Row) -> Call:
    """The same by PML's calculator, which searches with faiss."""
    import torch
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    calculator = AccuracyCalculator(include=names, k="max_bin_count")
    embeddings, labels = map(torch.from_numpy, row.data())
    return lambda: calculator.get_accuracy(embeddings, labels)["mean_average_precision_at_r"]


def recall(row: Row) -> Call:
    """Recall@8."""
    import metric_jax as mj

    run = functools.partial(mj.evaluation.retrieval, *row.data(), metrics="recall@k", ks=(8,))
    return warmed(lambda: run()["recall@8"])


def faiss_recall(row: Row) -> Call:
    """The same by faiss alone: an exact index, and a look at the labels of what it finds."""
    import faiss

    embeddings, labels = row.data()

    def run() -> float:
        index = faiss.IndexFlatL2(embeddings.shape[1])
        index.add(embeddings)
        found = labels[index.search(embeddings, 9)[1][:, 1:]]  # the first is the query itself
        return float((found == labels[:, None]).any(axis=1).mean())

    return run


def pairs(row: Row) -> tuple[Any, Any]:
    """As many pairs as the row's batch says: their distances, and whether they are genuine, as one in ten is."""
    import numpy as np

    generator = np.random.default_rng(0)
    is_same = np.arange(row.batch) % 10 == 0
    return generator.standard_normal(row.batch) + np.where(is_same, 0.0, 2.0), is_same


def roc(row: Row) -> Call:
    """The ROC at every threshold, and the area under it."""
    import numpy as np

    import metric_jax as mj

    distances, is_same = pairs(row)

    def run() -> float:
        curve = mj.evaluation.roc(distances, is_same)
        return float(np.trapezoid(curve.tar, curve.far))

    return run


def sklearn_roc(row: Row) -> Call:
    """The same by scikit-learn."""
    from sklearn import metrics

    distances, is_same = pairs(row)

    def run() -> float:
        far, tar, _ = metrics.roc_curve(is_same, -distances, drop_intermediate=False)
        return float(metrics.auc(far, tar))

    return run


def verification(row: Row) -> Call:
    """All that verification tells, with its intervals."""
    import metric_jax as mj

    run = functools.partial(mj.evaluation.verification, *pairs(row))
    return warmed(lambda: run()["auc"])


_IMPORTS = {PML: ("pytorch_metric_learning.utils.accuracy_calculator",)}
_RETRIEVAL = functools.partial(Subject, group=table.EVALUATION, spread=0.5, libraries=_IMPORTS)
_BY_PML = {OURS: retrieval, PML: pml_retrieval, PRODUCT: product}
SUBJECTS = (
    (_RETRIEVAL("retrieval, classes of 5", sides=_BY_PML, samples=5), 20000, 128),
    (_RETRIEVAL("retrieval, classes of 100", sides=_BY_PML, samples=100), 20000, 128),
    (
        _RETRIEVAL("recall@8", sides={OURS: recall, FAISS: faiss_recall, PRODUCT: product}, samples=5),
        20000,
        128,
    ),
    (Subject("ROC and its area, pairs", table.EVALUATION, {OURS: roc, SKLEARN: sklearn_roc}), 1_000_000, 0),
    (
        Subject(
            "verification with intervals, pairs",
            table.EVALUATION,
            {OURS: verification, SKLEARN: sklearn_roc},
            {SKLEARN: "has no intervals: its time is that of the ROC and its area alone"},
        ),
        100_000,
        0,
    ),
)
