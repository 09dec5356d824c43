import dataclasses
import importlib.util
import json
import math
import pathlib
import re
import subprocess
import typing

import matplotlib.image
import pytest
import scripts

from experiments import (
    benchmark,
    benchmark_evaluation,
    benchmark_figure,
    benchmark_losses,
    benchmark_report,
    benchmark_table,
    benchmark_training,
    benchmark_worker,
)
from experiments.benchmark_rows import DENSE, FAISS, LOSSES, OPTAX, OURS, PML, PRODUCT, SKLEARN, TRAINING, Row

SUBJECTS = {subject.name: subject for subject in benchmark_table.subjects()}
HAS_PML = importlib.util.find_spec("pytorch_metric_learning") is not None
OWN_MODULE = {PML: "pytorch_metric_learning", FAISS: "faiss"}
TINY = Row(SUBJECTS["batch-hard"], 32, 16)


def found(name="SupCon", batch=4096, *, group=LOSSES, dim=128, remarks=(), **sides):
    """A row as measured: of a side (seconds of every turn, peak bytes, value), or why there are none."""
    told = {
        side: {"failed": of}
        if isinstance(of, str)
        else dict(zip(("seconds", "peak", "value"), of, strict=True))
        for side, of in sides.items()
    }
    row = {"name": name, "group": group, "batch": batch, "dim": dim, "remarks": dict(remarks)}
    return {**row, "dtype": "float32", "sides": told}


def results(*rows, **more):
    return {
        "machine": {"machine": "a machine"},
        "rows": list(rows),
        "starts": {},
        "training_rows": ("step", "loss", "batch"),
        **more,
    }


