import dataclasses
import importlib.util
import json

import pytest

from experiments import benchmark

TINY = dataclasses.replace(benchmark.ROWS[0], batch=32, turns=1)


def results(**peer):
    """As measured, with PML's side as given."""
    ours = {"value": 0.5, "peak": 300_000_000, "seconds": [0.2, 0.1, 0.3]}
    product = {"value": 1.0, "peak": 250_000_000, "seconds": [0.1]}
    row = {"loss": "batch-hard", "batch": 4096, "remark": "", "ours": ours, "peer": peer, "product": product}
    imports = {"ours": {"peak": 170_000_000}, "peer": {"peak": 280_000_000} if "peak" in peer else peer}
    return {
        "machine": {"machine": "a machine"},
        "rows": [row],
        "memory": [
            {"loss": "a_loss", "batch": 32768, "ours": {**ours, "first": 1.25}},
            {"loss": "b_loss", "batch": 32768, "ours": {"failed": "out of memory"}},
        ],
        "imports": imports,
        "import_cost": {"processes": 7, "base": 0.5, "all": 0.53},
    }


def cells_of(text):
    return [cell.strip() for cell in text.split("| batch-hard")[1].splitlines()[0].split("|")[1:-1]]


def test_a_row_holds_medians_ratios_and_memory_above_the_imports():
    text = benchmark.report(results(value=0.5, peak=1_280_000_000, seconds=[2.0, 1.0, 3.0]))
    assert cells_of(text) == [
        "4,096 × 128",
        "200.0 ms",
        "2.00 s",
        "10.00",
        "100.0 ms",
        "2.00",
        "130 MB",
        "1,000 MB",
    ]
    assert "(170 MB; PML: 280 MB)" in text
    assert "adds 30 ms to `import jax, chex, jaxtyping`, which takes 500 ms" in text


def test_the_second_table_holds_memory_above_the_imports():
    text = benchmark.report(results(failed="out of memory"))
    assert "| a_loss | 32,768 × 128 | 130 MB        | 1.2 s" in text
    assert "| b_loss | 32,768 × 128 | out of memory | -" in text


def test_the_report_says_whether_both_sides_are_one_function():
    same = results(value=0.5000001, peak=1, seconds=[1.0])
    other = results(value=0.6, peak=1, seconds=[1.0])
    assert "WRONG" not in benchmark.report(same)
    assert "WRONG" in benchmark.report(other)
    other["rows"][0]["remark"] = "another definition"
    assert "WRONG" not in benchmark.report(other)
    assert "another definition" in benchmark.report(other)


@pytest.mark.parametrize("reason", ["torch is not installed", "out of memory", "over 300 s"])
def test_what_did_not_run_is_said(reason):
    text = benchmark.report(results(failed=reason))
    assert cells_of(text)[2:4] == [reason, "-"]
    assert cells_of(text)[-1] == reason
    assert f"PML: {reason}" in text


def test_the_issues_rows_are_measured():
    rows = {(row.loss, row.batch): row for row in benchmark.ROWS}
    compared = {key for key, row in rows.items() if row.peer}
    assert compared >= {
        ("batch-hard", 4096),
        ("batch-hard", 65536),
        ("contrastive", 4096),
        ("batch-all", 1024),
        ("SupCon", 4096),
        ("NT-Xent", 4096),
        ("multi-similarity", 4096),
        ("circle", 4096),
        ("retrieval", 20000),
        ("retrieval, classes of 100", 20000),
    }
    assert all(row.remark for row in rows.values() if not row.peer)
    assert all(benchmark.smaller(row).batch < row.batch for row in rows.values())


def test_every_loss_of_labels_is_measured_for_its_memory():
    assert {"batch_contrastive_loss", "batch_all_triplet_loss"} <= set(benchmark.public_losses())


def test_one_small_run_end_to_end(tmp_path, capfd):
    benchmark.main(str(tmp_path / "new"), [TINY], ["batch_contrastive_loss"], 64, processes=1)
    printed = capfd.readouterr().out
    assert (tmp_path / "new" / "benchmark.md").read_text() == printed
    found = json.loads((tmp_path / "new" / "benchmark.json").read_text())
    (row,) = found["rows"]
    for side in ("ours", "product"):
        assert len(row[side]["seconds"]) == 1
        assert row[side]["peak"] > 1e7
    if importlib.util.find_spec("pytorch_metric_learning"):
        assert row["peer"]["value"] == pytest.approx(row["ours"]["value"], rel=1e-5)
    else:
        assert row["peer"] == {"failed": "pytorch_metric_learning is not installed"}
        assert "pytorch_metric_learning is not installed" in printed
    assert found["memory"][0]["ours"]["peak"] > 1e7
    assert found["import_cost"]["all"] > 0


def test_a_worker_that_dies_is_reported(capfd):
    assert benchmark.Worker("no such side", "batch-hard", 8).close() == {"failed": "crashed"}
    assert "no such side" in capfd.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line_before_anything_is_measured(tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("keep me")
    with pytest.raises(SystemExit) as stop:
        benchmark.main(str(taken), benchmark.ROWS, [], 8)
    assert str(taken) in stop.value.code
    assert "\n" not in stop.value.code
    assert taken.read_text() == "keep me"
