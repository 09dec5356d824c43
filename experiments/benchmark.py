"""Speed and memory of the losses, beside pytorch-metric-learning (PML) and beside a bare matrix product.

    make bench                                          # or, also without PML: python experiments/benchmark.py
    python experiments/benchmark.py --quick             # sizes by 8 smaller, about a minute: does it all run?
    python experiments/benchmark.py --out=runs/bench    # also writes benchmark.json and benchmark.md there

What is compared: the value of a loss and its gradient with respect to the embeddings: batch × 128 float32 rows of unit
length, 4 of every class (P×K batches with K = 4), two threads. Retrieval is MAP@R with P@1 and R-precision, of 20,000
rows in classes of 5 or of 100; there is no gradient. The matrix product is the one that every batch loss
needs, embeddings times embeddings transposed in full float32, jitted, without a gradient.

How: every side of a row is a process of its own, so that no library's threads or allocator disturb another's, and they
take turns, so that a busy moment of the machine meets all of them. In its turn a process makes one untimed call (caches
and threads awake; left out where a call takes seconds), then a timed one, until the result is there. Reported is the
median turn. Memory is the largest resident set that the operating system saw of that process up to the end of its
first call, compilation included, less that of a process which only imports; the latter is stated apart. The second
table holds every loss of embeddings and labels at a batch of 32,768, where a batch² matrix of float32 takes 4.3 GB.

Another loss is one more entry of ``ROWS`` in benchmark_rows.py.
"""

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

# The process that measures must stay small: Linux counts the resident set of the parent at its fork into the peak of
# the child. So jax, torch and NumPy are imported by the workers only.
from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script sees its own folder alone

from experiments.benchmark_rows import DIM, MEMORY_BATCH, ROWS, Row  # noqa: E402

THREADS = 2
PATIENCE = 900  # seconds that a process may take for an answer
NOTHING = "nothing"  # the loss of a process that only imports
SLOW = 1.0  # a call of more seconds than this is not preceded by an untimed one

# A worker: one side of one row, in a process of its own.


def ours(row: Row | None) -> Callable[[], float]:
    """A call of metric_jax's side, with its gradient where that counts; without a row, nothing but the imports."""
    import jax

    import metric_jax as mj

    if row is None:
        return float
    if not row.gradient:
        return functools.partial(row.ours(mj), *row.data())
    embeddings, labels = (jax.numpy.asarray(x) for x in row.data())
    step = jax.jit(jax.value_and_grad(row.ours(mj)))
    return lambda: float(jax.block_until_ready(step(embeddings, labels))[0])


def peer(row: Row | None) -> Callable[[], float]:
    """A call of PML's side, likewise."""
    import pytorch_metric_learning as pml
    import torch

    for part in ("distances", "losses", "miners", "reducers", "utils.accuracy_calculator"):
        importlib.import_module(f"pytorch_metric_learning.{part}")
    torch.set_num_threads(THREADS)
    if row is None:
        return float
    if not row.gradient:
        return functools.partial(row.peer(pml), *row.data())
    embeddings, labels = (torch.from_numpy(x) for x in row.data())
    embeddings.requires_grad_()
    loss = row.peer(pml)

    def step() -> float:
        embeddings.grad = None
        value = loss(embeddings, labels)
        value.backward()
        return value.item()

    return step


def product(row: Row) -> Callable[[], float]:
    """A call of the bare matrix product."""
    import jax

    embeddings = jax.numpy.asarray(row.data()[0])
    step = jax.jit(lambda x: jax.numpy.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST))
    return lambda: float(jax.block_until_ready(step(embeddings))[0, 0])


def work(side: str, loss: str, batch: int) -> None:
    """Serves one side: makes a first call and reports; then times a call for every line that it is sent."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is not an answer

    def answer(**what: Any) -> None:
        channel.write(json.dumps(what) + "\n")

    with contextlib.suppress(
        AttributeError
    ):  # Linux only; both libraries count the processors that they may use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (memory() // 2, memory() // 2))
    try:
        rows = {row.loss: row for row in ROWS}
        row = rows.get(loss, Row(loss, batch, lambda mj: getattr(mj, loss)))
        row = None if loss == NOTHING else dataclasses.replace(row, batch=batch)
        call = {"ours": ours, "peer": peer, "product": product}[side](row)
        began = time.perf_counter()
        value = call()
        first = time.perf_counter() - began
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        answer(value=value, peak=peak, first=first)
        for _ in sys.stdin:
            if first < SLOW:
                call()
            began = time.perf_counter()
            call()
            answer(seconds=time.perf_counter() - began)
    except ImportError as error:
        answer(failed=f"{error.name} is not installed")
    except (MemoryError, RuntimeError) as error:
        no_memory = isinstance(error, MemoryError) or any(
            x in str(error).lower() for x in ("alloc", "memory")
        )
        answer(failed="out of memory" if no_memory else str(error).splitlines()[0])


def memory() -> int:
    """The machine's memory in bytes. A process may take half, to fail by itself and not with its neighbours."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# The process that measures.


