"""The one list of losses and miners. What stands here is held to every property; a new loss is one more line."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
import references_mining
import references_proxy
import references_ranking
import references_softmax
import references_weighting

import metric_jax as mj

DIM = 3
LABELS = np.array([0, 1, 0, 2, 1, 0, 3, 2])  # classes of 3, 2, 2 and 1, never two of a class side by side
N = len(LABELS)
DISTANCES = (mj.euclidean, mj.squared_euclidean, mj.manhattan, mj.cosine)


class Precision(NamedTuple):
    """A type to compute in, and how near to a float64 reference that must come, relatively."""

    dtype: type
    tolerance: float


PRECISIONS = {"float64": Precision(np.float64, 1e-10), "float32": Precision(np.float32, 1e-5)}
EVERYTHING = np.ones(N, bool)
PENALTIES = {jax.nn.relu: references.relu, jax.nn.softplus: references.softplus}


def reference_options(options: dict[str, Any], default: mj.Distance | None = mj.euclidean) -> dict[str, Any]:
    """The same options in the words of the references: distances by name, rows in float64."""
    distance = options.pop("distance", None) or default or mj.euclidean
    options = {**options, "distance": references.DISTANCES[distance.name]}
    if "references" in options:
        options["references"] = np.asarray(options["references"], np.float64)
    return options


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
    """A batch loss, and the reference that it is held to.

    Attributes:
        name: What tests call it.
        function: The loss: ``(embeddings, labels[, proxies], *, ...)``.
        terms: The reference: lists one anchor's terms, or with ``whole`` those of all anchors; see `references`.
        own: The keyword arguments of its own. The reference gets the same.
        measure: The distance or similarity that it is tested with; None if it has none.
        measures: All that it is tested with where the test looks at rounding or gradients.
        whole: Whether ``terms`` takes the whole batch.
        weights: Lists what the gradient takes as constant: the argument ``weights`` of ``terms``.
        proxies: Those of a proxy loss, of the four classes of `LABELS`.
        needs: Whether an anchor without a ``"positive"``, a ``"negative"`` or one of ``"both"`` has no term.
        has_classes: Whether its labels are classes, of which only equality counts.
        is_core: Whether it is held to every variant of a property, where the others are held to one.
    """

    name: str
    function: Callable
    terms: Callable
    own: dict[str, Any] = dataclasses.field(default_factory=dict)
    measure: mj.Distance | None = mj.euclidean
    measures: tuple[mj.Distance, ...] = ()
    whole: bool = False
    weights: Callable | None = None
    proxies: np.ndarray | None = None
    needs: str = ""
    has_classes: bool = True
    is_core: bool = False

    def __call__(self, embeddings, labels, *, distance=None, proxies=None, **options):
        distance = distance or self.measure
        if distance is not None:
            is_similarity = getattr(distance, "is_similarity", False)  # a test may pass something wrong
            options["similarity" if is_similarity else "distance"] = distance
        if self.proxies is not None:
            proxies = self.proxies if proxies is None else proxies
            options["proxies"] = jnp.asarray(proxies, jnp.promote_types(embeddings.dtype, jnp.float32))
        return self.function(embeddings, labels, **self.own, **options)

    def expected(self, embeddings, labels, *, proxies=None, **options):
        own = {name: PENALTIES[value] if name == "penalty" else value for name, value in self.own.items()}
        rows = np.asarray(embeddings, np.float64)
        if self.proxies is not None:
            centers = self.proxies if proxies is None else np.asarray(proxies, np.float64)
            options["references"] = centers.reshape(-1, centers.shape[-1])
            options["reference_labels"] = np.repeat(
                np.arange(len(centers)), centers[0].size // centers.shape[-1]
            )
        options = reference_options(options, self.measure)
        return references.batch_loss(self.terms, rows, labels, own=own, whole=self.whole, **options)

    @property
    def all_measures(self):
        return self.measures or (self.measure,)

    def takes(self, argument):
        """Whether the loss has this one of the shared arguments."""
        return argument in inspect.signature(self.function).parameters

    @property
    def is_euclidean(self):
        """Whether it compares positions, which may be moved together."""
        return self.measure in (mj.euclidean, mj.squared_euclidean, mj.manhattan)

    def moved(self, move):
        """The loss with its proxies, if it has any, moved along."""
        return self if self.proxies is None else dataclasses.replace(self, proxies=move(self.proxies))

    @property
    def numbers(self):
        """The own arguments that are numbers and may be learned."""
        return {name: value for name, value in self.own.items() if isinstance(value, float)}

    @property
    def has_hinge(self):
        """Whether a triplet that keeps the margin costs nothing."""
        return self.is_core and "margin" in self.own and "penalty" not in self.own

    @functools.cache
    def batch(self, distance=None):
        """Embeddings of `LABELS`, float64 but exact in float32, at which the loss is smooth and worth a test.

        That is: a hinge has terms on both its sides, and enough beyond it for the value to have digits.
        """
        distance = distance or self.measure

        def value(batch):
            return self.expected(batch, LABELS, distance=distance)

        def is_telling(batch):
            mean_active = self.expected(batch, LABELS, distance=distance, reduction="mean_active")
            return value(batch) > 0.05 and (value(batch) < mean_active or not self.has_hinge)

        return next(filter(is_telling, references.smooth_batches(value, LABELS, DIM)))

    @functools.cache
    def expected_gradient(self, distance=None):
        held = self.held(distance)

        def value(embeddings):
            return held.expected(embeddings, LABELS, distance=distance or self.measure)

        return references.central_differences(value, self.batch(distance))

    def held(self, distance=None):
        """The loss as its gradient sees it: with the weights that it has at its batch."""
        if self.weights is None:
            return self
        options = reference_options({}, distance or self.measure)
        weights = self.weights(list(references.anchors(self.batch(distance), LABELS, **options)), **self.own)
        return dataclasses.replace(self, terms=functools.partial(self.terms, weights=weights))


@dataclasses.dataclass(frozen=True, eq=False)
class Miner:
    """A miner, the reference that mines by loops, and the keyword arguments of its own.

    Attributes:
        measures: The distances that it is about.
        is_random: Whether it draws by a key and by where a row stands, so that other places make another draw.
    """

    name: str
    function: Callable
    reference: Callable
    own: dict[str, Any] = dataclasses.field(default_factory=dict)
    measures: tuple[mj.Distance, ...] = DISTANCES
    is_random: bool = False

    def __call__(self, embeddings, labels, **options):
        options = {"distance": mj.euclidean, **options}  # also where another is the default
        return self.function(embeddings, labels, **self.own, **options)

    def expected(self, embeddings, labels, **options):
        rows = np.asarray(embeddings, np.float64)
        return self.reference(rows, labels, **self.own, **reference_options(options))


SOFT = {"margin": 0.0, "penalty": jax.nn.softplus}

CORE = {"measures": DISTANCES, "is_core": True}
TRIPLETS = {**CORE, "needs": "both"}
COSINE = {"measure": mj.cosine_similarity, "needs": "positive"}
CENTERS = np.round(np.random.default_rng(9).normal(size=(4, DIM)) * 64) / 64  # a proxy for each class
SUB_CENTERS = np.round(np.random.default_rng(10).normal(size=(4, 2, DIM)) * 64) / 64
PROXY = {"measure": mj.cosine_similarity, "proxies": CENTERS}
CENTERED = {"measure": mj.cosine_similarity, "proxies": SUB_CENTERS}

LOSSES = (
    Loss("contrastive", mj.batch_contrastive_loss, references.contrastive, {"margin": 1.0}, **CORE),
    Loss("batch_hard", mj.batch_hard_triplet_loss, references.batch_hard, {"margin": 0.2}, **TRIPLETS),
    Loss("batch_hard_soft", mj.batch_hard_triplet_loss, references.batch_hard, SOFT, **TRIPLETS),
    Loss("semi_hard", mj.batch_semi_hard_triplet_loss, references.semi_hard, {"margin": 0.2}, **TRIPLETS),
    Loss("batch_all", mj.batch_all_triplet_loss, references.batch_all, {"margin": 0.2}, **TRIPLETS),
    # triplet: swap, drop
    Loss(
        "batch_hard_swap",
        mj.batch_hard_triplet_loss,
        functools.partial(references_weighting.batch_hard_options, distance=references.euclidean),
        {"margin": 0.2, "swap": True},
        whole=True,
        needs="both",
    ),
    *(
        Loss(
            name,
            mj.batch_semi_hard_triplet_loss,
            functools.partial(references_weighting.semi_hard_options, distance=references.euclidean),
            {"margin": 0.5, **own},
            whole=True,
            needs="both",
        )
        for name, own in {
            "semi_hard_swap": {"swap": True},
            "semi_hard_drop": {"otherwise": "drop"},
            "semi_hard_swap_drop": {"swap": True, "otherwise": "drop", "penalty": jax.nn.softplus},
        }.items()
    ),
    # softmax
    Loss("ntxent", mj.ntxent_loss, references_softmax.ntxent, {"temperature": 0.2}, **COSINE),
    Loss("supcon", mj.supcon_loss, references_softmax.supcon, {"temperature": 0.2}, **COSINE),
    Loss("npairs", mj.npairs_loss, references_softmax.npairs, {}, mj.dot_product, needs="positive"),
    Loss(
        "decoupled_contrastive",
        mj.decoupled_contrastive_loss,
        references_softmax.decoupled_contrastive,
        {"temperature": 0.2},
        mj.cosine_similarity,
        whole=True,
        needs="both",
    ),
    Loss(
        "decoupled_contrastive_weighted",
        mj.decoupled_contrastive_loss,
        references_softmax.decoupled_contrastive,
        {"temperature": 0.2, "sigma": 0.5},
        mj.cosine_similarity,
        whole=True,
        needs="both",
    ),
    Loss(
        "tuplet_margin",
        mj.tuplet_margin_loss,
        references_softmax.tuplet_margin,
        {"margin": 0.1, "scale": 8.0},
        **COSINE,
    ),
    Loss("nca", mj.nca_loss, references_softmax.nca, {}, mj.squared_euclidean, needs="positive"),
    Loss(
        "soft_nearest_neighbor",
        mj.soft_nearest_neighbor_loss,
        references_softmax.soft_nearest_neighbor,
        {"temperature": 2.0},
        mj.squared_euclidean,
        needs="positive",
    ),
    # weighting
    Loss(
        "multi_similarity",
        mj.multi_similarity_loss,
        references_weighting.multi_similarity,
        {"alpha": 2.0, "beta": 10.0, "base": 0.5, "epsilon": 0.15},
        mj.cosine_similarity,
        needs="both",
    ),
    Loss(
        "multi_similarity_of_all",
        mj.multi_similarity_loss,
        references_weighting.multi_similarity,
        {"alpha": 2.0, "beta": 10.0, "base": 0.4, "epsilon": None},
        mj.cosine_similarity,
    ),
    Loss(
        "circle",
        mj.circle_loss,
        references_weighting.circle,
        {"margin": 0.25, "scale": 8.0},
        mj.cosine_similarity,
        whole=True,
        weights=references_weighting.circle_weights,
        needs="both",
    ),
    Loss(
        "margin",
        mj.margin_loss,
        references_weighting.margin_based,
        {"margin": 0.25, "beta": 1.25},
        whole=True,
    ),
    Loss(
        "ranked_list",
        mj.ranked_list_loss,
        references_weighting.ranked_list,
        {
            "margin": 0.5,
            "alpha": 1.5,
            "balance": 0.375,
            "positive_temperature": 0.5,
            "negative_temperature": 2.0,
        },
        whole=True,
        weights=references_weighting.ranked_list_weights,
    ),
    Loss(
        "intra_pair_variance",
        mj.intra_pair_variance_loss,
        references_weighting.intra_pair_variance,
        {"positive_epsilon": 0.01, "negative_epsilon": 0.02},
        mj.cosine_similarity,
        whole=True,
    ),
    Loss(
        "signal_to_noise",
        mj.signal_to_noise_loss,
        references_weighting.signal_to_noise_contrastive,
        {"positive_margin": 0.1, "negative_margin": 2.0},
        mj.signal_to_noise,
    ),
    Loss(
        "lifted",
        mj.lifted_structure_loss,
        references_weighting.lifted,
        {"margin": 1.0},
        whole=True,
        needs="both",
    ),
    Loss(
        "generalized_lifted",
        mj.generalized_lifted_structure_loss,
        references_weighting.generalized_lifted,
        {"margin": 1.0},
        needs="both",
    ),
    Loss(
        "histogram",
        mj.histogram_loss,
        references_weighting.histogram,
        {"bins": 10},
        mj.cosine_similarity,
        whole=True,
        needs="positive",
    ),
    Loss(
        "angular",
        mj.angular_loss,
        references_weighting.angular,
        {"alpha": 0.6},
        mj.cosine_similarity,
        whole=True,
        needs="both",
    ),
    # ranking
    Loss(
        "fastap",
        mj.fastap_loss,
        references_ranking.fastap,
        {"bins": 6, "largest": 2.0},
        mj.cosine,
        needs="positive",
    ),
    Loss("smooth_ap", mj.smooth_ap_loss, references_ranking.smooth_ap, {"temperature": 0.1}, **COSINE),
    Loss(
        "recall_at_k",
        mj.recall_at_k_loss,
        references_ranking.recall_at_k,
        {"ks": (1, 2, 4), "rank_temperature": 1.0, "similarity_temperature": 0.1},
        **COSINE,
    ),
    *(
        Loss(
            f"pnp_{variant}",
            mj.pnp_loss,
            references_ranking.pnp,
            {"variant": variant, "temperature": 0.1, **own},
            **COSINE,
        )
        for variant, own in {"O": {}, "Iu": {}, "Ib": {"b": 2.0}, "Ds": {}, "Dq": {"alpha": 2.0}}.items()
    ),
    Loss(
        "rank_n_contrast",
        mj.rank_n_contrast_loss,
        references_softmax.rank_n_contrast,
        {"temperature": 2.0},
        whole=True,
        has_classes=False,
    ),
    # proxy
    Loss(
        "normalized_softmax",
        mj.normalized_softmax_loss,
        references_proxy.normalized_softmax,
        {"temperature": 0.2},
        **PROXY,
    ),
    Loss("cosface", mj.cosface_loss, references_proxy.cosface, {"margin": 0.35, "scale": 8.0}, **PROXY),
    Loss("arcface", mj.arcface_loss, references_proxy.arcface, {"margin": 0.5, "scale": 8.0}, **PROXY),
    Loss(
        "subcenter_arcface",
        mj.subcenter_arcface_loss,
        references_proxy.subcenter_arcface,
        {"margin": 0.5, "scale": 8.0},
        whole=True,
        **CENTERED,
    ),
    Loss("sphereface", mj.sphereface_loss, references_proxy.sphereface, {"margin": 4}, whole=True, **PROXY),
    Loss(
        "large_margin_softmax",
        mj.large_margin_softmax_loss,
        references_proxy.large_margin_softmax,
        {"margin": 3},
        whole=True,
        **PROXY,
    ),
    Loss(
        "instance",
        mj.instance_loss,
        references_proxy.instance,
        {"scale": 2.0},
        mj.dot_product,
        proxies=CENTERS,
    ),
    Loss("p2sgrad", mj.p2sgrad_loss, references_proxy.p2sgrad, **PROXY),
    Loss("proxy_nca", mj.proxy_nca_loss, references_proxy.proxy_nca, {"scale": 1.5}, **PROXY),
    Loss("proxy_nca_pp", mj.proxy_nca_pp_loss, references_proxy.proxy_nca_pp, {"temperature": 0.25}, **PROXY),
    Loss(
        "proxy_anchor",
        mj.proxy_anchor_loss,
        references_proxy.proxy_anchor,
        {"margin": 0.1, "scale": 8.0},
        whole=True,
        **PROXY,
    ),
    Loss(
        "soft_triple",
        mj.soft_triple_loss,
        references_proxy.soft_triple,
        {"scale": 8.0, "margin": 0.1, "tau": 0.2},
        whole=True,
        **CENTERED,
    ),
    Loss("center", mj.center_loss, references_proxy.center, measure=mj.squared_euclidean, proxies=CENTERS),
    # two views and regularizers
)


def gumbel(key, anchor, positive, count):
    """A miner's own random numbers, by its documented recipe: its reference takes them as they are."""
    key = jax.random.fold_in(jax.random.fold_in(key, anchor), positive)
    return np.asarray(jax.random.gumbel(key, (count,), np.float32), np.float64)


