"""What `benchmark.py` measures: the losses, and how pytorch-metric-learning (PML) computes the same.

Another comparison is one more entry of ``ROWS``.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

Loss = Callable[[Any, Any], Any]
DIM = 128


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        loss: Its name, by which a worker finds the functions.
        batch: Rows of embeddings.
        ours: The loss, given the module ``metric_jax``.
        peer: PML's loss, given the module ``pytorch_metric_learning``; None if it has none.
        remark: How PML's differs, or why there is none. Empty: both are one function, and their values must agree.
        product: Whether to time the matrix product too.
        turns: How often each side is timed.
        samples: Rows of every class.
        spread: How far classes lie apart, in units of what rows of one class differ by; 0 for rows without a structure.
        gradient: Whether the gradient to the embeddings is computed too; without it, both sides take NumPy arrays.
    """

    loss: str
    batch: int
    ours: Callable[[Any], Loss]
    peer: Callable[[Any], Loss] | None = None
    remark: str = ""
    product: bool = True
    turns: int = 9
    samples: int = 4
    spread: float = 0.0
    gradient: bool = True

    def data(self) -> tuple[Any, Any]:
        """The embeddings ``[batch, DIM]``, of length 1, and labels ``[batch]`` that every side gets."""
        import numpy as np

        generator, labels = np.random.default_rng(0), np.arange(self.batch) // self.samples
        rows = generator.standard_normal((self.batch, DIM), dtype=np.float32)
        if self.spread:
            centers = generator.standard_normal((labels[-1] + 1, DIM), dtype=np.float32)
            rows += np.float32(self.spread) * centers[labels]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True), labels


def textbook(pml: Any, **own: Any) -> dict[str, Any]:
    """The arguments by which PML's losses become the textbook's: rows taken as they are, mean over all terms."""
    distance = pml.distances.LpDistance(normalize_embeddings=False)
    return {"distance": distance, "reducer": pml.reducers.MeanReducer(), **own}


def pml_batch_hard(pml: Any) -> Loss:
    """PML's batch-hard triplet loss: its miner, then its loss."""
    miner = pml.miners.BatchHardMiner(distance=textbook(pml)["distance"])
    loss = pml.losses.TripletMarginLoss(**textbook(pml, margin=0.2))
    return lambda embeddings, labels: loss(embeddings, labels, miner(embeddings, labels))


def retrieval(mj: Any) -> Loss:
    """MAP@R, with P@1 and R-precision computed along."""
    metrics = ("map_at_r", "precision@1", "r_precision")
    return lambda embeddings, labels: mj.evaluation.retrieval(embeddings, labels, metrics=metrics)["map_at_r"]


def pml_retrieval(pml: Any) -> Loss:
    """The same by PML's calculator, which searches with faiss."""
    import torch

    names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    module = pml.utils.accuracy_calculator
    calculator = module.AccuracyCalculator(include=names, k="max_bin_count")

    def run(embeddings: Any, labels: Any) -> Any:
        found = calculator.get_accuracy(torch.from_numpy(embeddings), torch.from_numpy(labels))
        return found["mean_average_precision_at_r"]

    return run


def recall(mj: Any) -> Loss:
    """Recall@8."""
    return lambda embeddings, labels: mj.evaluation.retrieval(
        embeddings, labels, metrics="recall@k", ks=(8,)
    )["recall@8"]


def faiss_recall(pml: Any) -> Loss:
    """The same by faiss alone: an exact index, and a look at the labels of what it finds."""
    import faiss

    del pml

    def run(embeddings: Any, labels: Any) -> Any:
        index = faiss.IndexFlatL2(embeddings.shape[1])
        index.add(embeddings)
        found = labels[index.search(embeddings, 9)[1][:, 1:]]  # the first is the query itself
        return (found == labels[:, None]).any(axis=1).mean()

    return run


RETRIEVAL = Row("retrieval", 20000, retrieval, pml_retrieval, samples=5, spread=0.5, gradient=False, turns=5)
BATCH_HARD = Row("batch-hard", 4096, lambda mj: mj.batch_hard_triplet_loss, pml_batch_hard)
NTXENT = Row(
    "NT-Xent",
    256,
    lambda mj: functools.partial(mj.ntxent_loss, temperature=0.1),
    lambda pml: pml.losses.NTXentLoss(temperature=0.1),
)
ROWS = (
    BATCH_HARD,
    dataclasses.replace(BATCH_HARD, batch=65536, product=False, turns=1),
    Row(
        "semi-hard",
        4096,
        lambda mj: mj.batch_semi_hard_triplet_loss,
        remark="PML has none: its semi-hard miner keeps all triplets within a band, not one for each positive pair",
    ),
    Row(
        "batch-all",
        1024,
        lambda mj: mj.batch_all_triplet_loss,
        lambda pml: pml.losses.TripletMarginLoss(**textbook(pml, margin=0.2)),
    ),
    Row(
        "contrastive",
        4096,
        lambda mj: mj.batch_contrastive_loss,
        lambda pml: pml.losses.ContrastiveLoss(**textbook(pml, pos_margin=0.0, neg_margin=1.0)),
        remark="PML's is linear in the distance and averages positives and negatives apart: another value",
    ),
    Row(
        "SupCon",
        4096,
        lambda mj: functools.partial(mj.supcon_loss, temperature=0.1),
        lambda pml: pml.losses.SupConLoss(temperature=0.1),
    ),
    Row(
        "multi-similarity",
        4096,
        lambda mj: functools.partial(mj.multi_similarity_loss, epsilon=None),
        lambda pml: pml.losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5),
    ),
    Row(
        "circle",
        4096,
        lambda mj: functools.partial(mj.circle_loss, margin=0.4, scale=80.0),
        lambda pml: pml.losses.CircleLoss(m=0.4, gamma=80),
    ),
    NTXENT,
    dataclasses.replace(
        NTXENT, batch=4096, remark="PML holds a number for every positive and every negative pair"
    ),
    RETRIEVAL,
    dataclasses.replace(RETRIEVAL, loss="retrieval, classes of 100", samples=100),
    dataclasses.replace(RETRIEVAL, loss="recall@8, faiss alone", ours=recall, peer=faiss_recall),
)

MEMORY_BATCH = 32768


def of_labels(mj: Any) -> list[str]:
    """The names of all losses of embeddings and labels alone."""
    found = []
    for name, value in vars(mj).items():
        if name.endswith("_loss"):
            parameters = inspect.signature(value).parameters.values()
            if [p.name for p in parameters if p.default is p.empty] == ["embeddings", "labels"]:
                found.append(name)
    return sorted(found)