class Worker:
    """A side of a row, seen from the measuring process; ``failed`` says why it answers no more."""

    def __init__(self, side: str, loss: str, batch: int):
        command = [sys.executable, __file__, "--worker", side, loss, str(batch)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment())
        self.failed = ""
        self.seconds: list[float] = []
        self.first = self._answer()

    def turn(self) -> None:
        """Times one call."""
        if not self.failed:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            answer = self._answer()
            self.seconds += [] if self.failed else [answer["seconds"]]

    def close(self) -> dict[str, Any]:
        """Ends the process. Returns seconds of every turn, peak bytes and the loss's value, or why there are none."""
        self.process.communicate()
        return {"failed": self.failed} if self.failed else {**self.first, "seconds": self.seconds}

    def _answer(self) -> dict[str, Any]:
        alarm = threading.Timer(PATIENCE, self.process.kill)
        alarm.start()
        line = self.process.stdout.readline()
        late = not alarm.is_alive()
        alarm.cancel()
        answer = json.loads(line) if line else {"failed": f"over {PATIENCE} s" if late else "crashed"}
        self.failed = answer.get("failed", "")
        return answer


def environment() -> dict[str, str]:
    """The environment of every process that is measured: this checkout, the CPU, two threads.

    OpenMP's threads sleep while they wait: spinning, their default, slows PML many times when the machine is busy.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    threads = {"OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "PASSIVE"}
    return {**os.environ, **threads, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}


def measure(row: Row) -> dict[str, Any]:
    """All sides of one row, taking turns."""
    sides = ["ours", *(["peer"] if row.peer else []), *(["product"] if row.product else [])]
    workers = {side: Worker(side, row.loss, row.batch) for side in sides}
    for _ in range(row.turns):
        for worker in workers.values():
            worker.turn()
    results = {side: worker.close() for side, worker in workers.items()}
    return {"loss": row.loss, "batch": row.batch, "remark": row.remark, **results}


def public_losses() -> list[str]:
    """The names of all losses of embeddings and labels, found by another process."""
    program = "import metric_jax as mj; from experiments import benchmark_rows as b; print(*b.of_labels(mj))"
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, env=environment(), check=True, capture_output=True, text=True
    ).stdout.split()


def import_cost(processes: int) -> dict[str, Any]:
    """Median seconds of importing metric_jax's dependencies, and these with it, in fresh processes that take turns."""
    statements = {"base": "import jax, chex, jaxtyping", "all": "import jax, chex, jaxtyping, metric_jax"}
    program = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"
    seconds: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(processes + 1):
        for name, statement in statements.items():
            command = [sys.executable, "-c", program.format(statement)]
            done = subprocess.run(command, env=environment(), check=True, capture_output=True, text=True)
            seconds[name].append(float(done.stdout))
    # The first of each is left out: it compiles to bytecode.
    return {"processes": processes, **{name: statistics.median(s[1:]) for name, s in seconds.items()}}


