"""What docs/troubleshooting.md names is there: keys, values that are tried, what logs hold, links, commands."""

import ast
import json
import re
from pathlib import Path

import pytest
import trained_run

from configs import base
from metric_jax.training import folders, loop

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
KEYS = folders.flatten(base.get_config().to_dict())
PARTS = {key.partition(".")[0] for key in KEYS if "." in key}
COMMANDS = [
    line.replace("\\\n", " ")
    for line in re.findall(r"```bash\n(.*?)\n```", PAGE, re.DOTALL)
    if "python" in line
]
LOGGED = set(
    "active_fraction positive_q10 negative_q90 positive_mean negative_mean spread collapsed loss gradient_norm".split()
)
TIMES = {"step_seconds", "wait_seconds"}


def literal(text):
    """What absl makes of a flag's value."""
    try:
        return ast.literal_eval(text)
    except ValueError:
        return text


def named():
    """Every key that the page names, in a flag or between backticks, with the value that stands there, or none."""
    for key, value in re.findall(r"--config\.([a-z_.]+)=?([^\s`]*)", PAGE):
        yield key, value
    for key, value in re.findall(r"`([a-z_]+\.[a-z_]+)(?:=([^\s`]*))?`", PAGE):
        if key.partition(".")[0] in PARTS:
            yield key, value


def test_every_key_is_one_and_takes_the_value_that_stands_there():
    found = set(named())
    assert len({key for key, _ in found}) > 25
    assert {key for key, _ in found} <= set(KEYS)
    for key, value in found:
        if value and value != "FOLDER":
            base.get_config().update_from_flattened_dict({key: literal(value)})
    bare = set(re.findall(r"`([a-z_]+)(?:=[^`]*)?`", PAGE)) & {key for key in KEYS if "." not in key}
    assert {
        "log_every",
        "eval_every",
        "eval_batch",
        "checkpoints_kept",
        "best_metric",
        "patience",
        "ema",
    } <= bare


def test_the_config_of_every_command_is_accepted():
    assert len(COMMANDS) == 4
    for line in COMMANDS:
        script = re.search(r"experiments/\w+\.py", line)[0]
        assert (ROOT / script).exists()
        config = base.get_config()
        for key, value in re.findall(r"--config\.([\w.]+)=(\S+)", line):
            config.update_from_flattened_dict({key: literal(value)})
        loop.check(config)


@pytest.mark.parametrize("file", ["metrics", "speed"])
def test_what_is_to_be_looked_at_is_logged(file):
    line = json.loads((trained_run.trained() / f"{file}.jsonl").read_text().splitlines()[-1])
    wanted = LOGGED if file == "metrics" else TIMES
    assert wanted <= set(line)
    assert all(f"`{name}`" in PAGE for name in wanted - {"loss"})
    results = json.loads((trained_run.trained() / "results.json").read_text())
    assert {"baseline_map_at_r", "seconds"} <= set(results)
