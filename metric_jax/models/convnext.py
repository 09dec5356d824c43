"""ConvNeXt: a ResNet that was given a transformer's habits, one after the other.

Large depthwise convolutions where a transformer has attention, LayerNorm, GELU, four times the channels inside a block,
and a learned scale for what each channel adds.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from metric_jax.models import network, pretrained
from metric_jax.models.network import IMAGENET_MEAN, IMAGENET_STD, Network

_SMALL = nnx.initializers.truncated_normal(0.02, jnp.float32)


class ConvNeXt(Network):
    """A ConvNeXt; with the defaults, ConvNeXt-T.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> net = ConvNeXt((32, 32, 3), depths=(1, 1), width=4, dim=16, rngs=nnx.Rngs(0))
        >>> net(jnp.zeros((2, 32, 32, 3))).shape
        (2, 16)

    References:
        Liu, Mao, Wu, Feichtenhofer, Darrell, Xie (2022), A ConvNet for the 2020s. https://arxiv.org/abs/2201.03545
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        depths: Sequence[int] = (3, 3, 9, 3),
        width: int = 96,
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
            image_shape: (height, width, channels) of the images, which are grey or coloured. The stem takes a quarter
                of their sides and every further stage half: they must leave the last one a pixel.
            depths: Blocks of each stage.
            width: Channels of the first stage; every further one doubles them.
            dim: Dimension of the embedding.
            neck: Whether a BatchNorm without scale and bias stands behind the head.
            normalise: Whether embeddings are scaled to length 1.
            mean: Subtracted from red, green and blue.
            std: What they are then divided by.
            dtype: ``"float32"`` or ``"bfloat16"``, what is computed in; parameters and embeddings are float32.
            rngs: Where the parameters are drawn from.

        Raises:
            ValueError: An option out of its range, images that are too small.
        """
        network.check_colours(image_shape, mean, std)
        network.check_depths(depths)
        network.check_dtype(dtype)
        network.check_sizes(width=width, dim=dim)
        least = 2 << len(depths)
        if min(image_shape[:2]) < least:
            raise ValueError(
                f"{len(depths)} stages need images of at least {least}×{least}, got "
                f"{image_shape[0]}×{image_shape[1]}: resize them by data.size={least}"
            )
        self.mean, self.std, self.dtype = tuple(mean), tuple(std), dtype
        self.stem = _patches(3, width, 4, dtype, rngs)
        self.stem_norm = _norm(width, dtype, rngs)
        self.stages: nnx.List[Stage] = nnx.List([])
        channels = width
        for stage, depth in enumerate(depths):
            self.stages.append(Stage(channels, width << stage, depth, dtype=dtype, rngs=rngs))
            channels = width << stage
        self.norm = _norm(channels, "float32", rngs)
        super().__init__(image_shape, channels, dim=dim, neck=neck, normalise=normalise, rngs=rngs)

    def features(self, images: Array, *, train: bool) -> Array:
        """``[batch, channels]`` float32: the mean over the last stage's pixels, normed."""
        del train  # nothing in here knows
        x = network.standardised(images, self.mean, self.std).astype(self.dtype)
        x = self.stem_norm(self.stem(x))
        for stage in self.stages:
            x = stage(x)
        return self.norm(jnp.mean(x, axis=(1, 2), dtype=jnp.float32))

    def names(self) -> tuple[pretrained.Rule, ...]:
        """What timm, and in the second half torchvision, call its arrays."""
        conv, linear = pretrained.CONV, pretrained.LINEAR
        timm = (
            *pretrained.kernel("stem.0", "stem", conv),
            *pretrained.norm("stem.1", "stem_norm"),
            *pretrained.norm("stages.<0>.downsample.0", "stages.{}.halve.norm"),
            *pretrained.kernel("stages.<0>.downsample.1", "stages.{}.halve.conv", conv),
            *pretrained.kernel("stages.<0>.blocks.<0>.conv_dw", "stages.{}.blocks.{}.depthwise", conv),
            *pretrained.norm("stages.<0>.blocks.<0>.norm", "stages.{}.blocks.{}.norm"),
            *pretrained.kernel("stages.<0>.blocks.<0>.mlp.fc<1>", "stages.{}.blocks.{}.mlp.{}", linear),
            pretrained.Rule("stages.<0>.blocks.<0>.gamma", "stages.{}.blocks.{}.scale"),
            *pretrained.norm("head.norm", "norm"),
            *pretrained.ignored("head.fc"),
        )
        torchvision = [
            *pretrained.kernel("features.0.0", "stem", conv),
            *pretrained.norm("features.0.1", "stem_norm"),
            *pretrained.norm("classifier.0", "norm"),
            *pretrained.ignored("classifier.2"),
        ]
        for stage in range(len(self.stages)):
            halve, theirs = f"features.{2 * stage}", f"features.{2 * stage + 1}.<0>"
            ours = f"stages.{stage}.blocks.{{}}"
            if stage:
                torchvision += pretrained.norm(f"{halve}.0", f"stages.{stage}.halve.norm")
                torchvision += pretrained.kernel(f"{halve}.1", f"stages.{stage}.halve.conv", conv)
            torchvision += pretrained.kernel(f"{theirs}.block.0", f"{ours}.depthwise", conv)
            torchvision += pretrained.norm(f"{theirs}.block.2", f"{ours}.norm")
            torchvision += pretrained.kernel(f"{theirs}.block.3", f"{ours}.mlp.0", linear)
            torchvision += pretrained.kernel(f"{theirs}.block.5", f"{ours}.mlp.1", linear)
            torchvision.append(pretrained.Rule(f"{theirs}.layer_scale", f"{ours}.scale"))
        return (*timm, *torchvision)


