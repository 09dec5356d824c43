"""The whole training step of the benchmark, its loss alone, and the batches it is fed, beside PyTorch with PML.

The step is one on 512 images of Omniglot, at 28×28 without augmentation: bytes to float32, the four-block network 64
channels wide, batch-hard triplet loss, gradients, Adam. The images are noise, of Omniglot's number.
"""

import itertools
from typing import Any

from experiments import benchmark_rows as table
from experiments.benchmark_losses import pml_batch_hard
from experiments.benchmark_rows import OURS, PML, PRODUCT, Call, Row, Subject
from experiments.benchmark_sides import device, ours, peer, product, waited, whole_pml

CLASSES, DRAWINGS, SIDE = 3856, 20, 28  # Omniglot's characters in four rotations, each drawn by 20 people
SAMPLES, WIDTH, DIM = 8, 64, 64
BATCHES = 20  # that one call makes


def images(classes: int) -> tuple[Any, Any]:
    """``[n, 28, 28, 1]`` bytes and ``[n]`` labels."""
    import numpy as np

    shape = (classes * DRAWINGS, SIDE, SIDE, 1)
    drawn = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return drawn, np.repeat(np.arange(classes, dtype=np.int32), DRAWINGS)


def batch_of(row: Row) -> tuple[Any, Any]:
    """One batch, 8 images of every class."""
    import numpy as np

    drawn, _ = images(-(-row.batch // DRAWINGS))
    return drawn[: row.batch], np.arange(row.batch, dtype=np.int32) // SAMPLES


def step(row: Row) -> Call:
    """metric_jax's training step."""
    import jax
    import optax
    from flax import nnx

    import metric_jax as mj
    from metric_jax.models import ConvNet
    from metric_jax.training import devices, objective, state, step

    drawn, labels = batch_of(row)
    mesh, optimizer = devices.mesh(row.batch), optax.adam(1e-3)
    net = ConvNet(drawn.shape[1:], width=WIDTH, dim=DIM, rngs=nnx.Rngs(0))
    graphdef, trained = state.create(net, optimizer, jax.random.key(0))
    layout = devices.layout(trained, mesh, sharded=False)
    run = step.make_train_step(
        step.make_encoder(graphdef, mesh),
        optimizer,
        objective.Objective(loss=mj.batch_hard_triplet_loss),
        augment=None,
        mesh=mesh,
        layout=layout,
    )
    held = [devices.arrange(trained, layout)]
    ahead = run.lower(held[0], *devices.place((drawn, labels), mesh)).compile()

    def call() -> float:
        held[0], output = ahead(held[0], *devices.place((drawn, labels), mesh))
        jax.block_until_ready(held[0])
        return float(output.loss)

    return call


def torch_network() -> Any:
    """The same network in PyTorch, but for the scaling to length 1."""
    from torch import nn

    def block(channels: int) -> list[Any]:
        return [
            nn.Conv2d(channels, WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]

    blocks = [block(channels) for channels in (1, WIDTH, WIDTH, WIDTH)]
    neck = nn.BatchNorm1d(DIM, affine=False)
    return nn.Sequential(*itertools.chain(*blocks), nn.Flatten(), nn.Linear(WIDTH, DIM), neck)


def torch_step(row: Row) -> Call:
    """The same step in PyTorch, with PML's loss."""
    import torch

    torch.manual_seed(0)
    drawn, labels = batch_of(row)
    net, loss = torch_network().to(device()), pml_batch_hard(whole_pml())
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def call() -> float:
        pixels = torch.from_numpy(drawn.transpose(0, 3, 1, 2)).to(device()).float() / 255
        embeddings = torch.nn.functional.normalize(net(pixels))
        value = loss(embeddings, torch.from_numpy(labels).to(device()))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value.item()

    return waited(call)


def batches(row: Row) -> Call:
    """P×K batches of metric_jax: its sampler, its stream."""
    from metric_jax import data
    from metric_jax.data.samplers import PKSampler

    held = data.Images(*images(CLASSES))
    sampler = PKSampler(held.labels, classes=row.batch // SAMPLES, samples=SAMPLES, seed=0)
    stream = data.batches(held, sampler, count=10**9)
    return lambda: float(sum(len(next(stream).labels) for _ in range(BATCHES)))


def torch_batches(row: Row) -> Call:
    """The same of PyTorch's DataLoader, in its own process as ours, with PML's sampler."""
    import torch
    from pytorch_metric_learning.samplers import MPerClassSampler

    drawn, labels = map(torch.from_numpy, images(CLASSES))
    count = row.batch * BATCHES
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(drawn, labels),
        batch_size=row.batch,
        sampler=MPerClassSampler(labels, SAMPLES, row.batch, count),
    )
    return lambda: float(sum(len(taken) for _, taken in loader))


STEP, LOSS_OF_STEP = "training step, images", "loss of that step alone"
_TRAINING = {
    OURS: ("flax.nnx", "optax", "metric_jax.training", "metric_jax.models"),
    PML: ("torch.utils.data",),
}
SUBJECTS = (
    (
        Subject(
            STEP,
            table.TRAINING,
            {OURS: step, PML: torch_step},
            {PML: "the same layers, loss and optimizer in PyTorch; weights are drawn otherwise"},
            _TRAINING,
        ),
        512,
        0,
    ),
    (
        Subject(
            LOSS_OF_STEP,
            table.TRAINING,
            {OURS: ours("batch_hard_triplet_loss"), PML: peer(pml_batch_hard), PRODUCT: product},
            samples=SAMPLES,
        ),
        512,
        DIM,
    ),
    (
        Subject(
            "P×K batch, images",
            table.TRAINING,
            {OURS: batches, PML: torch_batches},
            {},
            {**_TRAINING, PML: ("torch.utils.data", "pytorch_metric_learning.samplers")},
            units=BATCHES,
        ),
        512,
        0,
    ),
)
