"""Online mining: which triplets and pairs of a batch are worth a loss.

In a batch most triplets are easy: the negative is already far beyond the positive, and they teach nothing. A miner
looks at every anchor's row of distances and returns *indices*, through which no gradient flows. A loss then gathers
those rows and computes their distances again, by difference: the gradient costs O(batch * dim) instead of a backward
pass through the batch² matrix, and near duplicates keep exact distances. Any batch loss takes what a
miner returns as ``pairs=``.
"""

from metric_jax.mining.pairs import multi_similarity as multi_similarity
from metric_jax.mining.pairs import pair_margin as pair_margin
from metric_jax.mining.sampled import distance_weighted as distance_weighted
from metric_jax.mining.sampled import uniform_histogram as uniform_histogram
from metric_jax.mining.search import ARGMIN_BLOCK as ARGMIN_BLOCK
from metric_jax.mining.search import first_argmax as first_argmax
from metric_jax.mining.search import first_argmin as first_argmin
from metric_jax.mining.search import next_true as next_true
from metric_jax.mining.triplets import batch_easy_hard as batch_easy_hard
from metric_jax.mining.triplets import batch_hard as batch_hard
from metric_jax.mining.triplets import batch_semi_hard as batch_semi_hard
from metric_jax.mining.triplets import hardest as hardest
from metric_jax.mining.triplets import semi_hard_negative as semi_hard_negative
from metric_jax.mining.violating import angular as angular
from metric_jax.mining.violating import triplet_margin as triplet_margin
from metric_jax.types import Triplets as Triplets