def uniform(key, anchor, count):
    return np.asarray(jax.random.uniform(jax.random.fold_in(key, anchor), (count,), np.float32), np.float64)


KEYED = {"key": jax.random.key(0)}
EUCLIDEAN = (mj.euclidean, mj.squared_euclidean, mj.cosine)
EASY_HARD = {
    "easy_semi_hard": {},
    "semi_hard_easy": {"positive": "semi_hard", "negative": "easy", "positive_range": (0.1, 4.0)},
    "hard_ranks": {"positive": "hard", "negative": "hard", "negative_ranks": (1, 4)},
}

MINERS = (
    Miner("batch_hard", mj.mining.batch_hard, references.mine_batch_hard),
    Miner("semi_hard", mj.mining.batch_semi_hard, references.mine_semi_hard),
    *(
        Miner(name, mj.mining.batch_easy_hard, references_mining.batch_easy_hard, own)
        for name, own in EASY_HARD.items()
    ),
    *(
        Miner(f"margin_{kind}", mj.mining.triplet_margin, references_mining.triplet_margin, {"kind": kind})
        for kind in ("all", "hard", "semi_hard", "easy")
    ),
    Miner("angular", mj.mining.angular, references_mining.angular, {"max_triplets": 5}, EUCLIDEAN),
    Miner("pair_margin", mj.mining.pair_margin, references_mining.pair_margin, {"max_negatives": 2}),
    Miner("multi_similarity", mj.mining.multi_similarity, references_mining.multi_similarity),
    Miner(
        "distance_weighted",
        mj.mining.distance_weighted,
        functools.partial(references_mining.distance_weighted, noise=gumbel),
        KEYED,
        EUCLIDEAN,
        is_random=True,
    ),
    Miner(
        "uniform_histogram",
        mj.mining.uniform_histogram,
        functools.partial(references_mining.uniform_histogram, noise=uniform),
        {**KEYED, "bins": 3, "negatives_per_bin": 2},
        is_random=True,
    ),
)

