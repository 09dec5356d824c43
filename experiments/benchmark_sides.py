"""How a side of the benchmark is made ready: the libraries, the data on the device, what is compiled ahead."""

import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from experiments.benchmark_rows import Call, Maker, Row

PML_PARTS = tuple(f"pytorch_metric_learning.{part}" for part in ("distances", "losses", "miners", "reducers"))


def compiled(fn: Callable[..., Any], *arrays: Any) -> Call:
    """A call of a function whose first result is a number, compiled ahead of the first."""
    import jax

    run = jax.jit(fn).lower(*arrays).compile()
    return lambda: float(jax.tree.leaves(jax.block_until_ready(run(*arrays)))[0])


def arrays(row: Row) -> tuple[Any, Any]:
    """A row's embeddings and labels on JAX's device."""
    import jax.numpy as jnp

    embeddings, labels = row.data()
    return jnp.asarray(embeddings, row.dtype), jnp.asarray(labels)


def ours(name: str, *, dense: bool = False, **options: Any) -> Maker:
    """The loss of this name with its gradient; dense: every anchor with every reference at once."""

    def make(row: Row) -> Call:
        import jax

        import metric_jax as mj

        tile = row.batch if dense else "auto"
        loss = functools.partial(getattr(mj, name), tile=tile, **options)
        return compiled(jax.value_and_grad(loss), *arrays(row))

    return make


def our_miner(name: str, *, dense: bool = False, seed: int | None = None, **options: Any) -> Maker:
    """The miner of this name; the number of a call is how many pairs or triplets it found."""

    def make(row: Row) -> Call:
        import jax

        import metric_jax as mj

        keyed = {} if seed is None else {"key": jax.random.key(seed)}
        tile = row.batch if dense else "auto"

        def mine(embeddings: Any, labels: Any) -> Any:
            found = getattr(mj.mining, name)(embeddings, labels, tile=tile, **keyed, **options)
            return found.valid.sum(), found

        return compiled(mine, *arrays(row))

    return make


def product(row: Row) -> Call:
    """Embeddings times embeddings transposed, in full precision: the least that a loss of all pairs must do."""
    import jax

    def multiply(embeddings: Any) -> Any:
        found = jax.numpy.matmul(embeddings, embeddings.T, precision=jax.lax.Precision.HIGHEST)
        return found[0, 0], found

    return compiled(multiply, arrays(row)[0])


def whole_pml() -> Any:
    """PML, with its parts."""
    for part in PML_PARTS:
        importlib.import_module(part)
    return sys.modules["pytorch_metric_learning"]


def tensors(row: Row) -> tuple[Any, Any]:
    """A row's embeddings and labels on PyTorch's device."""
    import torch

    embeddings, labels = (torch.from_numpy(x).to(device()) for x in row.data())
    return embeddings.to(getattr(torch, row.dtype)), labels


def device() -> str:
    """PyTorch's device: a GPU if JAX is not told to stay on the CPU, and there is one."""
    import torch

    return "cuda" if os.environ.get("JAX_PLATFORMS") != "cpu" and torch.cuda.is_available() else "cpu"


def waited(call: Call) -> Call:
    """A call of PyTorch that ends when its device is done."""
    import torch

    def run() -> float:
        value = call()
        if device() == "cuda":
            torch.cuda.synchronize()
        return value

    return run


def peer(build: Callable[[Any], Callable[..., Any]]) -> Maker:
    """PML's loss with its gradient; ``build`` makes it, given the module."""

    def make(row: Row) -> Call:
        embeddings, labels = tensors(row)
        embeddings.requires_grad_()
        loss = build(whole_pml())

        def step() -> float:
            embeddings.grad = None
            value = loss(embeddings, labels)
            value.backward()
            return value.item()

        return waited(step)

    return make


def peer_miner(name: str, *args: Any, distance: str = "", pairs: bool = False) -> Maker:
    """PML's miner; the number of a call is how many triplets or pairs it found.

    Args:
        name: Its class.
        *args: What that is made with.
        distance: Another than Euclidean.
        pairs: Whether what it finds are positive and negative pairs, to be counted together.
    """

    def make(row: Row) -> Call:
        pml = whole_pml()
        embeddings, labels = tensors(row)
        own = {"distance": getattr(pml.distances, distance)()} if distance else {}
        miner = getattr(pml.miners, name)(*args, **own)

        def mine() -> float:
            found = miner(embeddings, labels)  # (anchors, positives, negatives), or two lists of pairs
            return float(len(found[0]) + (len(found[-1]) if pairs else 0))

        return waited(mine)

    return make
