"""The other side of referee.py, in torch's and pytorch-metric-learning's own words."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from flax import nnx
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import SupConLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch.nn import functional

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class ConvNet(torch.nn.Module):
    """`metric_jax.models.ConvNet` with BatchNorm, in torch, with the weights of one that is given."""

    def __init__(self, network: nnx.Module):
        super().__init__()
        self.blocks = torch.nn.ModuleList()
        for block in network.blocks:
            kernel = tensor(block.conv.kernel).permute(3, 2, 0, 1)  # from height, width, in, out
            conv = torch.nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1, bias=False)
            norm = torch.nn.BatchNorm2d(kernel.shape[0], eps=1e-5, momentum=0.1)
            put(conv.weight, kernel)
            put(norm.weight, tensor(block.norm.scale))
            put(norm.bias, tensor(block.norm.bias))
            self.blocks.append(torch.nn.Sequential(conv, norm, torch.nn.ReLU()))
        kernel = tensor(network.head.kernel)
        self.head = torch.nn.Linear(*kernel.shape)
        put(self.head.weight, kernel.T)
        put(self.head.bias, tensor(network.head.bias))
        self.neck = torch.nn.BatchNorm1d(kernel.shape[1], eps=1e-5, momentum=0.1, affine=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``[batch, height, width, channels]`` in [0, 1] to ``[batch, dim]`` of length 1."""
        x = images.permute(0, 3, 1, 2)
        for block in self.blocks:
            x = halved(block(x))
        x = x.permute(0, 2, 3, 1).flatten(1)  # features in the order of the other side
        return functional.normalize(self.neck(self.head(x)))


def halved(x: torch.Tensor) -> torch.Tensor:
    """A 2×2 max-pool along every side that can still be halved."""
    sides = [min(2, side) for side in x.shape[2:]]
    return functional.max_pool2d(x, sides)


def tensor(variable: nnx.Variable) -> torch.Tensor:
    """The value of a parameter."""
    return torch.tensor(np.asarray(variable[...]))


def put(parameter: torch.nn.Parameter, value: torch.Tensor) -> None:
    """Sets a parameter."""
    if parameter.shape != value.shape:
        raise ValueError(f"a parameter of {list(parameter.shape)} cannot be {list(value.shape)}")
    with torch.no_grad():
        parameter.copy_(value)


def batch_hard(options: Mapping[str, Any]) -> Criterion:
    """Batch-hard triplets by PML's miner and loss."""
    distance = LpDistance(normalize_embeddings=False)
    miner = BatchHardMiner(distance=distance)
    loss = TripletMarginLoss(options["margin"], distance=distance, reducer=MeanReducer())
    return lambda embeddings, labels: loss(embeddings, labels, miner(embeddings, labels))


def supcon(options: Mapping[str, Any]) -> Criterion:
    """PML's SupCon, averaged over anchors."""
    return SupConLoss(options["temperature"], reducer=MeanReducer())


def nudge(network: ConvNet) -> None:
    """Moves every parameter by one rounding of float32, up or down by chance."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            up = torch.randint(0, 2, parameter.shape, generator=generator) == 1
            to = torch.where(up, torch.inf, -torch.inf)
            parameter.copy_(torch.nextafter(parameter, to))


CRITERIA: Mapping[str, Callable[[Mapping[str, Any]], Criterion]] = {
    "batch_hard_triplet_loss": batch_hard,
    "supcon_loss": supcon,
}


def train(
    network: ConvNet,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    criterion: Criterion,
    optimizer: str,
    momentum: float,
    rates: Sequence[float],
) -> list[float]:
    """Trains a network, in place.

    Args:
        network: The network.
        batches: (images, labels) of every step.
        criterion: The loss of (embeddings, labels).
        optimizer: ``"adam"`` or ``"sgd"``.
        momentum: Of sgd.
        rates: The learning rate of every step.

    Returns:
        The loss of every step.
    """
    torch.set_num_threads(1)  # several wait for each other, a hundred times as long where a machine is busy
    parameters, losses = network.parameters(), []
    kind = (
        torch.optim.Adam(parameters)
        if optimizer == "adam"
        else torch.optim.SGD(parameters, momentum=momentum)
    )
    network.train()
    for (images, labels), rate in zip(batches, rates, strict=True):
        for group in kind.param_groups:
            group["lr"] = rate
        kind.zero_grad()
        loss = criterion(network(torch.tensor(images)), torch.tensor(labels, dtype=torch.long))
        loss.backward()
        kind.step()
        losses.append(loss.item())
    return losses


def embed(network: ConvNet, images: np.ndarray) -> np.ndarray:
    """The embeddings ``[n, dim]`` of images, by the running statistics of BatchNorm."""
    network.eval()
    with torch.no_grad():
        return network(torch.tensor(images)).numpy()
