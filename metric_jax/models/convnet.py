"""The four-block network of few-shot learning.

A block is a 3×3 convolution, a norm, ReLU and a 2×2 max-pool; the last block's features are flattened, and a linear
head maps them to the embedding.

The norm matters more here than in classification. Batch-hard mining asks for the impossible at first, and mapping every
image to one point is a cheap way out of it. BatchNorm, which subtracts what the images of a batch have in common and
scales up what is left, bars that way, and so one more stands behind the head (Luo et al. 2019 call it a neck). Without
that one, batch-hard collapses on Omniglot to a spread below 0.01 within 100 steps, and with GroupNorm even on the
digits. Hence the default, at a price: in training an embedding depends on the rest of its batch, and afterwards on
running means. Where embeddings of different batches are compared (a cross-batch memory, a batch encoded in parts),
choose ``norm="group"``, which has no neck, and a loss that does not collapse, such as semi-hard.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from metric_jax.models import network
from metric_jax.models.batch_norm import BatchNorm
from metric_jax.models.network import Network


class ConvNet(Network):
    """Images to embeddings, by blocks of convolution, norm, ReLU and max-pool; with derivatives in reverse mode alone.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> net = ConvNet((28, 28, 1), width=8, dim=16, rngs=nnx.Rngs(0))
        >>> net(jnp.zeros((2, 28, 28, 1))).shape
        (2, 16)

    References:
        Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra (2016), Matching Networks for One Shot Learning.
        https://arxiv.org/abs/1606.04080
        Ioffe, Szegedy (2015), Batch Normalization. https://arxiv.org/abs/1502.03167
        Wu, He (2018), Group Normalization. https://arxiv.org/abs/1803.08494
        Luo, Gu, Liao, Lai, Jiang (2019), Bag of Tricks and a Strong Baseline for Deep Person Re-identification.
        https://arxiv.org/abs/1903.07071
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        width: int = 64,
        dim: int = 64,
        blocks: int = 4,
        growth: int = 1,
        patch: int = 1,
        norm: str = "batch",
        normalise: bool = True,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        """Draws the parameters.

        Args:
            image_shape: (height, width, channels) of the images; a side of 1 is no longer halved, so none is too small.
            width: Channels of the first block.
            dim: Dimension of the embedding.
            blocks: How many blocks.
            growth: What every further block multiplies them by.
            patch: Side of a patch, whose pixels the first block takes for the channels of one. On large images no other
                block takes as long; so it has fewer places to look at, and still sees every pixel.
            norm: ``"batch"``, in the blocks and, without scale and bias, behind the head; or ``"group"``, in the blocks
                alone, of 8 groups or the most below that divide 8 and the width.
            normalise: Whether embeddings are scaled to length 1.
            dtype: ``"float32"`` or ``"bfloat16"``, what is computed in; parameters and embeddings are float32.
            rngs: Where the parameters are drawn from.

        Raises:
            ValueError: An unknown norm or type, a number below 1, an image shape that is none, patches that do not fill
                the image.
        """
        network.check_image_shape(image_shape)
        network.check_sizes(width=width, dim=dim, blocks=blocks, growth=growth, patch=patch)
        network.check_dtype(dtype)
        if norm not in ("batch", "group"):
            raise ValueError(f"model.norm must be 'batch' or 'group', got {norm!r}")
        self.dtype, self.patch = dtype, patch
        height, breadth = network.grid(image_shape, patch)
        channels = image_shape[2] * patch**2
        self.blocks: nnx.List[Block] = nnx.List([])
        for _ in range(blocks):
            self.blocks.append(Block(channels, width, norm=norm, dtype=dtype, rngs=rngs))
            height, breadth, channels = _pooled(height), _pooled(breadth), width
            width *= growth
        super().__init__(
            image_shape,
            height * breadth * channels,
            dim=dim,
            neck=norm == "batch",
            normalise=normalise,
            rngs=rngs,
        )

    def features(self, images: Array, *, train: bool) -> Array:
        """``[batch, features]``: every channel of every pixel that the last block leaves."""
        x = _patches(images.astype(self.dtype), self.patch)
        for block in self.blocks:
            x = block(x, train=train)
        return x.reshape(x.shape[0], -1)


class Block(nnx.Module):
    """Convolution, norm, ReLU, and a max-pool along every side that can still be halved."""

    def __init__(self, channels: int, width: int, *, norm: str, dtype: str, rngs: nnx.Rngs):
        computed = jnp.dtype(dtype)
        self.conv = nnx.Conv(channels, width, kernel_size=(3, 3), use_bias=False, dtype=computed, rngs=rngs)
        self.norm: BatchNorm | nnx.GroupNorm
        if norm == "batch":
            self.norm = BatchNorm(width, dtype=dtype, rngs=rngs)
        else:
            self.norm = nnx.GroupNorm(width, num_groups=math.gcd(width, 8), dtype=computed, rngs=rngs)

    def __call__(self, x: Array, *, train: bool) -> Array:
        """From ``[batch, height, width, channels]`` to half the height and breadth, ``width`` channels."""
        norm, x = self.norm, self.conv(x)
        x = norm(x, train=train) if isinstance(norm, BatchNorm) else norm(x)
        return _max_pool(jax.nn.relu(x))


def _patches(x: Array, side: int) -> Array:
    """Every square of that side as one pixel, of all that its own pixels hold, row by row."""
    batch, height, breadth, channels = x.shape
    rows, columns = height // side, breadth // side
    squares = x.reshape(batch, rows, side, columns, side, channels).swapaxes(2, 3)
    return squares.reshape(batch, rows, columns, side**2 * channels)


def _max_pool(x: Array) -> Array:
    """The largest of every 2×2 pixels; a last odd row or column falls away, and a side of 1 stays."""
    height, breadth = (max(1, side // 2 * 2) for side in x.shape[1:3])
    return _largest(x[:, :height, :breadth], (min(2, height), min(2, breadth)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _largest(x: Array, window: tuple[int, int]) -> Array:
    """The largest pixel of every window, NaN if one is; the gradient goes to it, of several to the first by rows.

    Which one it is has to be remembered. XLA differentiates its own windowed maximum on CPU ten times as slowly; and a
    look at which pixel equals the result, as the gradient of jnp.maximum takes, may find none, since XLA computes
    pixels anew where that saves memory, and rounds them in another way.
    """
    return _with_place(x, window)[0]


def _with_place(x: Array, window: tuple[int, int]) -> tuple[Array, Array]:
    rows, columns = window
    largest = x[:, ::rows, ::columns]
    place = jnp.zeros(largest.shape, jnp.uint8)
    for number in range(1, rows * columns):
        pixel = x[:, number // columns :: rows, number % columns :: columns]
        is_larger = ~((largest >= pixel) | jnp.isnan(largest))
        largest, place = jnp.where(is_larger, pixel, largest), jnp.where(is_larger, jnp.uint8(number), place)
    return largest, place


def _backward(window: tuple[int, int], place: Array, of_largest: Array) -> tuple[Array]:
    rows, columns = window
    batch, height, breadth, channels = place.shape
    numbers = jnp.arange(rows * columns, dtype=jnp.uint8).reshape(1, 1, rows, 1, columns, 1)
    of_x = jnp.where(place[:, :, None, :, None] == numbers, of_largest[:, :, None, :, None], 0)
    return (of_x.reshape(batch, rows * height, columns * breadth, channels),)


_largest.defvjp(_with_place, _backward)


def _pooled(side: int) -> int:
    return max(1, side // 2)
