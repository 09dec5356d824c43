"""metric_jax: deep metric learning in JAX."""

import importlib
from typing import Any

from metric_jax import diagnostics as diagnostics
from metric_jax import evaluation as evaluation
from metric_jax import grad_cache as grad_cache
from metric_jax import memory as memory
from metric_jax import mining as mining
from metric_jax import recipes as recipes
from metric_jax import whitening as whitening
from metric_jax.anchors import per_anchor as per_anchor
from metric_jax.distances import Distance as Distance
from metric_jax.distances import cosine as cosine
from metric_jax.distances import cosine_similarity as cosine_similarity
from metric_jax.distances import dot_product as dot_product
from metric_jax.distances import euclidean as euclidean
from metric_jax.distances import manhattan as manhattan
from metric_jax.distances import normalize as normalize
from metric_jax.distances import signal_to_noise as signal_to_noise
from metric_jax.distances import squared_euclidean as squared_euclidean
from metric_jax.limits import Limits as Limits
from metric_jax.losses.continuous import rank_n_contrast_loss as rank_n_contrast_loss
from metric_jax.losses.contrastive import batch_contrastive_loss as batch_contrastive_loss
from metric_jax.losses.contrastive import contrastive_loss as contrastive_loss
from metric_jax.losses.explicit import batch_triplet_loss as batch_triplet_loss
from metric_jax.losses.heads import arcface_loss as arcface_loss
from metric_jax.losses.heads import cosface_loss as cosface_loss
from metric_jax.losses.heads import instance_loss as instance_loss
from metric_jax.losses.heads import large_margin_softmax_loss as large_margin_softmax_loss
from metric_jax.losses.heads import normalized_softmax_loss as normalized_softmax_loss
from metric_jax.losses.heads import p2sgrad_loss as p2sgrad_loss
from metric_jax.losses.heads import sphereface_loss as sphereface_loss
from metric_jax.losses.heads import subcenter_arcface_loss as subcenter_arcface_loss
from metric_jax.losses.matryoshka import matryoshka as matryoshka
from metric_jax.losses.neighbours import nca_loss as nca_loss
from metric_jax.losses.neighbours import soft_nearest_neighbor_loss as soft_nearest_neighbor_loss
from metric_jax.losses.partial_fc import SampledClasses as SampledClasses
from metric_jax.losses.partial_fc import sample_classes as sample_classes
from metric_jax.losses.proxy import center_loss as center_loss
from metric_jax.losses.proxy import proxy_anchor_loss as proxy_anchor_loss
from metric_jax.losses.proxy import proxy_nca_loss as proxy_nca_loss
from metric_jax.losses.proxy import proxy_nca_pp_loss as proxy_nca_pp_loss
from metric_jax.losses.proxy import soft_triple_loss as soft_triple_loss
from metric_jax.losses.ranking import fastap_loss as fastap_loss
from metric_jax.losses.ranking import pnp_loss as pnp_loss
from metric_jax.losses.ranking import recall_at_k_loss as recall_at_k_loss
from metric_jax.losses.ranking import smooth_ap_loss as smooth_ap_loss
from metric_jax.losses.regularizers import embedding_norm_loss as embedding_norm_loss
from metric_jax.losses.regularizers import koleo_loss as koleo_loss
from metric_jax.losses.regularizers import uniformity_loss as uniformity_loss
from metric_jax.losses.regularizers import zero_mean_loss as zero_mean_loss
from metric_jax.losses.self_supervised import alignment_loss as alignment_loss
from metric_jax.losses.self_supervised import barlow_twins_loss as barlow_twins_loss
from metric_jax.losses.self_supervised import vicreg_loss as vicreg_loss
from metric_jax.losses.softmax import decoupled_contrastive_loss as decoupled_contrastive_loss
from metric_jax.losses.softmax import ntxent_loss as ntxent_loss
from metric_jax.losses.softmax import supcon_loss as supcon_loss
from metric_jax.losses.structured import angular_loss as angular_loss
from metric_jax.losses.structured import (
    generalized_lifted_structure_loss as generalized_lifted_structure_loss,
)
from metric_jax.losses.structured import histogram_loss as histogram_loss
from metric_jax.losses.structured import lifted_structure_loss as lifted_structure_loss
from metric_jax.losses.triplet import batch_all_triplet_loss as batch_all_triplet_loss
from metric_jax.losses.triplet import batch_hard_triplet_loss as batch_hard_triplet_loss
from metric_jax.losses.triplet import batch_semi_hard_triplet_loss as batch_semi_hard_triplet_loss
from metric_jax.losses.triplet import triplet_loss as triplet_loss
from metric_jax.losses.tuplets import npairs_loss as npairs_loss
from metric_jax.losses.tuplets import tuplet_margin_loss as tuplet_margin_loss
from metric_jax.losses.two_views import infonce_loss as infonce_loss
from metric_jax.losses.two_views import siglip_loss as siglip_loss
from metric_jax.losses.weighting import circle_loss as circle_loss
from metric_jax.losses.weighting import intra_pair_variance_loss as intra_pair_variance_loss
from metric_jax.losses.weighting import margin_loss as margin_loss
from metric_jax.losses.weighting import multi_similarity_loss as multi_similarity_loss
from metric_jax.losses.weighting import ranked_list_loss as ranked_list_loss
from metric_jax.losses.weighting import signal_to_noise_loss as signal_to_noise_loss
from metric_jax.proxies import softmax_head as softmax_head
from metric_jax.reductions import Terms as Terms
from metric_jax.reductions import terms as terms
from metric_jax.types import Pairs as Pairs
from metric_jax.types import Triplets as Triplets

_LOADED_WHEN_USED = ("data", "models", "training")  # they need Flax, Grain and more


def __getattr__(name: str) -> Any:
    if name in _LOADED_WHEN_USED:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
