"""metric_jax: deep metric learning in JAX."""

import importlib
from typing import Any

from metric_jax import diagnostics as diagnostics
from metric_jax import evaluation as evaluation
from metric_jax import mining as mining
from metric_jax.anchors import per_anchor as per_anchor
from metric_jax.distances import Distance as Distance
from metric_jax.distances import cosine as cosine
from metric_jax.distances import cosine_similarity as cosine_similarity
from metric_jax.distances import dot_product as dot_product
from metric_jax.distances import euclidean as euclidean
from metric_jax.distances import manhattan as manhattan
from metric_jax.distances import normalize as normalize
from metric_jax.distances import squared_euclidean as squared_euclidean
from metric_jax.limits import Limits as Limits
from metric_jax.losses.contrastive import batch_contrastive_loss as batch_contrastive_loss
from metric_jax.losses.contrastive import contrastive_loss as contrastive_loss
from metric_jax.losses.triplet import batch_all_triplet_loss as batch_all_triplet_loss
from metric_jax.losses.triplet import batch_hard_triplet_loss as batch_hard_triplet_loss
from metric_jax.losses.triplet import batch_semi_hard_triplet_loss as batch_semi_hard_triplet_loss
from metric_jax.losses.triplet import triplet_loss as triplet_loss
from metric_jax.reductions import Terms as Terms
from metric_jax.reductions import terms as terms
from metric_jax.types import Pairs as Pairs
from metric_jax.types import Triplets as Triplets

_LOADED_WHEN_USED = ("data", "models", "training")  # they need Flax, Grain and more


def __getattr__(name: str) -> Any:
    if name in _LOADED_WHEN_USED:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
