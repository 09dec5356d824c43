"""Vision transformers: an image is a sequence of patches, each of which attends to all.

As timm has them, so that its weights fit: a norm before attention and before the two layers behind it, a class token
whose last state is what the image is known by, and a learned position for every patch.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from metric_jax.models import network, pretrained
from metric_jax.models.network import Network

_SMALL = nnx.initializers.truncated_normal(0.02, jnp.float32)


class ViT(Network):
    """A vision transformer; with the defaults, ViT-S/16.

    Pixels are mapped to [-1, 1] by default, which is what timm's own weights were trained on; others, such as DINO's
    and torchvision's, want the mean and deviation of ImageNet (`network.IMAGENET_MEAN` and `IMAGENET_STD`).

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> net = ViT((32, 32, 3), patch=8, width=8, blocks=1, heads=2, dim=16, rngs=nnx.Rngs(0))
        >>> net(jnp.zeros((2, 32, 32, 3))).shape
        (2, 16)

    References:
        Dosovitskiy et al. (2021), An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale.
        https://arxiv.org/abs/2010.11929
        Touvron et al. (2021), Training data-efficient image transformers & distillation through attention (for the
        small one). https://arxiv.org/abs/2012.12877
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        patch: int = 16,
        width: int = 384,
        blocks: int = 12,
        heads: int = 6,
        dim: int = 64,
        neck: bool = True,
        normalise: bool = True,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        """Draws the parameters.

        Args:
            image_shape: (height, width, channels) of the images, which are grey or coloured; patches fill both sides.
            patch: Side of a patch, in pixels.
            width: Dimension of a patch's state.
            blocks: How many blocks.
            heads: Heads of attention, which share the width.
            dim: Dimension of the embedding.
            neck: Whether a BatchNorm without scale and bias stands behind the head.
            normalise: Whether embeddings are scaled to length 1.
            mean: Subtracted from red, green and blue.
            std: What they are then divided by.
            dtype: ``"float32"`` or ``"bfloat16"``, what is computed in; parameters and embeddings are float32.
            rngs: Where the parameters are drawn from.

        Raises:
            ValueError: An option out of its range, patches that do not fill the image, heads that do not divide the
                width.
        """
        network.check_colours(image_shape, mean, std)
        network.check_dtype(dtype)
        network.check_sizes(patch=patch, width=width, blocks=blocks, heads=heads, dim=dim)
        self.grid = network.grid(image_shape, patch)
        if width % heads:
            raise ValueError(f"model.heads={heads} must divide model.width={width}")
        self.mean, self.std, self.dtype = tuple(mean), tuple(std), dtype
        self.patches = network.Conv(
            3,
            width,
            kernel_size=(patch, patch),
            strides=patch,
            padding="VALID",
            kernel_init=_SMALL,
            dtype=jnp.dtype(dtype),
            rngs=rngs,
        )
        self.token = nnx.Param(_SMALL(rngs.params(), (width,)))
        self.positions = nnx.Param(_SMALL(rngs.params(), (1 + math.prod(self.grid), width)))
        self.blocks = nnx.List([Block(width, heads, dtype=dtype, rngs=rngs) for _ in range(blocks)])
        self.norm = nnx.LayerNorm(width, dtype=jnp.float32, rngs=rngs)
        super().__init__(image_shape, width, dim=dim, neck=neck, normalise=normalise, rngs=rngs)

    def features(self, images: Array, *, train: bool) -> Array:
        """``[batch, width]`` float32: the last state of the class token."""
        del train  # nothing in here knows
        x = self.patches(network.standardised(images, self.mean, self.std).astype(self.dtype))
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = jnp.broadcast_to(self.token[...], (x.shape[0], 1, x.shape[-1]))
        # in float32, and with it the sums over images that are their gradients
        x = (jnp.concatenate([token, x], axis=1) + self.positions[...][None]).astype(self.dtype)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])

    def names(self) -> tuple[pretrained.Rule, ...]:
        """What timm, and in the second half torchvision, call its arrays."""
        linear, block, layer = pretrained.LINEAR, "blocks.{}", "encoder.layers.encoder_layer_<0>"

        def resized(theirs: np.ndarray) -> np.ndarray:
            return resample(theirs, self.grid)

        return (
            pretrained.Rule("cls_token", "token"),
            pretrained.Rule("pos_embed", "positions", resize=resized),
            *pretrained.kernel("patch_embed.proj", "patches", pretrained.CONV),
            *pretrained.norm("blocks.<0>.norm<1>", f"{block}.norms.{{}}"),
            *pretrained.kernel("blocks.<0>.attn.qkv", f"{block}.attention.qkv", linear),
            *pretrained.kernel("blocks.<0>.attn.proj", f"{block}.attention.out", linear),
            *pretrained.kernel("blocks.<0>.mlp.fc<1>", f"{block}.mlp.{{}}", linear),
            *pretrained.norm("norm", "norm"),
            *pretrained.ignored("head"),
            pretrained.Rule("class_token", "token"),
            pretrained.Rule("encoder.pos_embedding", "positions", resize=resized),
            *pretrained.kernel("conv_proj", "patches", pretrained.CONV),
            *pretrained.norm(f"{layer}.ln_<1>", f"{block}.norms.{{}}"),
            pretrained.Rule(
                f"{layer}.self_attention.in_proj_weight", f"{block}.attention.qkv.kernel", linear
            ),
            pretrained.Rule(f"{layer}.self_attention.in_proj_bias", f"{block}.attention.qkv.bias"),
            *pretrained.kernel(f"{layer}.self_attention.out_proj", f"{block}.attention.out", linear),
            *pretrained.kernel(f"{layer}.mlp.0", f"{block}.mlp.0", linear),
            *pretrained.kernel(f"{layer}.mlp.3", f"{block}.mlp.1", linear),
            *pretrained.norm("encoder.ln", "norm"),
            *pretrained.ignored("heads.head"),
        )