def cells(text, name="SupCon"):
    """The cells of every line of a table that begins with this name."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {name} ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")][1:] for line in lines]


OUR_SIDE = ([0.2, 0.1, 0.3], 130e6, 0.5)


# --- the report -------------------------------------------------------------------------------------------------------


def test_a_row_holds_medians_quartiles_ratios_and_memory():
    sides = {OURS: OUR_SIDE, PML: ([2.0, 1.0, 3.0], 1e9, 0.5), PRODUCT: ([0.1], 50e6, 1.0)}
    times, space = cells(benchmark_report.report(results(found(**sides))))
    ours, pml = "200 ms (150 to 250)", "2.00 s (1.50 to 2.50)"
    assert times == ["4,096 × 128", ours, pml, "100 ms", "10.0", "2.00"]
    assert space == ["4,096 × 128", "130 MB", "1,000 MB", "50 MB", "7.69"]


@pytest.mark.parametrize("reason", ["torch is not installed", "out of memory", "over 300 s"])
def test_what_did_not_run_is_said(reason):
    times, space = cells(benchmark_report.report(results(found(**{OURS: OUR_SIDE, PML: reason}))))
    assert times[2:] == [reason, "-"]
    assert space[2:] == [reason, "-"]


def test_a_side_that_other_rows_have_is_a_dash():
    rows = [found(**{OURS: OUR_SIDE}), found("NT-Xent", **{OURS: OUR_SIDE, OPTAX: OUR_SIDE})]
    times, _ = cells(benchmark_report.report(results(*rows)))
    assert times[2:] == ["-", "-"]


def test_the_report_says_whether_all_sides_are_one_function():
    def said(value, **more):
        return benchmark_report.report(results(found(**{OURS: OUR_SIDE, PML: ([1.0], 1, value)}, **more)))

    assert "SupCon: PML finds the same number to 2e-07" in said(0.4999999)
    assert "(WRONG)" not in said(0.4999999)
    assert "(WRONG)" in said(0.6)
    assert "(WRONG)" in said(math.nan)
    assert "WRONG" not in said(0.6, remarks={PML: "another definition"})
    assert "PML another definition" in said(0.6, remarks={PML: "another definition"})


@pytest.mark.parametrize(
    ("seconds", "shown"), [(12.345, "12.3 s"), (0.01234, "12.3 ms"), (1.5e-5, "15.0 µs"), (1e-8, "0.01 µs")]
)
def test_durations_have_three_digits(seconds, shown):
    assert benchmark_report.duration([seconds]) == shown


def test_laws_of_growth_are_those_that_the_figures_follow():
    batches = [256, 1024, 4096, 16384, 65536]
    rows = [found(batch=b, **{OURS: ([1e-9 * b**1.9], 100e6 + 40 * b**1.1, 0.0)}) for b in batches]
    ((sizes, time, last, memory, fixed),) = cells("\n".join(benchmark_report.laws(rows)))
    assert (sizes, time, last, memory, fixed) == ("256 to 65,536 × 128 (5)", "1.90", "1.90", "1.10", "100 MB")
    ((_, time, _, *space),) = cells("\n".join(benchmark_report.laws(rows[:2])))
    assert (time, space) == ("1.90", ["-", "-"])
    assert benchmark_report.laws(rows[:1]) == []


def test_what_does_not_grow_has_no_exponent():
    assert benchmark_report.growth([1, 2, 4, 8], [7.0, 7.0, 7.0, 7.0]) == (7.0, 0.0)
    assert benchmark_report.growth([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0]) == pytest.approx((0.0, 2.0))


def test_the_share_of_the_loss_in_the_step_is_told():
    step = found("step", 512, group=TRAINING, dim=0, **{OURS: ([0.5], 1, 1), PML: ([1.0], 1, 1)})
    loss = found("loss", 512, group=TRAINING, dim=64, **{OURS: ([0.01], 1, 1), PML: ([0.2], 1, 1)})
    batch = found("batch", 512, group=TRAINING, dim=0, **{OURS: ([0.002], 1, 1), PML: "out of memory"})
    starts = {OURS: [4.0, 3.0, 5.0], PML: []}
    assert benchmark_report.training(results(step, loss, batch, starts=starts)) == [
        "- metric_jax: 1,024 images/s in training, of which loss and mining take 2.0%.",
        "- metric_jax: 500 batches/s of 512 images.",
        "- metric_jax: 4.00 s (3.50 to 4.50) from the command to the end of the first step.",
        "- PyTorch with PML: 512 images/s in training, of which loss and mining take 20.0%.",
    ]


def test_the_memory_of_every_loss_is_a_table_of_its_own():
    rows = [found("a_loss", 32768, group=benchmark_report.EVERY_LOSS, **{OURS: ([1.25], 130e6, 1)})]
    rows += [found("b_loss", 32768, group=benchmark_report.EVERY_LOSS, **{OURS: "out of memory"})]
    text = benchmark_report.report(results(*rows, import_cost={"processes": 7, "base": 0.5, "all": 0.53}))
    assert cells(text, "a_loss") == [["32,768 × 128", "130 MB", "1.25 s"]]
    assert cells(text, "b_loss") == [["32,768 × 128", "out of memory", "out of memory"]]
    assert "adds 30 ms to `import jax, chex, jaxtyping`, which takes 500 ms" in text


def test_report_and_figure_stand_between_the_marks_of_the_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{benchmark.BEGIN}\nold\n{benchmark.END}\nafter\n")
    rows = [found(batch=batch, **{OURS: OUR_SIDE, PML: "out of memory"}) for batch in (256, 1024)]
    for _ in range(2):
        benchmark.document(results(*rows), page)
        text = page.read_text()
        assert text.startswith(f"before\n{benchmark.BEGIN}\n\n![")
        assert text.endswith(f"\n\n{benchmark.END}\nafter\n")
        assert "old" not in text
        assert "(page.png)" in text
    assert matplotlib.image.imread(page.with_suffix(".png")).std() > 0.01
    assert not benchmark_figure.draw(rows[:1], tmp_path / "one.png")
    assert not (tmp_path / "one.png").exists()


def test_the_page_has_the_marks():
    text = benchmark.PAGE.read_text()
    assert text.count(benchmark.BEGIN) == text.count(benchmark.END) == 1


# --- what is measured -------------------------------------------------------------------------------------------------


def test_the_issues_rows_are_measured():
    rows = {row.label: set(row.subject.sides) for row in benchmark_table.rows()}
    core = "batch-hard semi-hard batch-all contrastive SupCon NT-Xent multi-similarity circle".split()
    for loss in core:
        for size in ("256x128", "1024x128", "4096x128", "16384x128", "65536x128", "4096x512"):
            assert rows[f"{loss} {size}"] >= {OURS, DENSE, PRODUCT}
    assert {loss for loss in core if PML not in rows[f"{loss} 256x128"]} == {"semi-hard"}
    assert {loss for loss in core if OPTAX in rows[f"{loss} 256x128"]} == {"batch-hard", "NT-Xent"}
    assert PML in rows["retrieval, classes of 5 20000x128"]
    assert PML in rows["retrieval, classes of 100 20000x128"]
    assert FAISS in rows["recall@8 20000x128"]
    assert SKLEARN in rows["ROC and its area, pairs 1000000"]
    assert rows["training step, images 512"] == {OURS, PML}
    assert max(row.batch for row in benchmark_table.rows(quick=True) if row.dim) <= 2500


def test_rows_are_chosen_by_name_and_size():
    chosen = benchmark_table.rows(sizes=[(8, 4)], dtype="bfloat16", only="SupCon|mining.angular")
    assert [(row.label, row.dtype) for row in chosen] == [
        ("SupCon 8x4", "bfloat16"),
        ("mining.angular 8x4", "bfloat16"),
    ]
    assert benchmark.parse_sizes(["8x4", "16x2"]) == [(8, 4), (16, 2)]


def test_every_loss_of_labels_is_measured_for_its_memory():
    import metric_jax as mj

    assert {"batch_contrastive_loss", "batch_all_triplet_loss"} <= set(benchmark_losses.of_labels(mj))
    assert "arcface_loss" not in benchmark_losses.of_labels(mj)


def tiny(subject):
    sizes = {benchmark_training.STEP: (16, 0), benchmark_training.LOSS_OF_STEP: (32, 16)}
    if subject.name.startswith("P×K"):
        return Row(subject, 16, 0)
    if subject in [known for known, *_, dim in benchmark_evaluation.SUBJECTS if not dim]:
        return Row(subject, 1000, 0)
    return Row(subject, *sizes.get(subject.name, (200 if subject.samples == 100 else 32, 16)))


@pytest.mark.parametrize("name", SUBJECTS)
def test_all_sides_of_a_subject_run_and_agree(name, monkeypatch):
    monkeypatch.setattr(benchmark_training, "WIDTH", 4)
    monkeypatch.setattr(benchmark_training, "CLASSES", 8)
    row = tiny(SUBJECTS[name])
    expected = row.subject.sides[OURS](row)()
    assert math.isfinite(expected)
    for side, make in row.subject.sides.items():
        if side in (OURS, DENSE, PRODUCT) or (
            side in OWN_MODULE and not importlib.util.find_spec(OWN_MODULE[side])
        ):
            continue
        value = make(row)()
        if side not in row.subject.remarks:
            assert value == pytest.approx(expected, rel=1e-4), side


def test_dense_and_tiled_are_one_function_and_the_product_is_one():
    for side in (OURS, DENSE):
        assert TINY.subject.sides[side](TINY)() == pytest.approx(TINY.subject.sides[OURS](TINY)())
    assert TINY.subject.sides[PRODUCT](TINY)() == pytest.approx(1.0)


# --- how it is measured -----------------------------------------------------------------------------------------------


def test_one_small_run_end_to_end(tmp_path):
    two = dataclasses.replace(TINY.subject, sides={side: TINY.subject.sides[side] for side in (OURS, PML)})
    every = [Row(benchmark_losses.any_loss("batch_contrastive_loss"), 32, 16)]
    measured = benchmark.run([dataclasses.replace(TINY, subject=two)], every_loss=every, turns=2)
    benchmark.write(measured, tmp_path)
    written = json.loads((tmp_path / "benchmark.json").read_text())
    assert (tmp_path / "benchmark.md").read_text() == benchmark_report.report(written) + "\n"
    row, loss = written["rows"]
    assert len(row["sides"][OURS]["seconds"]) == 2
    assert row["sides"][OURS]["base"] > 1e7
    assert loss["sides"][OURS]["seconds"] == [loss["sides"][OURS]["first"]]
    if HAS_PML:
        assert row["sides"][PML]["value"] == pytest.approx(row["sides"][OURS]["value"], rel=1e-5)
    else:
        assert row["sides"][PML] == {"failed": "pytorch_metric_learning is not installed"}


def test_a_worker_that_dies_or_takes_too_long_is_reported(capfd):
    for side, patience, reason in (("no such side", 60, "crashed"), (OURS, 0.05, "over 0.05 s")):
        worker = benchmark_worker.Worker(side, TINY, patience=patience)
        worker.first()
        worker.turn()
        assert worker.close() == {"failed": reason}
    assert "no such side" in capfd.readouterr().err
    assert benchmark_worker.start_cost(TINY, "no such side", patience=60) is None


class Fake:
    """A worker whose calls take a second each."""

    began: typing.ClassVar[list[str]] = []

    def __init__(self, side, row, *, patience):
        self.side, self.spent, self.cost, self.turns = side, 0.0, 0.0, 0
        self.began.append(side)

    def first(self):
        self.cost = 1.0

    def turn(self):
        self.spent, self.turns = self.spent + 1.0, self.turns + 1
        self.began.append(f"{self.side}'s turn")

    def close(self):
        self.began.append(f"{self.side} closed")
        return {"seconds": [1.0] * self.turns}


@pytest.mark.parametrize(
    ("platform", "order"),
    [
        ("cpu", ["a", "b", "a's turn", "b's turn", "a's turn", "b's turn", "a closed", "b closed"]),
        ("cuda", ["a", "a's turn", "a's turn", "a closed", "b", "b's turn", "b's turn", "b closed"]),
    ],
)
def test_sides_take_turns_and_on_an_accelerator_one_comes_after_the_other(monkeypatch, platform, order):
    monkeypatch.setattr(benchmark_worker, "Worker", Fake)
    monkeypatch.setattr(Fake, "began", [])
    monkeypatch.setenv("JAX_PLATFORMS", platform)
    subject = dataclasses.replace(TINY.subject, sides={"a": None, "b": None}, units=4)
    row = dataclasses.replace(TINY, subject=subject)
    measured = benchmark_worker.measure(row, turns=9, seconds=2.5, patience=1)
    assert Fake.began == order
    assert measured["sides"] == {side: {"seconds": [0.25, 0.25]} for side in "ab"}
    assert benchmark_worker.environment()["JAX_PLATFORMS"] == platform


def test_what_compiles_as_it_is_called_is_called_before_it_is_timed():
    calls = []
    call = benchmark_evaluation.warmed(lambda: calls.append(1) or 3.0)
    assert calls == [1]
    assert call() == 3.0


def test_imports_are_timed_without_the_first(monkeypatch):
    answers = iter([9.0, 9.0, 0.5, 0.6, 0.7, 0.9, 0.6, 0.7])
    monkeypatch.setattr(
        benchmark.subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 0, stdout=f"{next(answers)}\n"),
    )
    assert benchmark.import_cost(3) == {"processes": 3, "base": 0.6, "all": 0.7}


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_one_line_before_anything_is_measured(tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("keep me")
    done = scripts.run("benchmark", f"--out={taken}", "--rows=batch-hard 256x128")
    assert str(taken) in done.code
    assert "\n" not in done.code
    assert taken.read_text() == "keep me"


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--rows=no such loss", "no row has --rows=no such loss in its name"),
        ("--rows=(SupCon", r"--rows=\(SupCon is no regular expression: missing \)"),
        ("--sizes=8x4,4096", "--sizes=4096 is no size: write rows and dimension, such as 4096x128"),
        ("--sizes=0x4", "--sizes=0x4 is no size"),
        ("quick", "unknown argument 'quick': flags begin with --"),
    ],
)
def test_what_cannot_be_measured_is_one_line(argument, told):
    done = scripts.run("benchmark", argument)
    assert re.fullmatch(f"benchmark: {told}.*", done.code)
    assert done.err == ""  # nothing was begun


def test_make_bench_writes_the_page():
    makefile = (pathlib.Path(__file__).parent.parent / "Makefile").read_text()
    assert "experiments/benchmark.py --docs $(ARGS)" in makefile
