"""TensorBoard's file of events.

Imported when a run opens it: tensorboardX imports torch where that is installed, which a mistake in a config need not
wait for.
"""

import os
import pathlib
import time
from collections.abc import Mapping

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from metric_jax.training import folders


class Events:
    """Writes scalars by step.

    tensorboardX's own SummaryWriter writes in a thread, which dies of a full disk and leaves the run waiting for ever.
    """

    def __init__(self, folder: pathlib.Path, *, after: int):
        """Opens a new file in a folder, of a run that goes on after a given step."""
        self._folder = folder
        with folders.writing(folder):
            self._file = EventsWriter(str(folder / "events"), f".{os.getpid()}")
            # Tells TensorBoard that later steps come again, if a session that was cut off has written any.
            start = SessionLog(status=SessionLog.START)
            self._file.write_event(Event(wall_time=time.time(), step=after + 1, session_log=start))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the numbers of a step; they are on disk when this returns."""
        with folders.writing(self._folder):
            for key, value in scalars.items():
                self._file.write_event(Event(wall_time=time.time(), step=step, summary=scalar(key, value)))
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with folders.writing(self._folder):
            self._file.close()
