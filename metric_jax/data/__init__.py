"""Images in memory, parted into training and test sets, sampled into batches of P classes × K images."""

from metric_jax.data.datasets import load as load
from metric_jax.data.drawers import drawers as drawers
from metric_jax.data.errors import DataError as DataError
from metric_jax.data.pipeline import batches as batches
from metric_jax.data.samplers import PKSampler as PKSampler
from metric_jax.data.sources import Images as Images
from metric_jax.data.splits import renumbered as renumbered
