"""metric_jax: deep metric learning in JAX."""

from metric_jax.distances import Distance as Distance
from metric_jax.distances import cosine as cosine
from metric_jax.distances import cosine_similarity as cosine_similarity
from metric_jax.distances import euclidean as euclidean
from metric_jax.distances import manhattan as manhattan
from metric_jax.distances import squared_euclidean as squared_euclidean
from metric_jax.losses.contrastive import contrastive_loss as contrastive_loss
from metric_jax.losses.triplet import triplet_loss as triplet_loss