class Block(nnx.Module):
    """``x + attention(norm(x))``, and then ``x + mlp(norm(x))``, whose hidden layer is four times as wide."""

    def __init__(self, width: int, heads: int, *, dtype: str, rngs: nnx.Rngs):
        computed = jnp.dtype(dtype)
        self.norms = nnx.List([nnx.LayerNorm(width, dtype=computed, rngs=rngs) for _ in range(2)])
        self.attention = Attention(width, heads, dtype=dtype, rngs=rngs)
        self.mlp = nnx.List(
            [
                network.Linear(width, 4 * width, kernel_init=_SMALL, dtype=computed, rngs=rngs),
                network.Linear(4 * width, width, kernel_init=_SMALL, dtype=computed, rngs=rngs),
            ]
        )

    def __call__(self, x: Array) -> Array:
        """``[batch, patches, width]`` to the same."""
        before, after = self.norms
        expand, contract = self.mlp
        x = x + self.attention(before(x))
        return x + contract(jax.nn.gelu(expand(after(x)), approximate=False))


class Attention(nnx.Module):
    """Self-attention: softmax(q·k / √d) v in every head, and a linear map of all heads together."""

    def __init__(self, width: int, heads: int, *, dtype: str, rngs: nnx.Rngs):
        self.heads = heads
        self.qkv = network.Linear(width, 3 * width, kernel_init=_SMALL, dtype=jnp.dtype(dtype), rngs=rngs)
        self.out = network.Linear(width, width, kernel_init=_SMALL, dtype=jnp.dtype(dtype), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """``[batch, patches, width]`` to the same."""
        batch, patches, width = x.shape
        parts = self.qkv(x).reshape(batch, patches, 3, self.heads, width // self.heads)
        attended = jax.nn.dot_product_attention(parts[:, :, 0], parts[:, :, 1], parts[:, :, 2])
        return self.out(attended.reshape(x.shape))


def resample(
    theirs: Float[np.ndarray, "... tokens width"], grid: tuple[int, int]
) -> Float[np.ndarray, "patches width"]:
    """Positions of a square grid of patches, interpolated (bicubically, as timm does) for a grid of another size.

    Args:
        theirs: Those of the class token and of the patches, row by row.
        grid: (rows, columns) of patches that positions are wanted for.

    Returns:
        Those of the class token and of these patches; what it was given, where that is of no square grid.
    """
    width = theirs.shape[-1] if theirs.ndim else 0
    side = math.isqrt(max(0, theirs.size // max(1, width) - 1))
    if side == 0 or theirs.size != (1 + side * side) * width or (side, side) == grid:
        return theirs
    token, patches = np.split(theirs.reshape(-1, width).astype(np.float32), [1])
    with jax.ensure_compile_time_eval():  # numbers, also where a network is only traced for its shapes
        squares = patches.reshape(side, side, width)
        resized = jax.image.resize(squares, (*grid, width), "bicubic", antialias=True)
    return np.concatenate([token, np.asarray(resized).reshape(-1, width)])
