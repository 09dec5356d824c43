"""ResNets: stages of blocks, each of which adds to what it is given.

As torchvision has them, so that its weights fit: the bottleneck of ResNet-50 halves the image in its 3×3 convolution
("version 1.5"), where the paper does so in the 1×1 before it.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from metric_jax.models import network, pretrained
from metric_jax.models.batch_norm import BatchNorm
from metric_jax.models.network import IMAGENET_MEAN, IMAGENET_STD, Network

# What is drawn keeps the variance of gradients on their way back through ReLU (He et al. 2015).
_HE = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class ResNet(Network):
    """A residual network; with the defaults, ResNet-18.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> net = ResNet((32, 32, 3), depths=(1, 1), width=4, dim=16, rngs=nnx.Rngs(0))
        >>> net(jnp.zeros((2, 32, 32, 3))).shape
        (2, 16)

    References:
        He, Zhang, Ren, Sun (2016), Deep Residual Learning for Image Recognition. https://arxiv.org/abs/1512.03385
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        depths: Sequence[int] = (2, 2, 2, 2),
        bottleneck: bool = False,
        width: int = 64,
        dim: int = 64,
        neck: bool = True,
        normalise: bool = True,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        """Draws the parameters.

        Args:
            image_shape: (height, width, channels) of the images, which are grey or coloured.
            depths: Blocks of each stage; every stage but the first halves the image and doubles the channels.
            bottleneck: Whether a block has three convolutions, of which the middle one has a quarter of the channels.
            width: Channels of the first stage (a quarter of them, with a bottleneck).
            dim: Dimension of the embedding.
            neck: Whether a BatchNorm without scale and bias stands behind the head.
            normalise: Whether embeddings are scaled to length 1.
            mean: Subtracted from red, green and blue.
            std: What they are then divided by.
            dtype: ``"float32"`` or ``"bfloat16"``, what is computed in; parameters and embeddings are float32.
            rngs: Where the parameters are drawn from.

        Raises:
            ValueError: An option out of its range.
        """
        network.check_colours(image_shape, mean, std)
        network.check_depths(depths)
        network.check_dtype(dtype)
        network.check_sizes(width=width, dim=dim)
        self.mean, self.std, self.dtype = tuple(mean), tuple(std), dtype
        self.stem = Unit(3, width, kernel=7, stride=2, dtype=dtype, rngs=rngs)
        self.stages: nnx.List[nnx.List[Block]] = nnx.List([])
        channels = width
        for stage, depth in enumerate(depths):
            self.stages.append(nnx.List([]))
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                block = Block(
                    channels, width << stage, stride=stride, bottleneck=bottleneck, dtype=dtype, rngs=rngs
                )
                self.stages[-1].append(block)
                channels = block.channels
        super().__init__(image_shape, channels, dim=dim, neck=neck, normalise=normalise, rngs=rngs)

    def features(self, images: Array, *, train: bool) -> Array:
        """``[batch, channels]`` float32: the mean over the last stage's pixels."""
        x = network.standardised(images, self.mean, self.std).astype(self.dtype)
        x = _max_pool(jax.nn.relu(self.stem(x, train=train)))
        for stage in self.stages:
            for block in stage:
                x = block(x, train=train)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)

    def names(self) -> tuple[pretrained.Rule, ...]:
        """What torchvision and timm call its arrays."""
        return (
            *pretrained.kernel("conv1", "stem.conv", pretrained.CONV),
            *pretrained.norm("bn1", "stem.norm"),
            *pretrained.kernel("layer<1>.<0>.conv<1>", "stages.{}.{}.units.{}.conv", pretrained.CONV),
            *pretrained.norm("layer<1>.<0>.bn<1>", "stages.{}.{}.units.{}.norm"),
            *pretrained.kernel("layer<1>.<0>.downsample.0", "stages.{}.{}.shortcut.conv", pretrained.CONV),
            *pretrained.norm("layer<1>.<0>.downsample.1", "stages.{}.{}.shortcut.norm"),
            *pretrained.ignored("fc"),
        )


class Block(nnx.Module):
    """``relu(x + units(x))``; where the units change the shape of x, a 1×1 convolution does so beside them."""

    def __init__(
        self, channels: int, width: int, *, stride: int, bottleneck: bool, dtype: str, rngs: nnx.Rngs
    ):
        self.channels = 4 * width if bottleneck else width
        plan = (
            [(channels, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)]
            if bottleneck
            else [(channels, width, 3, stride), (width, width, 3, 1)]
        )
        self.units = nnx.List(
            [Unit(i, o, kernel=kernel, stride=by, dtype=dtype, rngs=rngs) for i, o, kernel, by in plan]
        )
        self.shortcut = (
            Unit(channels, self.channels, kernel=1, stride=stride, dtype=dtype, rngs=rngs)
            if stride > 1 or channels != self.channels
            else None
        )

    def __call__(self, x: Array, *, train: bool) -> Array:
        """``[batch, height, width, channels]`` to the same, or to half the sides and more channels."""
        *first, last = self.units
        y = x
        for unit in first:
            y = jax.nn.relu(unit(y, train=train))
        shortcut = x if self.shortcut is None else self.shortcut(x, train=train)
        return jax.nn.relu(shortcut + last(y, train=train))


class Unit(nnx.Module):
    """A convolution without bias, and BatchNorm."""

    def __init__(self, channels: int, width: int, *, kernel: int, stride: int, dtype: str, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            channels,
            width,
            kernel_size=(kernel, kernel),
            strides=stride,
            padding=kernel // 2,  # on every side: JAX's "SAME" would pad right and below alone when it halves
            use_bias=False,
            kernel_init=_HE,
            dtype=jnp.dtype(dtype),
            rngs=rngs,
        )
        self.norm = BatchNorm(width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, *, train: bool) -> Array:
        """From ``[batch, height, width, channels]`` to every stride-th pixel, of other channels."""
        return self.norm(self.conv(x), train=train)


@jax.checkpoint  # computed again on the way back, rather than kept nine times
def _max_pool(x: Array) -> Array:
    """The largest of 3×3 pixels around every second one.

    By slices, because XLA differentiates its own windowed maximum on CPU ten times as slowly.
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    height, breadth = ((side - 3) // 2 + 1 for side in x.shape[1:3])
    windows = [
        x[:, top : top + 2 * height - 1 : 2, left : left + 2 * breadth - 1 : 2]
        for top in range(3)
        for left in range(3)
    ]
    return functools.reduce(jnp.maximum, windows)
