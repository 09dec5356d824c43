"""experiments/referee.py on runs of twenty steps."""

import importlib.util
import json

import pytest
import torch
from torch.nn import functional

from experiments import referee, referee_torch
from metric_jax.training import RunError

SMALL = {
    "steps": 20,
    "eval_every": 20,
    "checkpoint_every": 20,
    "model.width": 8,
    "model.dim": 8,
    "model.blocks": 2,
}
SETTINGS = [f"{key}={value}" for key, value in SMALL.items()]
DIGITS = "configs/digits.py"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("referee")


def judged(workdir):
    (row,) = json.loads((workdir / "referee.json").read_text())
    return row


@pytest.mark.usefixtures("one_compilation_for_all_runs")
def test_torch_and_pml_train_as_the_library_does(workdir, capsys):
    """And the same runs, judged once more by a torch side that pools by the mean, do not."""
    code = referee.main(str(workdir), DIGITS, ["batch_hard"], [0, 1], SETTINGS)
    row = judged(workdir)
    assert row["curve"] < 1e-3
    assert len(set(row["first_losses"][0])) == 20
    assert row["theirs"] == pytest.approx(row["ours"], abs=0.02)
    assert code == (0 if row["agrees"] else 1)
    assert capsys.readouterr().out == (workdir / "referee.md").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(referee_torch, "halved", lambda x: functional.avg_pool2d(x, 2))
        assert referee.main(str(workdir), DIGITS, ["batch_hard"], [0, 1], SETTINGS) == 1
    assert not judged(workdir)["agrees"]
    assert judged(workdir)["curve"] > 1e-3


@pytest.mark.usefixtures("one_compilation_for_all_runs")
def test_supcon_with_sgd_is_refereed_too(tmp_path):
    settings = [*SETTINGS, "optimizer.name=sgd", "optimizer.learning_rate=0.01", "loss.temperature=0.2"]
    referee.main(str(tmp_path), DIGITS, ["supcon"], [0, 1], settings)
    assert judged(tmp_path)["curve"] < 1e-3


def test_a_parameter_is_of_the_shape_that_it_is_set_to():
    with pytest.raises(ValueError, match="a parameter of "):
        referee_torch.put(torch.nn.Parameter(torch.zeros(2, 3)), torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("losses", "seeds", "setting", "told"),
    [
        (["supcon"], [0], "steps=3", "--seeds must name two different seeds or more, got 0"),
        (["suppcon"], [0, 1], "steps=3", "did you mean 'supcon'"),
        (["supcon"], [0, 1], "model.norm=group", "the torch side knows no model.norm='group'"),
        (["supcon"], [0, 1], "optimizer.name=lion", "the torch side knows no optimizer.name='lion'"),
        (["supcon"], [0, 1], "ema=0.9", "the torch side knows no ema=0.9"),
        (["batch_hard"], [0, 1], "loss.penalty=softplus", "knows no loss.penalty='softplus'"),
    ],
)
def test_what_the_torch_side_does_not_know_is_told(tmp_path, losses, seeds, setting, told):
    with pytest.raises(RunError) as error:
        referee.main(str(tmp_path / "none"), DIGITS, losses, seeds, [setting])
    assert told in str(error.value)
    assert not (tmp_path / "none").exists()


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunError, match="torch is not installed: `make test-oracles`"):
        referee.main(str(tmp_path), DIGITS, ["supcon"], [0, 1])
