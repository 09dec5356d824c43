"""Speed and memory: metric_jax beside pytorch-metric-learning (PML), optax, faiss, scikit-learn and a matrix product.

    make bench                                             # all of it, into docs/benchmarks.md; half an hour on 2 cores
    python experiments/benchmark.py --quick                # small sizes, five minutes: does it all run?
    python experiments/benchmark.py --rows='SupCon|circle' # what has this in its name, such as "SupCon 4096x128"
    python experiments/benchmark.py --memory               # also the memory of every loss at a batch of 32,768
    JAX_PLATFORMS=cuda python experiments/benchmark.py --sizes=4096x128,131072x512 --dtype=bfloat16    # on a GPU

Prints the report. --out=FOLDER writes it there as benchmark.md, with benchmark.json and benchmark.png; --docs, if it is
of all rows, into docs/benchmarks.md, which says what is measured and how. A library that is not installed is said.
"""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

# The process that measures must stay small, as benchmark_worker.py tells: no array library is imported before the end.
from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script sees its own folder alone

from experiments import benchmark_table, benchmark_training  # noqa: E402
from experiments.benchmark_report import report  # noqa: E402
from experiments.benchmark_rows import Row  # noqa: E402
from experiments.benchmark_worker import THREADS, environment, measure, memory, on_cpu, start_cost  # noqa: E402

TURNS, SECONDS, PATIENCE = 9, 3.0, 150.0
STARTS, IMPORTS = 3, 5  # processes
MEMORY_BATCH = 32768
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- what benchmark.py --docs writes begins here -->", "<!-- and ends here -->"


def run(
    rows: Sequence[Row],
    *,
    every_loss: Sequence[Row] = (),
    turns: int = TURNS,
    seconds: float = SECONDS,
    patience: float = PATIENCE,
    starts: int = STARTS,
    imports: int = IMPORTS,
) -> dict[str, Any]:
    """Measures.

    Args:
        rows: What to measure, side beside side.
        every_loss: What to call once, for its memory.
        turns: How often each side of a row is timed, at most.
        seconds: How long all turns of a side may take; a first call that takes longer is the only one.
        patience: How many seconds a call may take.
        starts: How many processes begin to train, if the training step is among the rows; with it
        imports: How many import the library.

    Returns:
        What `report` makes a text of: JSON's types only.
    """
    results: dict[str, Any] = {"machine": machine(), "rows": [], "starts": {}}
    results["training_rows"] = [subject.name for subject, *_ in benchmark_training.SUBJECTS]
    for row in rows:
        tell(row.label)
        results["rows"].append(measure(row, turns=turns, seconds=seconds, patience=patience))
    for row in every_loss:
        tell(f"the memory of {row.label}")
        results["rows"].append(measure(row, turns=0, seconds=0, patience=patience))
    for row in rows:
        if row.subject.name == benchmark_training.STEP:
            tell("starts and imports")
            for side in row.subject.sides:
                found = [start_cost(row, side, patience=patience) for _ in range(starts)]
                results["starts"][side] = [seconds for seconds in found if seconds is not None]
            results["import_cost"] = import_cost(imports)
    return results


def tell(what: str) -> None:
    """Says what is being measured."""
    print(f"measuring {what} ...", file=sys.stderr, flush=True)