class Stage(nnx.Module):
    """Blocks of one width, behind what halves the image where that is not the width before."""

    def __init__(self, channels: int, width: int, depth: int, *, dtype: str, rngs: nnx.Rngs):
        self.halve = Halve(channels, width, dtype=dtype, rngs=rngs) if channels != width else None
        self.blocks = nnx.List([Block(width, dtype=dtype, rngs=rngs) for _ in range(depth)])

    def __call__(self, x: Array) -> Array:
        """``[batch, height, width, channels]`` to the same, or to half the sides and twice the channels."""
        if self.halve is not None:
            x = self.halve(x)
        for block in self.blocks:
            x = block(x)
        return x


class Halve(nnx.Module):
    """A norm, and a convolution of 2×2 pixels that lie beside each other."""

    def __init__(self, channels: int, width: int, *, dtype: str, rngs: nnx.Rngs):
        self.norm = _norm(channels, dtype, rngs)
        self.conv = _patches(channels, width, 2, dtype, rngs)

    def __call__(self, x: Array) -> Array:
        """``[batch, height, width, channels]`` to half the sides, rounded down, and other channels."""
        return self.conv(self.norm(x))


class Block(nnx.Module):
    """``x + scale · mlp(norm(depthwise(x)))``."""

    def __init__(self, width: int, *, dtype: str, rngs: nnx.Rngs):
        computed = jnp.dtype(dtype)
        self.depthwise = network.Conv(
            width,
            width,
            kernel_size=(7, 7),
            feature_group_count=width,
            kernel_init=_SMALL,
            dtype=computed,
            rngs=rngs,
        )
        self.norm = _norm(width, dtype, rngs)
        self.mlp = nnx.List(
            [
                network.Linear(width, 4 * width, kernel_init=_SMALL, dtype=computed, rngs=rngs),
                network.Linear(4 * width, width, kernel_init=_SMALL, dtype=computed, rngs=rngs),
            ]
        )
        self.scale = nnx.Param(jnp.full((width,), 1e-6, jnp.float32))

    def __call__(self, x: Array) -> Array:
        """``[batch, height, width, channels]`` to the same."""
        expand, contract = self.mlp
        added = contract(jax.nn.gelu(expand(self.norm(self.depthwise(x))), approximate=False))
        # in float32, and with it the sum over images and pixels that is the scale's gradient
        return (x + self.scale[...][None, None, None] * added).astype(x.dtype)


def _norm(width: int, dtype: str, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, dtype=jnp.dtype(dtype), rngs=rngs)


def _patches(channels: int, width: int, side: int, dtype: str, rngs: nnx.Rngs) -> network.Conv:
    """A convolution of squares that lie beside each other; what is left over at the borders falls away."""
    return network.Conv(
        channels,
        width,
        kernel_size=(side, side),
        strides=side,
        padding="VALID",
        kernel_init=_SMALL,
        dtype=jnp.dtype(dtype),
        rngs=rngs,
    )
