"""Which images make a batch: P classes, K images of each.

A batch drawn from all images at random would hold few positive pairs, or none. So a batch is P classes and K images of
each, which gives every anchor K - 1 positives and (P - 1) K negatives to mine among. The samplers differ in which
classes go together:

- `PKSampler`: any P at random;
- `ClassBalancedSampler`: every class, and every image of a class, exactly equally often;
- `HierarchicalSampler`: of few super-classes, so that negatives are of the anchor's own kind;
- `HardClassSampler`: some at random and with each of them those that the model takes for it.

A sampler is a pure function from the number of a batch to the indices of its images, class by class. Nothing is
remembered from one batch to the next: the stream can be entered anywhere, and a run resumed at batch i sees what it
would have seen.
"""

from metric_jax.data.samplers.balanced import ClassBalancedSampler as ClassBalancedSampler
from metric_jax.data.samplers.by_name import check as check
from metric_jax.data.samplers.by_name import choose as choose
from metric_jax.data.samplers.hard_classes import HardClassSampler as HardClassSampler
from metric_jax.data.samplers.hard_classes import class_centres as class_centres
from metric_jax.data.samplers.hierarchical import HierarchicalSampler as HierarchicalSampler
from metric_jax.data.samplers.pk import PKSampler as PKSampler
from metric_jax.data.samplers.pk import shard as shard
