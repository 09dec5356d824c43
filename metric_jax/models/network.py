"""What every network begins and ends with: images that are checked, and a head that makes embeddings of features."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from metric_jax import distances

# Mean and deviation of the pixels that the published weights were trained on, of red, green and blue.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Network(nnx.Module):
    """Images to embeddings: the features of a subclass, a linear head, a neck where there is one, and length 1.

    Attributes:
        image_shape: (height, width, channels) of the images it takes.
        head: The linear map from features to embeddings.
        neck: A BatchNorm without scale and bias behind it, or None.
        normalise: Whether embeddings are scaled to length 1.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        features: int,
        *,
        dim: int,
        neck: bool,
        normalise: bool,
        rngs: nnx.Rngs,
    ):
        """Draws the parameters of the head; a subclass calls this last, after those of its own.

        Args:
            image_shape: (height, width, channels).
            features: How many `features` finds.
            dim: Dimension of the embedding.
            neck: Whether there is one.
            normalise: Whether embeddings are scaled to length 1.
            rngs: Where the parameters are drawn from.
        """
        self.image_shape = tuple(image_shape)
        self.head = nnx.Linear(features, dim, rngs=rngs)
        self.neck = (
            nnx.BatchNorm(dim, momentum=0.9, use_scale=False, use_bias=False, rngs=rngs) if neck else None
        )
        self.normalise = normalise

    def features(
        self, images: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch features"]:
        """What a subclass finds in the images."""
        raise NotImplementedError

    def __call__(
        self, images: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> Float[Array, "batch dim"]:
        """Embeds images.

        Args:
            images: ``[batch, height, width, channels]`` in [0, 1].
            train: Whether BatchNorm uses this batch's mean and variance, and updates its running ones.

        Returns:
            ``[batch, dim]``, float32 at least.

        Raises:
            TypeError: Images that are not floating.
            ValueError: Images of another shape than the network was made for.
        """
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise TypeError(f"images must be floating, got {images.dtype}: divide bytes by 255 first")
        if images.shape[1:] != self.image_shape:
            expected = ["batch", *self.image_shape]
            raise ValueError(f"images must be [{', '.join(map(str, expected))}], got {list(images.shape)}")
        embeddings = self.head(self.features(images, train=train))  # in float32, as the head's parameters are
        if self.neck is not None:
            embeddings = self.neck(embeddings, use_running_average=not train)
        return distances.normalize(embeddings) if self.normalise else embeddings


class Linear(nnx.Linear):
    """Flax's linear map, but that the bias is added in float32 at least, and with it the sum that is its gradient."""

    def __init__(self, *sizes: int, dtype: jnp.dtype, **options: Any):
        super().__init__(*sizes, dtype=dtype, promote_dtype=_all_but_the_bias, **options)

    def __call__(self, x: Array) -> Array:  # type: ignore[override]
        """``[..., in]`` to ``[..., out]``, of the type that is computed in."""
        return super().__call__(x).astype(self.dtype)


class Conv(nnx.Conv):
    """Flax's convolution, with its bias as that of `Linear`."""

    def __init__(self, *sizes: int, dtype: jnp.dtype, **options: Any):
        super().__init__(*sizes, dtype=dtype, promote_dtype=_all_but_the_bias, **options)

    def __call__(self, x: Array) -> Array:  # type: ignore[override]
        """``[batch, height, width, in]`` to the same of ``out`` channels, of the type that is computed in."""
        return super().__call__(x).astype(self.dtype)


def _all_but_the_bias(arrays: Any, /, *, dtype: Any = None, inexact: bool = True) -> Any:
    """Input, kernel and bias as Flax is to use them; the keywords are those that it may pass."""
    x, kernel, bias = arrays
    return x.astype(dtype), kernel.astype(dtype), bias


def standardised(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """Pixels less the mean, over the deviation, of each colour, in float32 at least; grey becomes three colours."""
    images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    colours = jnp.broadcast_to(images, (*images.shape[:3], 3))
    offset, scale = (jnp.asarray(each, images.dtype)[None, None, None] for each in (mean, std))
    return (colours - offset) / scale


def check_sizes(**sizes: int) -> None:
    """Raises a ValueError for a size below 1; the keywords are what the options are called."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"model.{name} must be at least 1, got {size}")


def check_image_shape(image_shape: Sequence[int]) -> None:
    """Raises a ValueError unless this is (height, width, channels)."""
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape must be (height, width, channels), got {tuple(image_shape)}")


def grid(image_shape: Sequence[int], patch: int) -> tuple[int, int]:
    """How many patches of that side fill the images, in (rows, columns); raises a ValueError unless they do."""
    height, breadth, _ = image_shape
    if height % patch or breadth % patch:
        raise ValueError(
            f"model.patch={patch} must divide the sides of the images, {height}×{breadth}: resize them by "
            f"data.size={max(1, height // patch) * patch}, or choose another patch"
        )
    return height // patch, breadth // patch


def check_colours(image_shape: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> None:
    """Raises a ValueError unless `standardised` can take such images."""
    check_image_shape(image_shape)
    if image_shape[2] not in (1, 3):
        raise ValueError(f"images must be grey or coloured, of 1 or 3 channels, got {image_shape[2]}")
    for name, values in {"mean": mean, "std": std}.items():
        is_wrong = len(values) != 3 or not all(isinstance(value, int | float) for value in values)
        if is_wrong or (name == "std" and min(values) <= 0):
            positive = "positive " if name == "std" else ""
            raise ValueError(f"model.{name} must be three {positive}numbers, got {tuple(values)}")


def check_depths(depths: Sequence[int]) -> None:
    """Raises a ValueError unless every stage has a block."""
    if not depths or min(depths) < 1:
        raise ValueError(f"model.depths must be the blocks of each stage, 1 or more, got {tuple(depths)}")


def check_dtype(dtype: str) -> None:
    """Raises a ValueError for a type that networks do not compute in."""
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"model.dtype must be 'float32' or 'bfloat16', got {dtype!r}")
