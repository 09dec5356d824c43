"""Checkpoints: the training state and the position of the data stream, saved together or not at all.

A checkpoint is a folder with the number of its step for a name. It is written under another name, gets a manifest of
its files, is put on disk, and only then renamed: one that has such a name is whole, whenever the process or the machine
dies. Older ones are deleted after that, so there is no moment without one. All but the copy from the devices happens in
the background, while training goes on.

    checkpoints/200/           the newest
        state/ ...             Orbax's: the arrays of the training state
        notes.json             position of the data stream, and what else the run goes on from
        manifest.json          sizes and SHA-256 of these files
    checkpoints/400.partial/   is being written, or deleted; cleared away when training starts
    checkpoints/300.damaged/   was found damaged, and training went on from 200
"""

import concurrent.futures
import contextlib
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, Self

import grain
import jax
import orbax.checkpoint.experimental.v1 as ocp

from metric_jax.training import folders, manifest, processes
from metric_jax.training.errors import RunError
from metric_jax.training.signals import uninterrupted
from metric_jax.training.state import TrainState, like
from metric_jax.training.stored import NOTES, STATE, load, steps

PARTIAL, DAMAGED = ".partial", ".damaged"
NONE = -1  # no step


class Checkpoints:
    """The checkpoints of a run that trains, of which the latest few are kept, and the best."""

    def __init__(self, folder: pathlib.Path, *, keep: int):
        """Opens the folder, clearing what a process that died has left unfinished.

        Args:
            folder: Where they are; made if it is not there.
            keep: How many of the latest to keep.
        """
        self._folder, self._keep = folder.absolute(), keep
        self._background = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._saving: concurrent.futures.Future[None] | None = None
        if processes.is_first():
            with folders.writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                for unfinished in folder.glob(f"*{PARTIAL}*"):
                    shutil.rmtree(unfinished)
        processes.together(0)  # none looks before that is done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for what is being saved. What failed there is raised, or told if something else is raised already."""
        with uninterrupted():
            try:
                self.wait()
            except RunError as error:
                if kind is None:
                    raise
                print(error, file=sys.stderr)
            finally:
                self._background.shutdown()

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        return max(steps(self._folder), default=None)

    def save(
        self,
        state: TrainState,
        stream: grain.DatasetIterator,
        *,
        step: int,
        notes: dict[str, Any],
        best: int | None = None,
    ) -> None:
        """Saves in the background; the state may be donated as soon as this returns.

        Args:
            state: The training state.
            stream: Its position is noted.
            step: That of the state.
            notes: What else a later session goes on from; JSON.
            best: The step of a checkpoint to keep beside the latest ones.

        Raises:
            RunError: This one, or the one before, which is waited for, cannot be written.
        """
        self.wait()
        content = {"stream": stream.get_state(), "best": best, "notes": notes}
        path = self._folder / f"{step}{PARTIAL}"
        with self._told(path), uninterrupted():  # Orbax's threads may hang if they are cut off
            if processes.is_first():
                _see_that_there_is_room(self._folder, state)
            arrays = ocp.save_async(path, state, checkpointable_name=STATE)
            self._saving = self._background.submit(self._finish, arrays, path, content, best)

    def wait(self) -> None:
        """Waits until what is being saved is on disk.

        Raises:
            RunError: It cannot be written.
        """
        if self._saving is not None:
            try:
                self._saving.result()
            finally:
                if self._saving.done():  # else Ctrl-C was pressed, and __exit__ waits for it
                    self._saving = None

    def restore(self, state: TrainState, stream: grain.DatasetIterator) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint that is not damaged; newer ones are set aside, and a line says so.

        Args:
            state: A state of the same shapes, types and shardings.
            stream: Is put where it was.

        Returns:
            (state, the notes it was saved with).

        Raises:
            RunError: All are damaged, or it is of another state.
        """
        step, faults = (
            self._newest_whole() if processes.is_first() else (NONE, "the first process tells more")
        )
        step = processes.together(step)
        if step == NONE:
            raise RunError(f"no checkpoint in {self._folder} is whole ({faults}): choose another --workdir")
        path = self._folder / str(step)
        content = folders.read_json(path / NOTES)
        stream.set_state(content["stream"])
        return load(path, like(state)), content["notes"]

    def _newest_whole(self) -> tuple[int, str]:
        """Its step, newer ones being set aside; or `NONE`, and what is wrong with all of them."""
        damaged: dict[int, RunError] = {}
        for step in reversed(steps(self._folder)):
            path = self._folder / str(step)
            try:
                manifest.verify(path)
            except RunError as error:
                damaged[step] = error
                continue
            for number, fault in damaged.items():
                aside = self._folder / f"{number}{DAMAGED}"
                with folders.writing(aside):
                    shutil.rmtree(aside, ignore_errors=True)
                    (self._folder / str(number)).rename(aside)
                told = f"checkpoint {number} is damaged ({fault}), and now {aside}"
                print(f"{told}: going on from step {step}", file=sys.stderr)
            return step, ""
        return NONE, "; ".join(f"{step}: {fault}" for step, fault in damaged.items())

    def describe_latest(self) -> str:
        """Where the newest one is, for a message; waits for one that is being saved."""
        self.wait()
        if self.latest is None:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is that of step {self.latest}, in {self._folder / str(self.latest)}"

    def _finish(
        self, arrays: ocp.AsyncResponse[None], path: pathlib.Path, content: dict[str, Any], best: int | None
    ) -> None:
        """What happens in the background."""
        with self._told(path):
            arrays.result()
            if not processes.is_first():
                return
            folders.write_json(path / NOTES, content)
            manifest.write(path)
            path.rename(path.with_suffix(""))
            manifest.sync(self._folder)
            for step in steps(self._folder)[: -self._keep]:
                if step != best:
                    doomed = self._folder / f"{step}{PARTIAL}"  # half of a folder is no checkpoint either
                    shutil.rmtree((self._folder / str(step)).rename(doomed))

    @contextlib.contextmanager
    def _told(self, path: pathlib.Path) -> Iterator[None]:
        """Makes one line of what goes wrong while a checkpoint is written, and frees the space that it took."""
        try:
            yield
        except Exception as error:  # Orbax and TensorStore have many
            for unfinished in self._folder.glob(f"{path.name}*"):
                shutil.rmtree(unfinished, ignore_errors=True)
            raise RunError(
                f"cannot save the checkpoint of step {path.stem} in {self._folder}: {_reason(error)}; once that is "
                f"mended, the same command goes on from the checkpoint before"
            ) from error


def _see_that_there_is_room(folder: pathlib.Path, state: TrainState) -> None:
    """Raises an OSError where a disk, a quota or a limit is in the way: Orbax fails then, but not without ado."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)


def _reason(error: Exception) -> str:
    """What the operating system says is wrong, or else the first line of an error."""
    code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's
    if code:
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
