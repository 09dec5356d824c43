"""Batch normalisation whose sums over images and pixels are fast on CPU too.

XLA compiles a sum over all axes but the last to code that runs at a tenth of a CPU's speed, and much of the
four-block network's step went to such sums. Here a loop over the pixels adds up whole slices ``[batch, channels]``, and
the gradient is written by hand, so that it too needs no more than two sums, made in one loop.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from metric_jax.tiles import alike

Images = Float[Array, "batch height width channels"]
Channels = Float[Array, "channels"]
Kept = tuple[Images, Channels, Channels, Channels, Channels]


class BatchNorm(nnx.BatchNorm):
    """Flax's BatchNorm of images: its variables, and its results but for rounding. In training it has no forward mode.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> norm = BatchNorm(1, dtype="float32", rngs=nnx.Rngs(0))
        >>> norm(jnp.array([1.0, 3.0]).reshape(2, 1, 1, 1), train=True).reshape(-1).round(3)
        Array([-1.,  1.], dtype=float32)
        >>> norm.mean[...].round(3), norm.var[...].round(3)
        (Array([0.2], dtype=float32), Array([1.], dtype=float32))

    References:
        Ioffe, Szegedy (2015), Batch Normalization. https://arxiv.org/abs/1502.03167
    """

    def __init__(self, channels: int, *, dtype: str, rngs: nnx.Rngs):
        """Begins with a scale of 1 and a bias of 0; of every batch the running mean and variance take a tenth."""
        super().__init__(channels, momentum=0.9, dtype=jnp.dtype(dtype), rngs=rngs)

    def __call__(self, x: Images, *, train: bool) -> Images:  # type: ignore[override]
        """Normalises by the batch's mean and variance, and moves the running ones; or by these, if not in training."""
        if not train:
            return super().__call__(x, use_running_average=True)
        assert self.scale is not None
        assert self.bias is not None
        rows = alike((x.astype(self.dtype), self.scale[...], self.bias[...]))
        y, mean, var = _normalised(*rows, self.epsilon)
        for running, new in ((self.mean, mean), (self.var, var)):
            running[...] = self.momentum * running[...] + (1 - self.momentum) * lax.stop_gradient(new)
        return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalised(
    x: Images, scale: Channels, bias: Channels, epsilon: float
) -> tuple[Images, Channels, Channels]:
    """``(x - mean) / sqrt(var + epsilon) · scale + bias`` of x's type; and the mean and var, which have no gradient."""
    return _forward(x, scale, bias, epsilon)[0]


def _forward(
    x: Images, scale: Channels, bias: Channels, epsilon: float
) -> tuple[tuple[Images, Channels, Channels], Kept]:
    count = x.size // x.shape[-1]
    total, squares = _sums(x, x, jnp.zeros_like(scale))
    mean = total / count
    var = jnp.maximum(squares / count - mean**2, 0.0)  # rounding may leave less than 0
    factor = lax.rsqrt(var + epsilon)
    y = (x - _wide(mean)) * _wide(factor * scale) + _wide(bias)
    return (y.astype(x.dtype), mean, var), (x, scale, mean, var, factor)


def _backward(
    epsilon: float, kept: Kept, cotangents: tuple[Images, Channels, Channels]
) -> tuple[Images, Channels, Channels]:
    (x, scale, mean, var, factor), (of_y, *_) = kept, cotangents
    count = x.size // x.shape[-1]
    of_bias, products = _sums(of_y, x, mean)
    of_scale = products * factor
    by_var = jnp.where(var > 0, factor * of_scale / count, 0.0)
    of_x = of_y - _wide(of_bias / count) - (x - _wide(mean)) * _wide(by_var)
    of_x = of_x * _wide(factor * scale)
    return of_x.astype(x.dtype), of_scale.astype(scale.dtype), of_bias.astype(scale.dtype)


_normalised.defvjp(_forward, _backward)


def _wide(of_channel: Channels) -> Array:
    return of_channel[None, None, None]


def _sums(x: Images, y: Images, origin: Channels) -> tuple[Channels, Channels]:
    """``Σ x`` and ``Σ x (y - origin)`` of every channel, in float32 at least."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    origin = origin.astype(dtype)

    def terms(x: Array, y: Array) -> tuple[Array, Array]:
        x, y = x.astype(dtype), y.astype(dtype)
        return x, x * (y - jnp.expand_dims(origin, tuple(range(y.ndim - 1))))

    def by_pixel(x: Array, y: Array) -> tuple[Array, Array]:
        pixels = [each.reshape(len(each), -1, each.shape[-1]) for each in (x, y)]

        def add(place: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
            here = [lax.dynamic_index_in_dim(each, place, axis=1, keepdims=False) for each in pixels]
            return jax.tree.map(jnp.add, found, terms(*here))

        zeros = jnp.zeros_like(x[:, 0, 0], dtype)
        by_image = lax.fori_loop(0, pixels[0].shape[1], add, (zeros, zeros))
        return jax.tree.map(lambda found: found.sum(axis=0), by_image)

    def at_once(x: Array, y: Array) -> tuple[Array, Array]:
        return jax.tree.map(lambda found: found.sum(axis=(0, 1, 2)), terms(x, y))

    return lax.platform_dependent(x, y, cpu=by_pixel, default=at_once)
