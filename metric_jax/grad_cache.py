"""Batches larger than the encoder's memory.

A contrastive loss wants a large batch, since every row is a negative of the others, but it is the encoder's activations
that fill the memory, not the loss. They need not all be there at once: the loss needs the embeddings alone, and given
the gradient with respect to these, each chunk of the batch can be encoded again and differentiated by itself.

That is gradient caching (Gao et al. 2021). Here it is a property of the encoder, and the loss knows nothing of it:

    encode = mj.grad_cache.chunked(encode, chunk=64)
    jax.value_and_grad(lambda params: loss(encode(params, images), labels))(params)

Value and gradient are those of the whole batch, and cost one more forward pass, as all rematerialisation does. (On CPU
they may cost far more: XLA differentiates a convolution inside a loop by scalar code there.)
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from metric_jax.limits import is_count

Encoder = Callable[[Any, Any], Any]


def chunked(encode: Encoder, chunk: int) -> Encoder:
    """An encoder that works on a few rows at a time, going forward and going backward.

    ``encode(params, inputs) = [encode(params, inputs[:chunk]), encode(params, inputs[chunk:2 chunk]), ...]``. Of the
    activations, those of one chunk exist at a time; what is kept of the others are inputs and embeddings.

    A row must be encoded by itself: statistics over a batch, as batch normalisation takes them in training, would be
    those of a chunk. Random numbers come as a key for each row, ``jax.random.split(key, batch)``, among the inputs.

    Args:
        encode: ``(params, inputs) -> embeddings``: pytrees, those of inputs and of embeddings with a leading axis.
        chunk: How many rows are encoded at a time. A last, smaller chunk takes what is left.

    Returns:
        A function like ``encode``, for ``jax.grad`` and ``jax.shard_map``, and to be used under ``jax.jit``: by itself
        it is compiled at every call.

    Raises:
        ValueError: A chunk below 1; when called, inputs or embeddings without a common leading axis.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import metric_jax as mj
        >>> encode = mj.grad_cache.chunked(lambda weights, x: jnp.tanh(x @ weights), chunk=2)
        >>> encode(jnp.zeros((3, 1)), jnp.ones((5, 3))).shape
        (5, 1)

    References:
        Gao, Zhang, Han, Callan (2021), Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup.
        https://arxiv.org/abs/2101.06983
    """
    if not is_count(chunk):
        raise ValueError(f"chunk must be a positive integer, got {chunk!r}")

    @functools.wraps(encode)
    def encode_chunked(params: Any, inputs: Any) -> Any:
        batch = _rows_of(inputs, "inputs")

        def one_chunk(rows: Any) -> Any:
            embeddings = encode(params, rows)
            if _rows_of(embeddings, "embeddings") != _rows_of(rows, "inputs"):
                raise ValueError("encode must return one row of embeddings for each row of inputs")
            return embeddings

        if batch <= chunk:
            return jax.checkpoint(one_chunk)(inputs)
        whole = batch // chunk * chunk
        stacked = jax.tree.map(lambda x: x[:whole].reshape(-1, chunk, *x.shape[1:]), inputs)
        # In a loop the backward pass cannot be merged with the forward one, so nothing need prevent it.
        embeddings = lax.map(jax.checkpoint(one_chunk, prevent_cse=False), stacked)
        embeddings = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), embeddings)
        if whole == batch:
            return embeddings
        left = jax.checkpoint(one_chunk)(jax.tree.map(lambda x: x[whole:], inputs))
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), embeddings, left)

    return encode_chunked


def _rows_of(tree: Any, name: str) -> int:
    """The length of the leading axis that all arrays have in common."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
    lengths = {shape[:1] for shape in shapes}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(f"{name} need a leading axis of one length in all their arrays, got shapes {shapes}")
    return shapes[0][0]
