"""What `benchmark.py` measures: one line of the table each, and who computes it.

A *subject* is a thing to compute; every *side* of it (metric_jax, PML, ...) is a function that makes ready and returns
a call, which the benchmark then times. A *row* is a subject at one size. Another comparison is one more `Subject` in
benchmark_losses.py, benchmark_evaluation.py or benchmark_training.py; benchmark_table.py says at which sizes.

Nothing here imports an array library: only the process of one side does, as it makes that side ready.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

Call = Callable[[], float]  # computes once, until the result is there, and returns one number of it
Maker = Callable[["Row"], Call]

OURS, DENSE = "metric_jax", "dense"  # with the tile that it chooses, and with all of the batch in one tile
PML, OPTAX, FAISS, SKLEARN, PRODUCT = "PML", "optax", "faiss", "scikit-learn", "product"
SIDES = (OURS, DENSE, PML, OPTAX, FAISS, SKLEARN, PRODUCT)  # in the order of the columns

LOSSES, MINERS, EVALUATION = "Losses, with their gradient", "Miners", "Evaluation"
TRAINING, EVERY_LOSS = "Training", "Memory of every loss"
GROUPS = (LOSSES, MINERS, EVALUATION, TRAINING)


@dataclasses.dataclass(frozen=True)
class Subject:
    """Something to compute.

    Attributes:
        name: What the table calls it, and a worker finds it by.
        group: The part of the table that it stands in.
        sides: Who computes it, and how.
        remarks: How a side computes something else than metric_jax; one without a remark must find the same number.
        libraries: Modules that a side imports beside its own; what imports cost is not counted as its memory.
        samples: Rows of every class.
        spread: How far classes lie apart, in units of what rows of one class differ by; 0 for rows without structure.
        units: How many things one call makes; the time of one is told.
    """

    name: str
    group: str
    sides: Mapping[str, Maker]
    remarks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    libraries: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    samples: int = 4
    spread: float = 0.0
    units: int = 1


@dataclasses.dataclass(frozen=True)
class Row:
    """A subject at one size: ``batch`` rows of ``dim`` numbers, or ``batch`` of something else where dim is 0."""

    subject: Subject
    batch: int
    dim: int
    dtype: str = "float32"

    @property
    def label(self) -> str:
        """What ``--rows`` looks at: ``SupCon 4096x128``."""
        return f"{self.subject.name} {self.batch}" + (f"x{self.dim}" if self.dim else "")

    def data(self) -> tuple[Any, Any]:
        """The embeddings ``[batch, dim]``, of length 1 and in float32, and the labels ``[batch]`` of every side."""
        import numpy as np

        generator, labels = np.random.default_rng(0), np.arange(self.batch) // self.subject.samples
        rows = generator.standard_normal((self.batch, self.dim), dtype=np.float32)
        if self.subject.spread:
            centers = generator.standard_normal((labels[-1] + 1, self.dim), dtype=np.float32)
            rows += np.float32(self.subject.spread) * centers[labels]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True), labels
