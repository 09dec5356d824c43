import json
import os
import pathlib

import pytest
from small_run import everything

from metric_jax.training import RunError, folders

CONFIG = {"steps": 3, "loss": {"name": "a", "margin": 0.2}, "data": {"data_dir": "here"}}


def changed(key, value):
    section, _, name = key.rpartition(".")
    config = json.loads(json.dumps(CONFIG))
    (config[section] if section else config)[name] = value
    return config


def test_a_free_folder_is_left_as_it_is_until_it_is_claimed(tmp_path):
    run = tmp_path / "new" / "run"
    assert folders.check(run, CONFIG) is None
    assert not run.exists()
    folders.claim(run, CONFIG)
    assert json.loads((run / "config.json").read_text()) == CONFIG


def test_a_folder_with_other_things_in_it_is_free(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert folders.check(tmp_path, CONFIG) is None


def test_the_same_run_is_recognised_wherever_its_data_lies(tmp_path):
    folders.claim(tmp_path, CONFIG)
    before = everything(tmp_path)
    assert folders.check(tmp_path, changed("data.data_dir", "there")) is None
    folders.claim(tmp_path, changed("data.data_dir", "there"))
    assert everything(tmp_path) == before


def test_a_finished_run_tells_its_results(tmp_path):
    folders.claim(tmp_path, CONFIG)
    folders.write_json(tmp_path / "results.json", {"map_at_r": 0.5})
    assert folders.check(tmp_path, CONFIG) == {"map_at_r": 0.5}


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("steps", 4, "steps (3 there, 4 here)"),
        ("loss.margin", 0.3, "loss.margin (0.2 there, 0.3 here)"),
        ("loss.new", 1, "loss.new (None there, 1 here)"),
    ],
)
def test_another_run_is_an_error_that_names_what_differs(tmp_path, key, value, told):
    folders.claim(tmp_path, CONFIG)
    with pytest.raises(RunError, match="--workdir") as error:
        folders.check(tmp_path, changed(key, value))
    assert told in str(error.value)


@pytest.mark.parametrize("name", ["results.json", "metrics.jsonl", "checkpoints"])
def test_the_rest_of_a_run_without_its_config_is_not_overwritten(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(RunError, match=f"{name} of a run without config.json"):
        folders.check(tmp_path, CONFIG)


def test_a_config_that_is_not_json_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json is not JSON"):
        folders.check(tmp_path, CONFIG)


def test_a_file_is_replaced_at_one_stroke(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    folders.write_json(path, {"a": 1})

    def die(self, target):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, "replace", die)
        with pytest.raises(RunError, match=rf"cannot write {path}: no space left"):
            folders.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    folders.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert os.listdir(tmp_path) == ["results.json"]
