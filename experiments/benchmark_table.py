"""The rows of the benchmark: every subject, and at which sizes it is measured."""

import re
from collections.abc import Sequence

from experiments import benchmark_evaluation, benchmark_losses, benchmark_training
from experiments.benchmark_rows import Row, Subject

SIZES = ((256, 128), (1024, 128), (4096, 128), (16384, 128), (65536, 128), (4096, 512))
QUICK_SIZES = ((512, 128),)


def find(name: str) -> Subject:
    """The subject of a name: one of the table, or any loss of embeddings and labels."""
    known = {subject.name: subject for subject in subjects()}
    return known.get(name) or benchmark_losses.any_loss(name)


def subjects() -> list[Subject]:
    """All subjects of the table, in its order."""
    return [
        *benchmark_losses.LOSSES,
        *benchmark_losses.MINERS,
        *(subject for subject, *_ in benchmark_evaluation.SUBJECTS),
        *(subject for subject, *_ in benchmark_training.SUBJECTS),
    ]


def rows(
    *, quick: bool = False, sizes: Sequence[tuple[int, int]] = (), dtype: str = "float32", only: str = ""
) -> list[Row]:
    """The rows to measure.

    Args:
        quick: Whether to take small sizes: does it all run?
        sizes: (batch, dim) of losses and miners, in place of those that are usual.
        dtype: Of the embeddings that losses and miners get.
        only: A regular expression that `Row.label` must have.
    """
    of_losses = sizes or (QUICK_SIZES if quick else SIZES)
    of_miners = sizes or (((256, 128),) if quick else ((4096, 128),))
    found = [Row(subject, *size, dtype) for subject in benchmark_losses.LOSSES for size in of_losses]
    found += [Row(subject, *size, dtype) for subject in benchmark_losses.MINERS for size in of_miners]
    for subject, batch, dim in (*benchmark_evaluation.SUBJECTS, *benchmark_training.SUBJECTS):
        found.append(Row(subject, batch // 8 if quick else batch, dim))
    return [row for row in found if re.search(only, row.label)]
