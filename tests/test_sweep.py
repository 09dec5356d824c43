import json
import re

import pytest
from scipy import stats
from small_run import DIGITS, config

from experiments import sweep
from metric_jax import training
from metric_jax.data import DataError
from metric_jax.training import NonFiniteError, RunError, StoppedError


@pytest.fixture
def trained(monkeypatch):
    """What is trained, by folder; the results follow from margin and seed."""
    runs = {}

    def train(config, workdir):
        runs[workdir] = config.to_dict()
        margin, seed = config.loss.margin or 0.0, config.seed
        if (margin, seed) == (0.5, 2):
            raise NonFiniteError("stopped at step 3: the loss is nan")
        if seed == 7:
            raise StoppedError("stopped by SIGTERM after step 3")
        score = margin + [0.1, 0.2, 0.4][seed]
        return {
            "map_at_r": score,
            "precision@1": score / 2,
            "baseline_map_at_r": 0.5,
            "baseline_precision@1": 0.25,
        }

    monkeypatch.setattr(training, "train_and_evaluate", train)
    return runs


def test_a_table_of_every_config_with_every_setting(trained, tmp_path, capsys):
    settings = ["loss.margin=0.2,0.5", "steps=30", "loss.name=batch_hard_triplet_loss"]
    assert sweep.main(str(tmp_path), [DIGITS], [0, 1, 2], settings) == 0
    assert [path.removeprefix(f"{tmp_path}/") for path in trained] == [
        f"digits_loss.margin={margin}/seed{seed}" for margin in (0.2, 0.5) for seed in (0, 1, 2)
    ]
    for path, found in trained.items():
        assert found["steps"] == 30
        assert f"margin={found['loss']['margin']}/seed{found['seed']}" in path
    told = capsys.readouterr().out
    assert told == (tmp_path / "sweep.md").read_text()
    half = stats.sem([0.3, 0.4, 0.6]) * stats.t.ppf(0.975, 2)
    assert f"| digits loss.margin=0.2 | 3 | {1.3 / 3:.4f} ± {half:.4f} | 0.5000 ± 0.0000 |" in told
    assert "| digits loss.margin=0.5 | 2, and 1 diverged | 0.6500 ± " in told
    first, second = json.loads((tmp_path / "sweep.json").read_text())
    assert first["map_at_r"]["values"] == pytest.approx([0.3, 0.4, 0.6])
    assert (second["seeds"], second["diverged"]) == ([0, 1], [2])


def test_a_comma_within_brackets_parts_no_values():
    settings = ["optimizer.drops=(0.25,0.5),(0.5,)", "steps=1,2"]
    rows = [row.config for row in sweep.variants(["configs/digits.py"], settings)]
    found = [(config.optimizer.drops, config.steps) for config in rows]
    assert found == [((0.25, 0.5), 1), ((0.25, 0.5), 2), ((0.5,), 1), ((0.5,), 2)]


def test_a_single_seed_has_no_interval(trained, tmp_path, capsys):
    sweep.main(str(tmp_path), [DIGITS], [1])
    assert "| digits | 1 | 0.2000 | 0.5000 | 0.1000 | 0.2500 |" in capsys.readouterr().out


def test_T3_sigterm_ends_a_sweep(trained, tmp_path, capsys):
    assert sweep.main(str(tmp_path), [DIGITS], [0, 7, 1]) == 143
    assert len(trained) == 2
    assert "sweep: stopped by SIGTERM after step 3" in capsys.readouterr().err
    assert json.loads((tmp_path / "sweep.json").read_text())[0]["seeds"] == [0]


