"""What images and amounts may be; looked at while a function is traced, so that it costs a step nothing."""

import math

import jax.numpy as jnp
from jaxtyping import Array

from metric_jax.data.errors import DataError


def check_images(images: Array) -> None:
    """Raises a TypeError for images that are not floating, a ValueError for another rank than 4."""
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images must be floating, got {images.dtype}: divide bytes by 255 first")
    if images.ndim != 4:
        raise ValueError(f"images must be [batch, height, width, channels], got {list(images.shape)}")


def check_amounts(*, most: float = math.inf, **amounts: float) -> None:
    """Raises a DataError for an amount, named as in the config, that is negative, infinite or more than `most`."""
    for name, amount in amounts.items():
        if not 0 <= amount <= most or amount == math.inf:
            rule = "be at least 0 and finite" if most == math.inf else f"lie between 0 and {most:g}"
            raise DataError(f"augment.{name} must {rule}, got {amount}")
