"""The one list of losses and miners. What stands here is held to every property; a new loss is one more line."""

import functools

import jax
import numpy as np
import references
import references_mining
import references_proxy
import references_ranking
import references_self_supervised
import references_softmax
import references_weighting
from subjects import DIM, DISTANCES, Loss, Miner, of_rows, of_views, terms_of_rows, terms_of_views

import metric_jax as mj

SOFT = {"margin": 0.0, "penalty": jax.nn.softplus}

CORE = {"measures": DISTANCES, "is_core": True}
TRIPLETS = {**CORE, "needs": "both"}
COSINE = {"measure": mj.cosine_similarity, "needs": "positive"}
VIEWS = {"measure": None, "whole": True, "has_classes": False}
CENTERS = np.round(np.random.default_rng(9).normal(size=(4, DIM)) * 64) / 64  # a proxy for each class
SUB_CENTERS = np.round(np.random.default_rng(10).normal(size=(4, 2, DIM)) * 64) / 64
PROXY = {"measure": mj.cosine_similarity, "proxies": CENTERS}
CENTERED = {"measure": mj.cosine_similarity, "proxies": SUB_CENTERS}

LOSSES = (
    Loss("contrastive", mj.batch_contrastive_loss, references.contrastive, {"margin": 1.0}, **CORE),
    Loss("batch_hard", mj.batch_hard_triplet_loss, references.batch_hard, {"margin": 0.2}, **TRIPLETS),
    Loss("batch_hard_soft", mj.batch_hard_triplet_loss, references.batch_hard, SOFT, needs="both"),
    Loss("semi_hard", mj.batch_semi_hard_triplet_loss, references.semi_hard, {"margin": 0.2}, **TRIPLETS),
    Loss("batch_all", mj.batch_all_triplet_loss, references.batch_all, {"margin": 0.2}, **TRIPLETS),
    # triplet: swap, drop
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
            "semi_hard_swap_drop": {"swap": True, "otherwise": "drop", "penalty": jax.nn.softplus},
        }.items()
    ),
    # softmax
    Loss("ntxent", mj.ntxent_loss, references_softmax.ntxent, {"temperature": 0.2}, **COSINE),
    Loss("supcon", mj.supcon_loss, references_softmax.supcon, {"temperature": 0.2}, **COSINE),
    Loss("npairs", mj.npairs_loss, references_softmax.npairs, {}, mj.dot_product, needs="positive"),
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
        for variant, own in {"Dq": {"alpha": 2.0}}.items()
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
    Loss(
        "sphereface",
        mj.sphereface_loss,
        references_proxy.sphereface,
        {"margin": 4},
        whole=True,
        sees_lengths=True,
        **PROXY,
    ),
    Loss(
        "large_margin_softmax",
        mj.large_margin_softmax_loss,
        references_proxy.large_margin_softmax,
        {"margin": 3},
        whole=True,
        sees_lengths=True,
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
        is_per_proxy=True,
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
    Loss(
        "center",
        mj.center_loss,
        references_proxy.center,
        measure=mj.squared_euclidean,
        proxies=CENTERS,
        has_product=False,
    ),
    # two views and regularizers: known by rows, not by labels
    Loss(
        "infonce",
        of_views(mj.infonce_loss),
        functools.partial(references_softmax.items, references_softmax.infonce),
        {"temperature": 0.3},
        **VIEWS,
    ),
    Loss(
        "siglip",
        of_views(mj.siglip_loss),
        functools.partial(references_softmax.items, references_softmax.siglip),
        {"temperature": 0.3, "bias": -1.5},
        **VIEWS,
    ),
    *(
        Loss(name, of_views(loss), terms_of_views(reference), own, **VIEWS)
        for name, loss, reference, own in (
            ("vicreg", mj.vicreg_loss, references_self_supervised.vicreg, {"variance": 20.0}),
            (
                "barlow_twins",
                mj.barlow_twins_loss,
                references_self_supervised.barlow_twins,
                {"offdiagonal": 0.1},
            ),
            ("alignment", mj.alignment_loss, references_self_supervised.alignment, {"power": 2.0}),
        )
    ),
    *(
        Loss(name, of_rows(loss), terms_of_rows(reference), own, **VIEWS)
        for name, loss, reference, own in (
            ("koleo", mj.koleo_loss, references_self_supervised.koleo, {}),
            ("uniformity", mj.uniformity_loss, references_self_supervised.uniformity, {"t": 0.5}),
            (
                "embedding_norm",
                mj.embedding_norm_loss,
                references_self_supervised.embedding_norm,
                {"radius": 0.5},
            ),
            ("zero_mean", mj.zero_mean_loss, references_self_supervised.zero_mean, {}),
        )
    ),
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
    "semi_hard_easy": {"positive": "semi_hard", "negative": "easy", "positive_range": (0.1, 4.0)},
    "hard_ranks": {"positive": "hard", "negative": "hard", "negative_ranks": (1, 4)},
}

MINERS = (
    Miner("batch_hard", mj.mining.batch_hard, references.mine_batch_hard, is_core=True),
    Miner("semi_hard", mj.mining.batch_semi_hard, references.mine_semi_hard, is_core=True),
    *(
        Miner(name, mj.mining.batch_easy_hard, references_mining.batch_easy_hard, own)
        for name, own in EASY_HARD.items()
    ),
    *(
        Miner(f"margin_{kind}", mj.mining.triplet_margin, references_mining.triplet_margin, {"kind": kind})
        for kind in ("all", "semi_hard")
    ),
    Miner("angular", mj.mining.angular, references_mining.angular, {"max_triplets": 5}, EUCLIDEAN),
    Miner(
        "pair_margin", mj.mining.pair_margin, references_mining.pair_margin, {"max_negatives": 2}, needs=""
    ),
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
        needs="",
    ),
)
