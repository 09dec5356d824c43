"""One side of one row, in a process of its own: what runs there, and how the measuring process sees it.

    python experiments/benchmark_worker.py SIDE SUBJECT BATCH DIM DTYPE

The process imports its libraries, makes itself ready and says so. Then it makes a call for every line that it is sent
and tells how long it took; of the first, also its number and the memory. Only what runs there imports array libraries:
Linux counts the resident set of a parent at its fork into the peak of the child, so the process that measures must stay
small.
"""

import contextlib
import importlib
import json
import os
import pathlib
import resource
import subprocess
import sys
import threading
import time
from typing import Any

from experiments.benchmark_rows import DENSE, FAISS, OPTAX, OURS, PML, PRODUCT, SKLEARN, Row
from experiments.benchmark_sides import PML_PARTS

ROOT = pathlib.Path(__file__).resolve().parent.parent
THREADS = 2  # on a CPU
SLOW = 1.0  # a call of more seconds than this is not preceded by an untimed one
TURN = 0.02  # seconds that a turn takes at least, of as many calls as it needs
NO_MEMORY = (
    "alloc",
    "memory",
    "ynnpack operation failed",
)  # what libraries say then; the last is XLA on a CPU
LIBRARIES = {
    OURS: ("metric_jax",),
    DENSE: ("metric_jax",),
    PML: PML_PARTS,
    OPTAX: ("optax",),
    FAISS: ("faiss",),
    SKLEARN: ("sklearn.metrics",),
    PRODUCT: ("jax",),
}


def on_cpu() -> bool:
    """Whether what is measured runs on the CPU, as it does unless JAX_PLATFORMS says otherwise."""
    return os.environ.get("JAX_PLATFORMS", "cpu") == "cpu"


