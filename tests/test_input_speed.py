"""The speed of the input beside that of the training."""

import re

import pytest
import scripts
from small_run import config

from experiments import input_speed
from metric_jax.training import RunError


def test_both_are_measured_and_told(capsys):
    found = input_speed.main(config(optimizer__warmup=9), steps=6)
    assert found["input"] > 0
    assert found["training"] > 0
    assert found["waiting"] >= 0
    told = capsys.readouterr().out
    assert f"batches of 16 images: the input alone makes {found['input']:,.0f} images/s" in told
    assert re.search(r"waits for data \d+\.\d% of a step;\nthe input is \d+\.\d times as fast", told)


def test_the_first_batch_is_not_timed():
    assert len(input_speed.batch_seconds(config(steps=5))) == 4
    with pytest.raises(RunError, match="--steps must be at least 5, got 4: fewer tell no speed"):
        input_speed.main(config(), steps=4)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            [f"--config={scripts.ROOT}/configs/digits.py", "--config.batch.clases=2"],
            "unknown config key 'batch.clases', did you mean 'batch.classes'?",
        ),
        (
            [f"--config={scripts.ROOT}/configs/digits.py", "--config.data.source=digit"],
            "did you mean 'digits'?",
        ),
        ([f"--config={scripts.ROOT}/nope.py"], "nope.py"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(flags, told):
    done = scripts.run("input_speed", *flags)
    assert done.code == 2
    assert told in done.err
    assert done.err.startswith("input_speed: ")
    assert done.err.count("\n") == 1
