"""Honest evaluation: every definition written down, ties and queries without an answer included."""

from metric_jax.evaluation import intervals as intervals
from metric_jax.evaluation.clustering import clustering as clustering
from metric_jax.evaluation.few_shot import centred_on as centred_on
from metric_jax.evaluation.few_shot import few_shot as few_shot
from metric_jax.evaluation.lfw import lfw_path as lfw_path
from metric_jax.evaluation.lfw import read_pairs as read_pairs
from metric_jax.evaluation.neighbours import nearest as nearest
from metric_jax.evaluation.omniglot import one_shot_runs as one_shot_runs
from metric_jax.evaluation.omniglot import vinyals_classes as vinyals_classes
from metric_jax.evaluation.omniglot import within_alphabet as within_alphabet
from metric_jax.evaluation.pairs import all_pairs as all_pairs
from metric_jax.evaluation.pairs import pair_distances as pair_distances
from metric_jax.evaluation.pairs import relative_distances as relative_distances
from metric_jax.evaluation.rates import Roc as Roc
from metric_jax.evaluation.retrieval import by_class as by_class
from metric_jax.evaluation.retrieval import retrieval as retrieval
from metric_jax.evaluation.retrieval import retrieval_scores as retrieval_scores
from metric_jax.evaluation.verification import roc as roc
from metric_jax.evaluation.verification import threshold_at as threshold_at
from metric_jax.evaluation.verification import verification as verification