CORE_LOSSES = [loss for loss in LOSSES if loss.is_core]
TRIPLET_LOSSES = [loss for loss in CORE_LOSSES if loss.needs == "both"]
HINGE_LOSSES = [loss for loss in TRIPLET_LOSSES if loss.has_hinge]


def every(argument, choices):
    return pytest.mark.parametrize(argument, choices, ids=[choice.name for choice in choices])


def every_loss_with(argument, choices, rest=(), losses=LOSSES):
    """Every core loss with every choice, and every other loss with those of ``rest``, or of ``rest(loss)``."""
    cases = [
        pytest.param(loss, choice, id=f"{loss.name}-{getattr(choice, 'name', choice)}")
        for loss in losses
        for choice in (choices if loss.is_core else rest(loss) if callable(rest) else rest)
    ]
    return pytest.mark.parametrize(("loss", argument), cases)


def every_loss_in(*precisions, losses=LOSSES):
    """Every core loss in both precisions, and every other loss in these."""
    cases = [
        pytest.param(loss, precision, id=f"{loss.name}-{name}")
        for loss in losses
        for name, precision in PRECISIONS.items()
        if loss.is_core or name in precisions
    ]
    return pytest.mark.parametrize(("loss", "precision"), cases, indirect=["precision"])


every_loss = every("loss", LOSSES)
every_core_loss = every("loss", CORE_LOSSES)
every_loss_in_both = every_loss_in("float64", "float32")
every_loss_and_measure = every_loss_with("distance", DISTANCES, lambda loss: loss.all_measures)
every_loss_of_references = every("loss", [loss for loss in LOSSES if loss.takes("references")])
every_triplet_loss = every("loss", TRIPLET_LOSSES)
every_hinge_loss = every("loss", HINGE_LOSSES)
every_miner = every("miner", MINERS)
every_distance = every("distance", DISTANCES)
every_reduction = pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum", "none"])


