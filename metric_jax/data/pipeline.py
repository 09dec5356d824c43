"""The stream of batches, by Grain.

Its records are not images but batches: record i is what the sampler says of number i. So the stream has the position i
for its whole state, whatever its workers are doing ahead of it, and saving that one number resumes it exactly.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from metric_jax.data.errors import DataError
from metric_jax.data.sources import Images

if TYPE_CHECKING:
    import grain


def batches(
    images: Images, sampler: Callable[[int], np.ndarray], *, count: int, threads: int = 1
) -> "grain.DatasetIterator[Images]":
    """The first ``count`` batches of a sampler.

    Args:
        images: What the sampler's indices refer to.
        sampler: From the number of a batch to the indices of its images.
        count: How many batches there are.
        threads: How many fetch batches. The stream is the same; more than one are for images that a cache maps from a
            disk that is slow.

    Returns:
        An iterator over `Images`, with ``get_state`` and ``set_state``. Two are fetched in advance by every thread.

    Raises:
        DataError: There is no batch.

    Example:
        >>> from metric_jax.data.sources import digits
        >>> stream = batches(digits(), lambda batch: np.arange(2) + 2 * batch, count=10)
        >>> [next(stream).labels.tolist() for _ in range(2)], stream.get_state()
        ([[0, 1], [2, 3]], {'next_index': 2})
    """
    import grain  # takes a second, which those who only load data need not wait

    if count < 1:
        raise DataError(f"a stream needs at least one batch, got count={count}")
    numbers = grain.MapDataset.range(count)
    fetch = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(numbers.map(lambda batch: images[sampler(batch)]).to_iter_dataset(fetch))