def every_loss(batch: int) -> list[Row]:
    """Rows for all losses of embeddings and labels, whose names another process finds."""
    program = (
        "import metric_jax as mj; from experiments import benchmark_losses as b; print(*b.of_labels(mj))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment(), check=True, capture_output=True, text=True)
    return [Row(benchmark_table.find(name), batch, 128) for name in done.stdout.split()]


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
    found = f"{cpu}, {os.cpu_count()} processors, {memory() / 1e9:.0f} GB, {platform.platform()}"
    used = f"{THREADS} threads of the CPU; a process may take {memory() / 2e9:.0f} GB"
    if not on_cpu():
        program = "import jax; d = jax.devices()[0]; print(d.platform, d.device_kind)"
        command = [sys.executable, "-c", program]
        used = subprocess.run(
            command, env=environment(), check=True, capture_output=True, text=True
        ).stdout.strip()
    versions = [f"Python {platform.python_version()}"]
    for package in (
        "metric_jax jax optax numpy torch pytorch-metric-learning faiss-cpu scikit-learn"
    ).split():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    command = " ".join(["python", "experiments/benchmark.py", *sys.argv[1:]])
    return {"machine": found, "used": used, "versions": ", ".join(versions), "command": f"`{command}`"}


def write(results: dict[str, Any], folder: pathlib.Path) -> None:
    """Writes the report, what it is made of, and the figure."""
    from experiments.benchmark_figure import draw

    (folder / "benchmark.json").write_text(json.dumps(results, indent=2) + "\n")
    (folder / "benchmark.md").write_text(report(results) + "\n")
    draw(results["rows"], folder / "benchmark.png")


def document(results: dict[str, Any], page: pathlib.Path) -> None:
    """Puts the report between the two marks of a page, and the figure beside the page."""
    from experiments.benchmark_figure import draw

    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    figure = page.with_suffix(".png")
    picture = ""
    if draw(results["rows"], figure):
        picture = f"![Time and peak memory over the batch size, for every core loss]({figure.name})\n\n"
    page.write_text(f"{before}{BEGIN}\n\n{picture}{report(results)}\n\n{END}{after}")


def parse_sizes(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Sizes such as ``4096x128``."""
    sizes = []
    for text in texts:
        found = re.fullmatch("([1-9][0-9]*)x([1-9][0-9]*)", text)
        if not found:
            sys.exit(f"benchmark: --sizes={text} is no size: write rows and dimension, such as 4096x128")
        sizes.append((int(found[1]), int(found[2])))
    return sizes


def main(arguments: Sequence[str]) -> None:
    """Does what the flags say."""
    if arguments[1:]:
        sys.exit(f"benchmark: unknown argument {arguments[1]!r}: flags begin with --, and --help lists them")
    try:
        re.compile(ROWS.value)
    except re.error as error:
        sys.exit(f"benchmark: --rows={ROWS.value} is no regular expression: {error}")
    out = pathlib.Path(os.path.expanduser(OUT.value)) if OUT.value else None
    try:
        if out:
            out.mkdir(parents=True, exist_ok=True)
        quick = {"turns": 3, "seconds": 1.0, "starts": 1, "imports": 1} if QUICK.value else {}
        rows = benchmark_table.rows(
            quick=QUICK.value, sizes=parse_sizes(SIZES.value), dtype=DTYPE.value, only=ROWS.value
        )
        every = every_loss(MEMORY_BATCH // (8 if QUICK.value else 1)) if MEMORY.value else []
        if not rows and not every:
            sys.exit(f"benchmark: no row has --rows={ROWS.value} in its name, such as 'SupCon 4096x128'")
        results = run(rows, every_loss=every, patience=PATIENCE_FLAG.value, **quick)
        print(report(results))
        if out:
            write(results, out)
        if DOCS.value and not (QUICK.value or ROWS.value or SIZES.value):
            document(results, PAGE)
    except OSError as error:
        where = error.filename or out
        sys.exit(f"benchmark: cannot write to {where}: {error.strerror}; name a folder that can be written")


if __name__ == "__main__":
    OUT = flags.DEFINE_string("out", None, "Folder for benchmark.json, benchmark.md and benchmark.png.")
    DOCS = flags.DEFINE_bool("docs", False, "Write the report of all rows into docs/benchmarks.md.")
    QUICK = flags.DEFINE_bool("quick", False, "Small sizes and fewer turns.")
    ROWS = flags.DEFINE_string(
        "rows", "", "A regular expression: measure the rows that have it in their name."
    )
    MEMORY = flags.DEFINE_bool("memory", False, f"Also the memory of every loss at {MEMORY_BATCH:,} rows.")
    SIZES = flags.DEFINE_list("sizes", [], "Sizes of losses and miners, such as 4096x128,131072x512.")
    DTYPE = flags.DEFINE_enum(
        "dtype", "float32", ["float32", "bfloat16"], "Of the embeddings of losses and miners."
    )
    PATIENCE_FLAG = flags.DEFINE_float("patience", PATIENCE, "Seconds that a call may take.")
    app.run(main)
