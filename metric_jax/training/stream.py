"""The batches of a process, one after the other, and where the classes lie that a sampler is to bring together."""

from collections.abc import Callable
from typing import NamedTuple

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from metric_jax import data
from metric_jax.data import samplers
from metric_jax.training import devices
from metric_jax.training.state import TrainState


class Source(NamedTuple):
    """What batches are drawn from.

    Attributes:
        train: The training set, its classes numbered without a gap.
        sampler: Says which images make a batch, of all processes together.
        steps: How many batches there are.
        mesh: The devices.
    """

    train: data.Images
    sampler: samplers.PKSampler
    steps: int
    mesh: Mesh

    def begin(self) -> grain.DatasetIterator[data.Images]:
        """The batches of this process, from the first on."""
        return self._stream(self.sampler)

    def follow(
        self, stream: grain.DatasetIterator[data.Images], state: TrainState
    ) -> grain.DatasetIterator[data.Images]:
        """The batches from where a stream is, with the classes where the state says; the same stream if it does not."""
        if state.centres is None or not isinstance(self.sampler, samplers.HardClassSampler):
            return stream
        everywhere = devices.arrange(state.centres, devices.replicated(self.mesh))
        new = self._stream(self.sampler.with_centres(np.asarray(everywhere)))
        new.set_state(stream.get_state())
        stream.close()  # the batches that it has ready are of the classes as they lay before
        return new

    def look(self, state: TrainState, embed: Callable[[TrainState, data.Images], np.ndarray]) -> TrainState:
        """The state with the centres of the classes as it embeds them; as it was if nobody asks for them."""
        if state.centres is None:
            return state
        centres = samplers.class_centres(embed(state, self.train), self.train.labels)
        return state._replace(centres=devices.arrange(centres, state.centres.sharding))

    def _stream(self, sampler: samplers.PKSampler) -> grain.DatasetIterator[data.Images]:
        own = samplers.shard(sampler, index=jax.process_index(), count=jax.process_count())
        return data.batches(self.train, own, count=self.steps)