def machine() -> dict[str, str]:
    """What this was measured on and with."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    found = {"machine": f"{cpu}, {os.cpu_count()} processors, {memory() / 1e9:.0f} GB, {platform.platform()}"}
    versions = [f"Python {platform.python_version()}"]
    for package in ("metric_jax", "jax", "numpy", "torch", "pytorch-metric-learning"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return {**found, "versions": ", ".join(versions), "command": " ".join(["python", *sys.argv])}


# The report.

MEMORY_HEADINGS = ("loss", "size", "memory", "first call")
HEADINGS = ("loss", "size", "metric_jax", "PML", "PML / ours", "product", "ours / product", "memory", "PML's")


def cells(found: dict[str, Any], imports: dict[str, Any]) -> list[str]:
    """One row of the table."""
    sides = {side: found.get(side, {}) for side in ("ours", "peer", "product")}
    medians = {side: statistics.median(r["seconds"]) for side, r in sides.items() if r.get("seconds")}

    def shown(side: str) -> str:
        seconds = medians.get(side)
        if seconds is None:
            return sides[side].get("failed", "-")
        return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"

    def ratio(a: str, b: str) -> str:
        return f"{medians[a] / medians[b]:.2f}" if a in medians and b in medians else "-"

    def used(side: str) -> str:
        known = "peak" in sides[side] and "peak" in imports[side]
        return f"{(sides[side]['peak'] - imports[side]['peak']) / 1e6:,.0f} MB" if known else shown(side)

    times = [shown("ours"), shown("peer"), ratio("peer", "ours"), shown("product"), ratio("ours", "product")]
    return [found["loss"], f"{found['batch']:,} × {DIM}", *times, used("ours"), used("peer")]


def memory_cells(found: dict[str, Any], imports: dict[str, Any]) -> list[str]:
    """One row of the table of memory."""
    ours = found["ours"]
    if "peak" not in ours:
        return [found["loss"], f"{found['batch']:,} × {DIM}", ours["failed"], "-"]
    used = f"{(ours['peak'] - imports['ours']['peak']) / 1e6:,.0f} MB"
    return [found["loss"], f"{found['batch']:,} × {DIM}", used, f"{ours['first']:.1f} s"]


def agreement(found: dict[str, Any]) -> str:
    """Whether both sides of a row compute one number."""
    values = [found.get(side, {}).get("value") for side in ("ours", "peer")]
    if found["remark"] or None in values:
        return found["remark"] or "nothing to compare the value with"
    wrong = abs(values[0] - values[1]) > 1e-4 * abs(values[1])
    return f"one function; the loss is {values[0]:.7g}, PML's {values[1]:.7g}" + (" (WRONG)" if wrong else "")


def report(results: dict[str, Any]) -> str:
    """Everything that was measured, as Markdown that also reads well in a terminal."""
    imports, cost = results["imports"], results["import_cost"]
    alone = [f"{r['peak'] / 1e6:,.0f} MB" if "peak" in r else r["failed"] for r in imports.values()]
    added, base = (f"{1e3 * seconds:.0f} ms" for seconds in (cost["all"] - cost["base"], cost["base"]))
    speed = table(HEADINGS, [cells(found, imports) for found in results["rows"]])
    space = table(MEMORY_HEADINGS, [memory_cells(found, imports) for found in results["memory"]])
    notes = [
        f"Losses with their gradient, in float32 on {THREADS} threads; medians.",
        "The product is embeddings times embeddings transposed, without a gradient. Memory is a process's peak above",
        f"that of its imports ({alone[0]}; PML: {alone[1]}); a process may take {memory() / 2e9:.0f} GB.",
        "",
        f"`import metric_jax` adds {added} to `import jax, chex, jaxtyping`, which takes {base}: medians of "
        f"{cost['processes']} processes.",
    ]
    facts = [f"- {name}: {fact}" for name, fact in results["machine"].items()]
    remarks = [f"- {found['loss']}, {found['batch']:,}: {agreement(found)}" for found in results["rows"]]
    return "\n".join([*facts, "", *speed, "", *notes, "", *remarks, "", *space])


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows below headings, as lines of Markdown whose columns stand under each other."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    return [line(headings), line(["-" * width for width in widths]), *map(line, rows)]


def smaller(row: Row) -> Row:
    """The row for ``--quick``."""
    return dataclasses.replace(row, batch=row.batch // 8, turns=min(row.turns, 3))


def main(out: str | None, rows: Sequence[Row], memory: Sequence[str], batch: int, processes: int = 7) -> None:
    """Measures rows, and losses' memory at a batch; prints the report, and writes it to ``out`` if that is named."""
    try:
        if out:
            pathlib.Path(out).mkdir(parents=True, exist_ok=True)
        results: dict[str, Any] = {"machine": machine(), "rows": [], "memory": []}
        for row in rows:
            print(f"measuring {row.loss} at {row.batch:,} × {DIM} ...", file=sys.stderr, flush=True)
            results["rows"].append(measure(row))
        for loss in memory:
            print(f"measuring the memory of {loss} at {batch:,} × {DIM} ...", file=sys.stderr, flush=True)
            found = Worker("ours", loss, batch).close()
            results["memory"].append({"loss": loss, "batch": batch, "ours": found})
        print("measuring imports ...", file=sys.stderr, flush=True)
        results["imports"] = {side: Worker(side, NOTHING, 0).close() for side in ("ours", "peer")}
        results["import_cost"] = import_cost(processes)
        print(report(results))
        if out:
            (pathlib.Path(out) / "benchmark.json").write_text(json.dumps(results, indent=2) + "\n")
            (pathlib.Path(out) / "benchmark.md").write_text(report(results) + "\n")
    except OSError as error:
        sys.exit(
            f"benchmark: cannot write to --out={out}: {error.strerror}; name a folder that can be written"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        OUT = flags.DEFINE_string("out", None, "Folder for benchmark.json and benchmark.md.")
        QUICK = flags.DEFINE_bool("quick", False, "Sizes by 8 smaller and fewer turns.")

        def start(_: Sequence[str]) -> None:
            """Runs the benchmark with the flags that absl has read."""
            rows = [smaller(row) for row in ROWS] if QUICK.value else ROWS
            main(OUT.value, rows, public_losses(), MEMORY_BATCH // (8 if QUICK.value else 1))

        app.run(start)