def random_rows(seed=0, n=N):
    """Rows without a structure."""
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


def tied_rows(n, classes=3):
    """Integer rows with duplicates, hence many distances that tie exactly, and labels."""
    generator = np.random.default_rng(n)
    rows = generator.integers(0, 3, size=(n, DIM)).astype(np.float32)
    rows[1], rows[n // 2] = rows[0], rows[n - 1]
    return rows, generator.permutation(np.arange(n) % classes)


@functools.cache
def compiled(loss, distance=None, tile="auto"):
    """``(embeddings, labels, where) -> (value, gradient)``, compiled once for all the tests that need it."""

    def value(embeddings, labels, where):
        options = {name: given for name, given in (("tile", tile),) if loss.takes(name)}
        return loss(embeddings, labels, where=where, distance=distance, **options)

    return jax.jit(jax.value_and_grad(value))


def value_and_gradient(loss, distance=None, tile="auto"):
    """The same, with a mask of all rows where there is none: one compilation serves both."""
    step = compiled(loss, distance, tile)

    def run(embeddings, labels, where=None):
        return step(embeddings, labels, np.ones(len(embeddings), bool) if where is None else where)

    return run


@functools.cache
def with_references(loss):
    """``(embeddings, labels, references, reference_labels, reference_where) -> (sum, (gradient to each))``."""

    def value(embeddings, labels, references, reference_labels, reference_where):
        options = {"references": references, "reference_labels": reference_labels}
        return loss(embeddings, labels, **options, reference_where=reference_where, reduction="sum")

    return jax.jit(jax.value_and_grad(value, argnums=(0, 2)))


@functools.cache
def mine(miner, distance=mj.euclidean, tile="auto"):
    """``(embeddings, labels, where) -> Triplets``, likewise."""
    return jax.jit(
        lambda embeddings, labels, where: miner(embeddings, labels, where=where, distance=distance, tile=tile)
    )


def assert_close(actual, expected, tolerance):
    """Equal up to a tolerance relative to the largest entry: one that cancels to 0 has no digits of its own."""
    expected = np.asarray(expected, np.float64)
    assert np.isfinite(expected).all()  # or NaN would equal NaN
    scale = np.max(np.abs(expected), initial=0.0)
    actual = np.asarray(actual, np.float64)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale, strict=True)


def assert_same_triplets(actual, expected):
    """Equal, column by column; a reference that gives three columns leaves the anchors out."""
    columns = mj.mining.Triplets._fields[-len(expected) :]
    for name, ours, theirs in zip(columns, tuple(actual)[-len(expected) :], expected, strict=True):
        np.testing.assert_array_equal(np.asarray(ours, int), np.asarray(theirs, int), name, strict=True)
