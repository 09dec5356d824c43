"""Building a TFDS set: what stands in the way is told in one line, and what is there is not built again."""

import importlib.machinery
import importlib.util
import io
import json
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
import tensorflow_datasets as tfds

from metric_jax.data import DataError, prepare, sources

NAME = "mnist"
find_spec = importlib.util.find_spec


@pytest.fixture(autouse=True)
def tensorflow(monkeypatch):
    """TensorFlow seems to be installed."""

    def found(name, *package):
        return (
            importlib.machinery.ModuleSpec(name, None) if name == "tensorflow" else find_spec(name, *package)
        )

    monkeypatch.setattr(importlib.util, "find_spec", found)


@pytest.fixture
def built(monkeypatch):
    """What was built: instead of a download, the files that show that a set is there."""
    done = []

    def build(self):
        done.append(self.info.full_name)
        self.data_path.mkdir(parents=True)
        (self.data_path / "dataset_info.json").write_text(
            json.dumps({"fileFormat": self.info.file_format.value})
        )

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", build)
    monkeypatch.setattr(urllib.request, "urlopen", answer)
    return done


def answer(request, timeout):
    """A server that is there, and does not like the question."""
    raise urllib.error.HTTPError(request.full_url, 403, "Forbidden", None, io.BytesIO())


def test_a_set_is_built_once_in_the_format_that_is_read(tmp_path, built, capsys):
    for _ in range(2):
        assert prepare.main([NAME, f"--data_dir={tmp_path}"]) == 0
        assert capsys.readouterr().out == f"mnist is prepared in {tmp_path}/mnist/3.0.1\n"
    assert built == ["mnist/3.0.1"]
    assert json.loads((tmp_path / "mnist/3.0.1/dataset_info.json").read_text()) == {
        "fileFormat": "array_record"
    }
    assert prepare.main([NAME, f"--data_dir={tmp_path}", "--overwrite"]) == 0
    assert len(built) == 2


@pytest.mark.parametrize("fault", ["no network", "no room"])
def test_a_set_that_cannot_be_built_anew_stays(tmp_path, built, monkeypatch, fault):
    prepare.prepare(NAME, data_dir=str(tmp_path))
    before = {path.name for path in (tmp_path / "mnist/3.0.1").iterdir()}

    def full(self):
        self.data_path.mkdir(parents=True)
        raise OSError("no room")

    if fault == "no network":
        monkeypatch.setattr(prepare, "_check_reachable", lambda urls: prepare.sys.exit("no network"))
    else:
        monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", full)
    with pytest.raises((DataError, SystemExit), match=fault):
        prepare.prepare(NAME, data_dir=str(tmp_path), overwrite=True)
    assert {path.name for path in (tmp_path / "mnist/3.0.1").iterdir()} == before
    assert [path.name for path in (tmp_path / "mnist").iterdir()] == ["3.0.1"]


def test_a_set_goes_where_it_is_looked_for(tmp_path, built, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert prepare.prepare(NAME) == sources.tfds_folder("") / "mnist/3.0.1" == tmp_path / "mnist/3.0.1"


@pytest.mark.parametrize("content", [None, "{", "[]", '{"fileFormat": "tfrecord"}'])
def test_a_set_that_is_broken_or_of_another_format_is_not_touched_unasked(tmp_path, built, content):
    folder = tmp_path / "mnist/3.0.1"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "dataset_info.json").write_text(content)
    with pytest.raises(
        DataError, match=r"mnist/3\.0\.1 holds a set that is broken or .*: build it anew with --overwrite$"
    ):
        prepare.prepare(NAME, data_dir=str(tmp_path))
    assert not built
    (tmp_path / "mnist/2.0.0").mkdir()
    prepare.prepare(NAME, data_dir=str(tmp_path), overwrite=True)
    assert built == ["mnist/3.0.1"]
    assert (tmp_path / "mnist/2.0.0").is_dir()  # another version is another set


def test_a_name_that_there_is_not(tmp_path, built, capsys):
    assert prepare.main(["mnits", f"--data_dir={tmp_path}"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("prepare: TFDS has no set 'mnits', did you mean 'mnist'? All are in https://")
    assert told.count("\n") == 1
    with pytest.raises(DataError, match="TFDS has no 'mnist/nope': "):
        prepare.prepare("mnist/nope", data_dir=str(tmp_path))
    with pytest.raises(DataError, match="TFDS has no set 'qqqqqqqqqqqq': All are in"):
        prepare.prepare("qqqqqqqqqqqq", data_dir=str(tmp_path))


def test_without_a_network_it_is_not_tried_for_minutes(tmp_path, built, monkeypatch):
    def none(request, timeout):
        assert request.get_method() == "HEAD"
        assert timeout <= 10
        raise urllib.error.URLError("no such host")

    monkeypatch.setattr(urllib.request, "urlopen", none)
    told = (
        r"^cannot reach storage\.googleapis\.com \(no such host\): build the set on a machine with a network"
    )
    with pytest.raises(DataError, match=told):
        prepare.prepare(NAME, data_dir=str(tmp_path))
    assert not built
    monkeypatch.setattr(tfds.core.DatasetBuilder, "url_infos", None)  # of a set that is made here
    prepare.prepare(NAME, data_dir=str(tmp_path))
    assert built


def test_what_goes_wrong_while_it_is_built_is_told_in_one_line(tmp_path, monkeypatch):
    def fail(self):
        raise ConnectionError("no route to host\nwithin 3 tries")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    monkeypatch.setattr(urllib.request, "urlopen", answer)
    with pytest.raises(
        DataError, match=r"^the TFDS set 'mnist' cannot be built: no route to host within 3 tries$"
    ):
        prepare.prepare(NAME, data_dir=str(tmp_path))


def test_without_tensorflow_the_command_says_what_to_install():
    if find_spec("tensorflow") is not None:
        pytest.skip("TensorFlow is installed")
    command = [sys.executable, "-m", "metric_jax.data.prepare", NAME]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "prepare: building a TFDS set needs TensorFlow, which reading it does not: "
        ".venv/bin/pip install -e '.[prepare]'\n"
    )
