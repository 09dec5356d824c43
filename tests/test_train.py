"""experiments/train.py as its user runs it. What takes several processes is in tests/faults."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import types

import pytest
import scripts
from small_run import lines

import metric_jax as mj
from configs import digits, omniglot
from experiments import train
from metric_jax.training import RunError, StoppedError

ROOT = pathlib.Path(__file__).parent.parent
ANEW = "train: interrupted before the first checkpoint; the same command starts anew"

config_flags_load = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def command(workdir, *changes, config="configs/digits.py"):
    return [sys.executable, "experiments/train.py", f"--config={config}", f"--workdir={workdir}", *changes]


def set_flags(monkeypatch, **values):
    """The flags of a run of the digits, none given but these; verbosity, so that logging stays as it is."""
    given = {"COORDINATOR": None, "PROCESSES": None, "PROCESS": None, "CONFIG": digits.get_config(), **values}
    for flag, value in given.items():
        monkeypatch.setattr(train, flag, types.SimpleNamespace(value=value))
    monkeypatch.setattr(train.flags, "FLAGS", {"verbosity": types.SimpleNamespace(present=1)})


def test_T5_of_a_save_that_failed_one_line_is_enough(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "__unraisablehook__", lambda found: told.append(str(found.exc_value)))
    for text in ("Event loop is closed", "something else"):
        train.unraisable(types.SimpleNamespace(exc_type=RuntimeError, exc_value=RuntimeError(text)))
    assert told == ["something else"]


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (StoppedError("stopped by SIGTERM after step 5"), 143, "train: stopped by SIGTERM after step 5\n"),
        (KeyboardInterrupt(), 130, f"{ANEW}\n"),
        (RunError("steps must be at least 1"), "train: steps must be at least 1", ""),  # which exits with 1
    ],
)
def test_the_end_of_a_run_has_a_code_and_a_line(error, code, told, monkeypatch, capsys, tmp_path):
    def end(config, workdir):
        raise error

    heeded = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(mj.training, "train_and_evaluate", end)
    set_flags(monkeypatch, WORKDIR=str(tmp_path))
    try:
        with pytest.raises(SystemExit) as stopped:
            train.main()
    finally:
        signal.signal(signal.SIGTERM, heeded)
    assert stopped.value.code == code
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_finished_run_is_told_of_without_its_data(is_finished, monkeypatch, tmp_path):
    if is_finished:
        (tmp_path / "results.json").touch()
    looked = []
    monkeypatch.setattr(train, "end_without_data", lambda: looked.append(1) or sys.exit("no data"))
    monkeypatch.setattr(mj.training, "train_and_evaluate", lambda *_: sys.exit("trained"))
    set_flags(monkeypatch, WORKDIR=str(tmp_path))
    with pytest.raises(SystemExit, match="trained" if is_finished else "no data"):
        train.run()
    assert bool(looked) != is_finished


def test_a_ctrl_c_that_python_would_ignore_ends_the_run(tmp_path):
    """It comes while a reference dies, where what is raised goes nowhere."""
    (tmp_path / "dies.py").write_text(
        "import sys\n"
        "sys.path[0] = sys.argv[1]\n"
        "from experiments import train\n"
        "class Dies:\n"
        "    def __del__(self):\n"
        "        raise KeyboardInterrupt\n"
        "def run():\n"
        "    Dies()\n"
        "    print('it went on')\n"
        "train.run = run\n"
        "train.flags.FLAGS(['train', f'--workdir={sys.argv[2]}'])\n"
        "train.main()\n"
    )
    for told in (ANEW, "train: interrupted; the same command goes on from the newest checkpoint"):
        done = subprocess.run(
            [sys.executable, tmp_path / "dies.py", ROOT, tmp_path / "run"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{told}\n")
        (tmp_path / "run" / "checkpoints" / "4").mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize(
    ("config", "key", "told"),
    [
        ("omniglot", "data_dir", "data set 'omniglot' is not prepared in {}"),
        ("omniglot_vinyals", "data_dir", "data set 'omniglot' is not prepared in {}"),
        ("faces", "root", "the folder of images {} is not there: say with data.root where the folder is"),
    ],
)
def test_a_set_that_is_missing_is_told_before_what_trains_is_imported(config, key, told, tmp_path):
    there = tmp_path / "nowhere"
    python, *arguments = command(
        tmp_path / "run", f"--config.data.{key}={there}", config=f"configs/{config}.py"
    )
    ended = subprocess.run(
        [python, "-X", "importtime", *arguments], check=False, cwd=ROOT, capture_output=True, text=True
    )
    imported = set(re.findall(r"\| +(\w+)$", ended.stderr, re.MULTILINE))
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"train: {told.format(there)}")
    assert "jax" in imported
    assert not imported & {"grain", "orbax", "optax", "tensorflow", "tensorflow_datasets"}
    assert not (tmp_path / "run").exists()


def test_a_run_on_real_omniglot(shared, tmp_path, capsys):
    asked = omniglot.get_config()
    asked.update_from_flattened_dict(
        {
            "steps": 2,
            "optimizer.warmup": 0,
            "log_every": 1,
            "eval_every": 2,
            "eval_batch": 128,
            "eval_views": 2,
            "batch.classes": 4,
            "batch.samples": 4,
            "model.width": 8,
            "model.dim": 8,
            "model.blocks": 2,
            "data.data_dir": str(shared / "tfds"),
            "data.size": 28,
            "data.train_split": "small1",
            "data.test_split": "test[:2000]",
        }
    )
    mj.training.train_and_evaluate(asked, str(tmp_path))
    told = capsys.readouterr().err
    assert "21760 images of 1088 classes to train on, 2000 of 638 to test on" in told
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


@config_flags_load
@pytest.mark.parametrize(
    ("flag", "told"),
    [
        (
            "--config.lerning_rate=1",
            "unknown config key 'lerning_rate', did you mean 'optimizer.learning_rate'?",
        ),
        ("--config.los.margin=1", "unknown config key 'los.margin', did you mean 'loss.margin'?"),
        ("--noconfig.data.rotation", "unknown config key 'data.rotation', did you mean 'data.rotations'?"),
        ("--config.batch.classes=2.5", "flag --config.batch.classes=2.5: invalid literal for int"),
        ("--config.loss.margin=big", "flag --config.loss.margin=big: could not convert string to float"),
        ("--config.steps=None", "flag --config.steps=None: invalid literal for int"),
        ("--workdr=x", "Unknown command line flag 'workdr'. Did you mean: workdir"),
        ("--steps=3", "unknown flag --steps: a key of the config is set by --config.steps=VALUE"),
        ("--workdir=", "--workdir must be given: --help tells more"),
        ("stray", "unknown argument 'stray': flags begin with --"),
    ],
)
def test_T8_a_wrong_flag_is_told_in_one_line_before_anything_is_done(flag, told, tmp_path):
    done = scripts.run("train", *command(tmp_path / "run", flag)[2:])
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(rf"train: {re.escape(told)}.*\n", done.err), done.err
    assert not (tmp_path / "run").exists()


@config_flags_load
def test_T8_a_config_file_that_is_not_there_or_wrong_is_told_in_one_line(tmp_path):
    (tmp_path / "typo.py").write_text(
        "from configs import base\ndef get_config():\n    config = base.get_config()\n    config.stepz = 3\n"
    )
    (tmp_path / "syntax.py").write_text("def get_config(:\n")
    (tmp_path / "import.py").write_text("import nosuch\n")
    (tmp_path / "value.py").write_text("def get_config():\n    raise ValueError('mine')\n")
    nowhere = tmp_path / "none.py"
    for name, changes, told in (
        ("typo.py", [], 'Key "stepz" does not exist'),
        ("none.py", [], f"cannot read {nowhere}: No such file or directory"),
        ("none.py", ["--config.steps=3"], f"cannot read {nowhere}: No such file or directory"),
        ("syntax.py", [], r"the config file: invalid syntax \(syntax.py, line 1\)"),
        ("import.py", [], "the config file: No module named 'nosuch'"),
        ("value.py", [], "ValueError: mine"),
    ):
        done = scripts.run("train", *command(tmp_path / "run", *changes, config=str(tmp_path / name))[2:])
        assert done.code == 1
        assert re.fullmatch(rf"train: .*{told}.*\n", done.err), done.err
        assert not (tmp_path / "run").exists()


def test_a_key_needs_a_config():
    told = "train: --config must be given before --config.steps: --help tells more\n"
    assert scripts.run("train", "--workdir=x", "--config.steps=3") == (1, "", told)


@config_flags_load
def test_what_is_none_by_default_is_switched_off_by_none(tmp_path, monkeypatch):
    """Of a config file that sets them: a number, a tuple, a word, and what is given beside them stays."""
    (tmp_path / "whitened.py").write_text(
        "from configs import digits\n"
        "def get_config():\n"
        "    config = digits.get_config()\n"
        "    config.eval_whitening, config.model.mean, config.loss.distance = 0.5, (0.5,), 'cosine'\n"
        "    return config\n"
    )
    trained = []
    monkeypatch.setattr(mj.training, "train_and_evaluate", lambda config, _: trained.append(config) or {})
    off = [f"--config.{key}=None" for key in ("eval_whitening", "model.mean", "loss.distance")]
    config = str(tmp_path / "whitened.py")
    for changes in ([], [*off, "--config.loss.margin=0.25"]):
        assert scripts.run("train", *command(tmp_path, *changes, config=config)[2:]).code == 0
    found = [(c.eval_whitening, c.model.mean, c.loss.distance, c.loss.margin) for c in trained]
    assert found == [(0.5, (0.5,), "cosine", digits.get_config().loss.margin), (None, None, None, 0.25)]
