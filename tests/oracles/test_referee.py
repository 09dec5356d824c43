"""experiments/referee.py on runs of twenty steps."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional

import metric_jax as mj
from experiments import referee, referee_torch
from metric_jax.models import ConvNet
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


def test_torch_and_pml_train_as_the_library_does(workdir, capsys):
    """And the same runs, judged once more by a torch side that pools by the mean, do not."""
    code = referee.main(str(workdir), DIGITS, ["batch_hard"], [0, 1], SETTINGS)
    row = judged(workdir)
    assert row["curve"] < 1e-3
    assert len(set(row["first_losses"][0])) == 20
    assert 0 < row["rounding"] < 1e-3
    assert row["theirs"] == pytest.approx(row["ours"], abs=0.02)
    assert code == (0 if row["agrees"] else 1)
    assert capsys.readouterr().out == (workdir / "referee.md").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(referee_torch, "halved", lambda x: functional.avg_pool2d(x, 2))
        assert referee.main(str(workdir), DIGITS, ["batch_hard"], [0, 1], SETTINGS) == 1
    assert not judged(workdir)["agrees"]
    assert judged(workdir)["curve"] > 1e-3


@pytest.mark.parametrize("steps", [1, 2])
def test_supcon_by_sgd_with_momentum(steps):
    """What torch's side does with what it is asked for, by hand: p - rate (g₁ + …), once and again."""
    images = np.random.default_rng(0).random((12, 4, 4, 1), np.float32)
    batches = [(images, np.arange(12) % 3)] * steps
    shape = {"width": 2, "dim": 3, "blocks": 1}
    trained = referee_torch.ConvNet(ConvNet((4, 4, 1), **shape, rngs=nnx.Rngs(0)))
    by_hand = referee_torch.ConvNet(ConvNet((4, 4, 1), **shape, rngs=nnx.Rngs(0)))
    losses = referee_torch.train(
        trained,
        batches,
        criterion=referee_torch.supcon({"temperature": 0.2}),
        optimizer="sgd",
        momentum=0.5,
        rates=[0.1, 0.3][:steps],
    )
    moved = {}
    for rate, loss in zip([0.1, 0.3], losses, strict=False):
        rows = by_hand(torch.tensor(images))
        expected = mj.supcon_loss(rows.detach().numpy(), batches[0][1], temperature=0.2)
        assert loss == pytest.approx(float(expected), rel=1e-5)
        value = referee_torch.supcon({"temperature": 0.2})(rows, torch.tensor(batches[0][1]))
        gradients = torch.autograd.grad(value, list(by_hand.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(by_hand.parameters(), gradients, strict=True):
                moved[parameter] = gradient + 0.5 * moved.get(parameter, 0.0)
                parameter.sub_(rate * moved[parameter])
    for parameter, expected in zip(trained.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected)


def test_a_parameter_is_of_the_shape_that_it_is_set_to():
    with pytest.raises(ValueError, match="a parameter of "):
        referee_torch.put(torch.nn.Parameter(torch.zeros(2, 3)), torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("losses", "seeds", "setting", "told"),
    [
        (["supcon"], [0], "steps=3", "--seeds must name two different seeds or more, got 0"),
        (["suppcon"], [0, 1], "steps=3", "did you mean 'supcon'"),
        ([], [0, 1], "steps=3", "--losses is empty"),
        (["supcon"], [0, 1], "steps=3,4", "--set takes one value of each key here"),
        (["supcon"], [0, 1], "eval_mirrored=True", "the torch side knows no eval_mirrored=True"),
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
