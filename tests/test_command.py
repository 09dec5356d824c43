"""How a script starts and ends: what is wrong with its command line is one line and exit code 2."""

import os
import re
import sys

import pytest
import scripts
import trained_run
from absl import flags

from experiments import command
from metric_jax.data import DataError
from metric_jax.training import RunError


def test_a_wrong_key_of_the_data_is_one_line_and_exit_code_2():
    done = scripts.run("evaluate", "--workdir=runs", "--data.roott=x")
    assert (done.code, done.out) == (2, "")
    told = "evaluate: unknown key of --data 'roott', did you mean 'root'?"
    assert re.fullmatch(rf"{re.escape(told)}.*\n", done.err), done.err


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("evaluate", ["--workdir=nowhere"]),
        ("evaluate", ["--workdir=nowhere", "--checkpoint=newest"]),
        ("embed", ["--workdir=nowhere", "--out=out", "--checkpoint=best"]),
        ("embed", ["--workdir=nowhere", "--out=out"]),
        ("export", ["--workdir=nowhere", "--out=out"]),
        ("one_shot", ["--workdir=nowhere"]),
        ("verify", ["a.png", "b.png", "--workdir=nowhere"]),
        ("search", ["a.png", "--workdir=nowhere", "--gallery=nowhere"]),
    ],
)
def test_every_script_tells_in_one_line_what_is_wrong_and_has_help(name, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = scripts.run(name, *arguments)
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(rf"{name}: .*\n", done.err), done.err
    assert not list(tmp_path.iterdir())
    done = scripts.run(name, "--help")
    assert done.code == 0
    assert f"python experiments/{name}.py" in done.out
    assert "--workdir" in done.out
    assert ("--checkpoint: " in done.out) == (
        name in ("embed", "evaluate", "export", "one_shot", "search", "verify")
    )
    assert ("--data: " in done.out) == (name in ("embed", "evaluate", "one_shot"))


def test_a_checkpoint_is_a_step_or_the_best():
    told = scripts.run("export", "--workdir=nowhere", "--out=out", "--checkpoint=newest").err
    assert told == 'export: flag --checkpoint=newest: a step was expected, or "best"\n'
    run = str(trained_run.trained())
    for given, told in (
        ("best", "has no best checkpoint"),
        ("4", "has no checkpoint of step 4: it keeps 8, 12"),
    ):
        assert told in scripts.run("export", f"--workdir={run}", "--out=out", f"--checkpoint={given}").err


def test_a_key_of_the_config_that_is_no_flag_is_told_with_the_flag_that_sets_it():
    for flag in ("--steps=10", "--config.steps=10"):
        done = scripts.run("sweep", "--workdir=runs", flag)
        told = f"sweep: unknown flag {flag[:-3]}: a key of the config is set by --set=steps=VALUE\n"
        assert (done.code, done.out, done.err) == (2, "", told)


@pytest.fixture
def started(monkeypatch, capsys):
    """Starts a script that takes a flag and two images: (exit code, its stdout, its stderr)."""

    def start(*arguments, main=lambda one, other: None):
        known = flags.FlagValues()
        flags.DEFINE_string("workdir", None, "A folder.", flag_values=known)
        flags.DEFINE_string("images", None, "Another.", flag_values=known)
        flags.DEFINE_integer("verbosity", -1, "As absl's.", flag_values=known)
        monkeypatch.setattr(flags, "FLAGS", known)
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
        with pytest.raises(SystemExit) as end:
            command.start("compare", main, images=("ONE", "OTHER"), usage="Compares two.")
        return end.value.code, *capsys.readouterr()

    return start


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a", "b"], "--workdir must be given: --help tells more"),
        (["a", "b", "--workdir="], "--workdir must be given"),
        (
            ["a", "--workdir=x"],
            "got 1 arguments that are no flags, where it takes 2: python experiments/compare.py",
        ),
        (["a", "b", "--workdr=x"], "Unknown command line flag 'workdr'. Did you mean: workdir"),
        (["a", "b", "--workdir=x", "--verbosity=loud"], "flag --verbosity=loud: "),
    ],
)
def test_what_is_wrong_with_a_command_is_told_before_anything_is_done(started, arguments, told):
    code, out, error = started(*arguments, main=lambda *_: pytest.fail("it ran"))
    assert (code, out) == (command.BAD_INPUT, "")
    assert re.fullmatch(rf"compare: {re.escape(told)}.*\n", error)


@pytest.mark.parametrize("raised", [RunError("no such run"), DataError("no such run")])
def test_an_error_of_the_users_is_one_line(started, raised):
    def main(one, other):
        raise raised

    assert started("a", "b", "--workdir=x", main=main) == (2, "", "compare: no such run\n")


def test_an_interrupt_is_one_line_and_a_bug_is_not_hidden(started, monkeypatch):
    monkeypatch.setattr(os, "_exit", sys.exit)

    def interrupted(one, other):
        raise KeyboardInterrupt

    def buggy(one, other):
        raise KeyError(one)

    assert started("a", "b", "--workdir=x", main=interrupted) == (130, "", "compare: interrupted\n")
    code, _, err = started("a", "b", "--workdir=x", main=buggy)
    assert code == 2  # never 1, which says "different"
    assert "Traceback" in err
    assert "KeyError: 'a'" in err


def test_an_interrupt_where_nothing_can_be_raised_ends_the_script(started, monkeypatch):
    """It comes while a reference dies. What else is told there is told as before."""
    told = []
    monkeypatch.setattr(os, "_exit", told.append)  # what really ends would take pytest along
    monkeypatch.setattr(sys, "unraisablehook", lambda found: told.append(found.exc_type))

    class Dies:
        def __init__(self, error):
            self.error = error

        def __del__(self):
            raise self.error

    def main(one, other):
        Dies(OSError())
        Dies(KeyboardInterrupt())
        return 0

    assert started("a", "b", "--workdir=x", main=main) == (0, "", "compare: interrupted\n")
    assert told == [OSError, 130, KeyboardInterrupt]


def test_the_exit_code_is_what_the_script_returns_and_help_is_no_error(started):
    assert started("a", "b", "--workdir=x", main=lambda one, other: 1)[0] == 1
    code, out, _ = started("--help")
    assert code == 0
    assert "Compares two." in out


def test_a_tilde_that_the_shell_has_left_is_the_home_folder(started, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    found = []

    def main(*_):
        found.extend(flags.FLAGS[key].value for key in ("workdir", "images"))

    started("a", "b", "--workdir=~/run", "--images=~/photos", main=main)
    assert found == ["/home/ada/run", "/home/ada/photos"]
    started("a", "b", "--workdir=run", main=main)  # the images need not be given
    assert found[2:] == ["run", None]