def memory() -> int:
    """The machine's memory in bytes. A process may take half, to fail by itself and not with its neighbours."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# What runs in the process.


def work(side: str, subject: str, batch: int, dim: int, dtype: str) -> None:
    """Serves one side on standard input and output."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is not an answer

    def answer(**what: Any) -> None:
        channel.write(json.dumps(what) + "\n")

    if on_cpu():
        restrict()
    try:
        from experiments import benchmark_table

        row = Row(benchmark_table.find(subject), batch, dim, dtype)
        for library in (*LIBRARIES[side], *row.subject.libraries.get(side, ())):
            importlib.import_module(library)
        if "jax" in sys.modules:
            importlib.import_module("jax").devices()  # what starting the backend takes is no row's either
        base = peak()
        call = row.subject.sides[side](row)
        answer()
        sys.stdin.readline()
        began = time.perf_counter()
        value = call()
        first = time.perf_counter() - began
        answer(value=value, peak=max(0, peak() - base), base=base, first=first)
        calls = max(1, round(TURN / first))
        for _ in sys.stdin:
            if first < SLOW:
                call()
            began = time.perf_counter()
            for _ in range(calls):
                call()
            seconds = (time.perf_counter() - began) / calls
            calls = max(1, round(TURN / seconds))
            answer(seconds=seconds)
    except ImportError as error:
        answer(failed=f"{error.name} is not installed")
    except (MemoryError, RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        said = str(error) or type(error).__name__
        no_memory = isinstance(error, MemoryError) or any(x in said.lower() for x in NO_MEMORY)
        answer(failed="out of memory" if no_memory else said.splitlines()[0])


def restrict() -> None:
    """Two processors, for every library counts those that it may use, and half of the memory."""
    with contextlib.suppress(AttributeError):  # Linux only
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (memory() // 2, memory() // 2))


def peak() -> int:
    """The most bytes that this process held so far: on its accelerator if it has one, else in memory."""
    if not on_cpu():
        torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
        if torch and torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
        if jax and (told := jax.devices()[0].memory_stats()):
            return told["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# What the measuring process sees.


class Worker:
    """A side of a row, which starts at once; ``failed`` says why it answers no more."""

    def __init__(self, side: str, row: Row, *, patience: float):
        arguments = [side, row.subject.name, str(row.batch), str(row.dim), row.dtype]
        pipe, self.patience = subprocess.PIPE, patience
        command = [sys.executable, __file__, *arguments]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment())
        self.failed = ""
        self.told: dict[str, Any] = {}
        self.seconds: list[float] = []
        self.spent, self.cost = 0.0, 0.0  # seconds, of all turns and of the next one

    def first(self) -> None:
        """Waits until it is ready, and has it make its first call."""
        self._answer()
        self.told = self._call()
        self.cost = self.told.get("first", 0.0)

    def turn(self) -> None:
        """Times one call, or several if they are short."""
        began = time.perf_counter()
        if answer := self._call():
            self.seconds.append(answer["seconds"])
        self.cost = time.perf_counter() - began
        self.spent += self.cost

    def close(self) -> dict[str, Any]:
        """Ends the process. Returns what it told, with the seconds of every turn, or why there are none.

        Without a turn the first call counts as one: a call that takes so long is compiled ahead, and needs no other.
        """
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()
        if self.failed:
            return {"failed": self.failed}
        return {**self.told, "seconds": self.seconds or [self.told["first"]]}

    def _call(self) -> dict[str, Any]:
        """What it tells of another call; nothing if it failed, now or before."""
        if self.failed:
            return {}
        with contextlib.suppress(BrokenPipeError):  # it died in the meantime, and does not answer
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        answer = self._answer()
        return {} if self.failed else answer

    def _answer(self) -> dict[str, Any]:
        alarm = threading.Timer(self.patience, self.process.kill)
        alarm.start()
        line = self.process.stdout.readline()
        late = not alarm.is_alive()
        alarm.cancel()
        if line:
            answer = json.loads(line)
        elif late:
            answer = {"failed": f"over {self.patience:g} s"}
        else:
            killed = self.process.wait() == -9  # by the system, which does so to who takes the last memory
            answer = {"failed": "out of memory" if killed else "crashed"}
        self.failed = answer.get("failed", "")
        return answer


def environment() -> dict[str, str]:
    """The environment of every process that is measured: this checkout, the CPU unless told otherwise, two threads.

    OpenMP's threads sleep while they wait: spinning, their default, slows PML many times when the machine is busy. Of a
    GPU, JAX takes what it needs rather than most of it at once.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    given = {**os.environ, "PYTHONPATH": path, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if on_cpu():
        given |= {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "PASSIVE"}
    return given


def measure(row: Row, *, turns: int, seconds: float, patience: float) -> dict[str, Any]:
    """All sides of one row.

    They take turns, ``turns`` of them or as many as last ``seconds`` on each side. An accelerator may belong to one
    process at a time, so there one side is done before the next begins.
    """
    subject, sides = row.subject, {}
    for together in [list(subject.sides)] if on_cpu() else [[name] for name in subject.sides]:
        workers = {name: Worker(name, row, patience=patience) for name in together}
        for worker in workers.values():
            worker.first()
        for _ in range(turns):
            for worker in workers.values():
                if worker.spent + worker.cost <= seconds:
                    worker.turn()
        sides |= {name: worker.close() for name, worker in workers.items()}
    for told in sides.values():
        if "seconds" in told:
            told["seconds"] = [each / subject.units for each in told["seconds"]]
    what = {"group": subject.group, "name": subject.name, "remarks": dict(subject.remarks)}
    return {**what, "batch": row.batch, "dim": row.dim, "dtype": row.dtype, "sides": sides}


def start_cost(row: Row, side: str, *, patience: float) -> float | None:
    """Seconds from the command to the end of the first call, of a side that starts alone; None if it fails."""
    began = time.perf_counter()
    worker = Worker(side, row, patience=patience)
    worker.first()
    seconds = time.perf_counter() - began
    worker.close()
    return None if worker.failed else seconds


if __name__ == "__main__":
    SIDE, SUBJECT, BATCH, DIM, DTYPE = sys.argv[1:]
    work(SIDE, SUBJECT, int(BATCH), int(DIM), DTYPE)
