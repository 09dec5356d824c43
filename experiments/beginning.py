"""What a run begins with, as the training loop begins it: its network before the first step, and its random key."""

import jax
from flax import nnx
from jaxtyping import Array
from ml_collections import ConfigDict

from metric_jax.training import choices


def network(config: ConfigDict, image_shape: tuple[int, ...]) -> tuple[nnx.Module, Array]:
    """The untrained network of a config, and the key into which a step folds its number to draw its augmentation.

    Args:
        config: As `training.train_and_evaluate` takes it; the seed is its own.
        image_shape: (height, width, channels).

    Returns:
        (network, key), those of `training.train_and_evaluate`.
    """
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    return choices.model(**config.model, image_shape=image_shape, key=init_key), step_key