@pytest.mark.parametrize(
    ("configs", "seeds", "settings", "told"),
    [
        ([DIGITS], [0, 0], [], "--seeds must name different seeds, got 0, 0"),
        ([DIGITS], [], [], "--seeds must name different seeds, got none"),
        ([DIGITS], [0], ["loss.margn=1"], "unknown config key 'loss.margn', did you mean 'loss.margin'"),
        ([DIGITS], [0], ["loss.margin"], "--set=loss.margin must be KEY=VALUE"),
        ([DIGITS], [0], ["steps=many"], "--set=steps=many: "),
        ([DIGITS], [0], ["loss.margin={[]: 1}"], "--set=loss.margin={[]: 1}: "),
        ([DIGITS], [0], ["loss.name=batch_hard_triplet_loss,suppcon_loss"], "did you mean 'supcon_loss'"),
        ([DIGITS, "configs/none.py"], [0], [], "cannot read configs/none.py: No such file"),
        (["README.md"], [0], [], "README.md is no config file"),
        ([DIGITS, "TYPO"], [0], [], 'Key "stepz" does not exist'),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_trained(trained, tmp_path, configs, seeds, settings, told):
    (tmp_path / "typo.py").write_text(
        "from configs import base\ndef get_config():\n    config = base.get_config()\n    config.stepz = 3\n"
    )
    configs = [str(tmp_path / "typo.py") if path == "TYPO" else path for path in configs]
    with pytest.raises(RunError) as error:
        sweep.main(str(tmp_path / "sweep"), configs, seeds, settings)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert not trained
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("count", [2, 3, 5, 21])
def test_the_interval_is_students(count):
    values = [0.1 * (i % 4) for i in range(count)]
    expected = stats.sem(values) * stats.t.ppf(0.975, count - 1)
    assert sweep.half_interval(values) == pytest.approx(expected, rel=1e-4)


def test_a_sweep_is_resumed_by_resuming_its_runs(tmp_path, monkeypatch):
    small = config(steps=2, eval_every=2, log_every=1)
    monkeypatch.setattr(sweep, "load", lambda path: small.copy_and_resolve_references())
    assert sweep.main(str(tmp_path), [DIGITS], [3]) == 0
    table = (tmp_path / "sweep.md").read_text()
    (tmp_path / "sweep.md").unlink()
    monkeypatch.setattr(training.loop.datasets, "load", None)  # would fail if it were called
    monkeypatch.setattr(sweep.datasets, "check_prepared", None)
    assert sweep.main(str(tmp_path), [DIGITS], [3]) == 0
    assert (tmp_path / "sweep.md").read_text() == table


@pytest.mark.parametrize(
    ("configs", "settings", "told"),
    [
        ([DIGITS, DIGITS], [], "two rows are called 'digits', and would share"),
        ([DIGITS], ["loss.margin=0.2,0.2"], "two rows are called 'digits loss.margin=0.2', and would share"),
        ([], [], "--configs is empty: name config files"),
        ([DIGITS], ["seed=7"], "--set=seed=7: the seeds are those of --seeds"),
        (
            [DIGITS, "configs/mnist.py"],
            ["data.data_dir=nowhere"],
            "data set 'mnist' is not prepared in nowhere",
        ),
        ([DIGITS, "configs/faces.py"], ["data.root=nowhere"], "the folder of images nowhere is not there"),
    ],
)
def test_rows_that_cannot_be_trained_side_by_side_are_told_first(trained, tmp_path, configs, settings, told):
    with pytest.raises((RunError, DataError), match=re.escape(told)):
        sweep.main(str(tmp_path), configs, [0], settings)
    assert not trained


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def get_config(:", "invalid syntax"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("def get_config():\n    return {}", r"get_config\(\) must return a ConfigDict, got dict"),
    ],
)
def test_a_config_file_that_is_none_is_named(tmp_path, text, told):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(RunError, match=rf"mine\.py: {told}"):
        sweep.load(str(tmp_path / "mine.py"))


def test_the_commands_of_the_help_can_be_pasted():
    assert "--workdir=runs/sweep \\\n        --set=data.data_dir=TFDS_FOLDER\n" in sweep.__doc__
