"""The core losses and the miners of the benchmark: how metric_jax, PML and optax compute each."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from experiments import benchmark_rows as table
from experiments.benchmark_rows import DENSE, OPTAX, OURS, PML, PRODUCT, Call, Maker, Row, Subject
from experiments.benchmark_sides import arrays, compiled, our_miner, ours, peer, peer_miner, product


def textbook(pml: Any, **own: Any) -> dict[str, Any]:
    """The arguments by which PML's losses become the textbook's: rows taken as they are, mean over all terms."""
    distance = pml.distances.LpDistance(normalize_embeddings=False)
    return {"distance": distance, "reducer": pml.reducers.MeanReducer(), **own}


def pml_batch_hard(pml: Any) -> Callable[..., Any]:
    """PML's batch-hard triplet loss: its miner, then its loss."""
    miner = pml.miners.BatchHardMiner(distance=textbook(pml)["distance"])
    loss = pml.losses.TripletMarginLoss(**textbook(pml, margin=0.2))
    return lambda embeddings, labels: loss(embeddings, labels, miner(embeddings, labels))


def optax_batch_hard(row: Row) -> Call:
    """Optax's triplet loss, of triplets that four lines of JAX mine."""
    import jax
    import jax.numpy as jnp
    import optax

    def loss(x: Any, labels: Any) -> Any:
        same = labels[:, None] == labels[None]
        squared = (x**2).sum(1)[:, None] + (x**2).sum(1)[None] - 2 * jnp.matmul(x, x.T, precision="highest")
        positive = jnp.where(same, jax.lax.stop_gradient(squared), -jnp.inf).argmax(1)
        negative = jnp.where(same, jnp.inf, jax.lax.stop_gradient(squared)).argmin(1)
        return optax.losses.triplet_margin_loss(x, x[positive], x[negative], margin=0.2).mean()

    return compiled(jax.value_and_grad(loss), *arrays(row))


def optax_ntxent(row: Row) -> Call:
    """Optax's NT-Xent."""
    import jax
    import optax

    return compiled(jax.value_and_grad(functools.partial(optax.losses.ntxent, temperature=0.1)), *arrays(row))


def core(name: str, loss: str, others: dict[str, Maker], remarks: dict[str, str], **options: Any) -> Subject:
    """A loss of all pairs of a batch."""
    own = {OURS: ours(loss, **options), DENSE: ours(loss, dense=True, **options)}
    return Subject(name, table.LOSSES, {**own, **others, PRODUCT: product}, remarks)


def mining(name: str, others: dict[str, Maker], remarks: dict[str, str], **options: Any) -> Subject:
    """A miner; its name is that of ``mj.mining``."""
    own = {OURS: our_miner(name, **options), DENSE: our_miner(name, dense=True, **options)}
    return Subject(f"mining.{name}", table.MINERS, {**own, **others, PRODUCT: product}, remarks)


def _of_pml(name: str, **options: Any) -> dict[str, Maker]:
    return {PML: peer(lambda pml: getattr(pml.losses, name)(**options))}


def _textbook_of_pml(name: str, **options: Any) -> dict[str, Maker]:
    return {PML: peer(lambda pml: getattr(pml.losses, name)(**textbook(pml, **options)))}


LOSSES = (
    core(
        "batch-hard",
        "batch_hard_triplet_loss",
        {PML: peer(pml_batch_hard), OPTAX: optax_batch_hard},
        {},
    ),
    core(
        "semi-hard",
        "batch_semi_hard_triplet_loss",
        {},
        {
            PML: "has none: its semi-hard miner keeps all triplets within a band, not one for each positive pair"
        },
    ),
    core("batch-all", "batch_all_triplet_loss", _textbook_of_pml("TripletMarginLoss", margin=0.2), {}),
    core(
        "contrastive",
        "batch_contrastive_loss",
        _textbook_of_pml("ContrastiveLoss", pos_margin=0.0, neg_margin=1.0),
        {PML: "another value: linear in the distance, and the means of positives and negatives are added"},
    ),
    core("SupCon", "supcon_loss", _of_pml("SupConLoss", temperature=0.1), {}, temperature=0.1),
    core(
        "NT-Xent",
        "ntxent_loss",
        {**_of_pml("NTXentLoss", temperature=0.1), OPTAX: optax_ntxent},
        {},
        temperature=0.1,
    ),
    core(
        "multi-similarity",
        "multi_similarity_loss",
        _of_pml("MultiSimilarityLoss", alpha=2, beta=50, base=0.5),
        {},
        epsilon=None,
    ),
    core("circle", "circle_loss", _of_pml("CircleLoss", m=0.4, gamma=80), {}, margin=0.4, scale=80.0),
)

_CAPPED = {PML: "keeps every triplet that violates; metric_jax the 64 hardest of an anchor"}
MINERS = (
    mining("batch_hard", {PML: peer_miner("BatchHardMiner")}, {}),
    mining("batch_semi_hard", {}, {PML: "has none, as above"}),
    mining("batch_easy_hard", {PML: peer_miner("BatchEasyHardMiner")}, {}),
    mining(
        "multi_similarity",
        {PML: peer_miner("MultiSimilarityMiner", distance="CosineSimilarity", pairs=True)},
        {},
    ),
    mining("pair_margin", {PML: peer_miner("PairMarginMiner", pairs=True)}, {}),
    mining("triplet_margin", {PML: peer_miner("TripletMarginMiner")}, _CAPPED),
    mining("angular", {PML: peer_miner("AngularMiner")}, _CAPPED),
    mining(
        "distance_weighted",
        {PML: peer_miner("DistanceWeightedMiner")},
        {PML: "draws at random: other triplets"},
        seed=0,
    ),
    mining(
        "uniform_histogram",
        {PML: peer_miner("UniformHistogramMiner", 10, 1, 1, pairs=True)},
        {PML: "draws so many pairs of the whole batch from every bin; metric_jax of every anchor"},
        seed=0,
    ),
)


def any_loss(name: str) -> Subject:
    """Any loss of embeddings and labels, with its defaults."""
    return Subject(name, table.EVERY_LOSS, {OURS: ours(name)})


def of_labels(mj: Any) -> list[str]:
    """The names of all losses of embeddings and labels alone."""
    found = []
    for name, value in vars(mj).items():
        if name.endswith("_loss"):
            parameters = inspect.signature(value).parameters.values()
            if [p.name for p in parameters if p.default is p.empty] == ["embeddings", "labels"]:
                found.append(name)
    return sorted(found)
