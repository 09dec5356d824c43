"""How a script starts: flags in, and of what is wrong with them one line and an exit code, 2 but for training."""

import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from absl import flags, logging
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from configs import base
from experiments import interrupt
from metric_jax.data.errors import DataError, unknown

BAD_INPUT = 2
# Flags that a script cannot do without, if it has them.
NEEDED = ("config", "workdir", "out", "gallery", "pairs")
PATHS = (*NEEDED, "images", "runs", "faces")


def start(
    name: str, main: Callable[..., int | None], *, usage: str | None, images: tuple[str, ...] = ()
) -> NoReturn:
    """Parses the command line, runs ``main`` on the images that it names, and exits with the code that it returns.

    Args:
        name: The script's, which begins its messages.
        main: From the paths of the images to an exit code; None is 0.
        usage: What --help tells before it lists the flags.
        images: What the arguments that are no flags are called; all must be given.
    """
    arguments = parse(name, usage=usage, images=images)
    from metric_jax.training import USER_ERRORS

    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)  # Orbax tells of every file
    interrupted = f"{name}: interrupted"
    interrupt.watch(lambda: interrupted)
    try:
        sys.exit(main(*arguments))
    except USER_ERRORS as error:
        stop(name, str(error))
    except Exception:  # not Python's own exit code, 1, which may have a meaning
        traceback.print_exc()
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        interrupt.end(interrupted)


def parse(
    name: str, *, usage: str | None, images: tuple[str, ...] = (), code: int = BAD_INPUT
) -> Sequence[str]:
    """Parses the command line; imports nothing that takes long, so that what is wrong is told at once.

    Args:
        name: The script's, which begins its messages.
        usage: What --help tells before it lists the flags.
        images: What the arguments that are no flags are called; all must be given.
        code: The exit code if something is wrong.

    Returns:
        The arguments that are no flags.
    """
    known = flags.FLAGS
    # absl's own --help would exit with 1.
    wants_help = flags.DEFINE_bool("help", False, "Tells this.", flag_values=known)
    has_config = "config" in known and config_flags.is_config_flag(known["config"])
    given, off = _switched_off(sys.argv) if has_config else (sys.argv, [])
    try:
        arguments = known(given)[1:]
        # A config file that could not be loaded raises here, where it is first used.
        if has_config and known["config"].value is not None:
            known["config"].value.update_from_flattened_dict(dict.fromkeys(off))
    except (flags.Error, AttributeError, KeyError, OSError, ImportError, SyntaxError) as error:
        stop(name, _told(error), code)
    if wants_help.value:
        print(usage, known.main_module_help(), sep="\n")
        sys.exit(0)
    for key in PATHS:
        if key not in known:
            continue
        if key in NEEDED and not known[key].value:
            stop(name, f"--{key} must be given: --help tells more", code)
        if isinstance(known[key].value, str):  # not a config that is loaded already
            known[key].value = os.path.expanduser(known[key].value)  # a shell leaves the ~ of --workdir=~/run
    if arguments and not images:
        stop(name, f"unknown argument {arguments[0]!r}: flags begin with --, and --help lists them", code)
    if len(arguments) != len(images):
        wanted = " ".join(["python", f"experiments/{name}.py", *images, "--workdir=RUN"])
        told = f"got {len(arguments)} arguments that are no flags, where it takes {len(images)}: {wanted}"
        stop(name, told, code)
    return arguments


def _switched_off(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without each ``--config.KEY=None`` of a key that is None by default; and these keys.

    The parsers of config_flags would read a number, or a word.
    """
    can_be_none = {f"--config.{key}=None": key for key, value in _keys().items() if value is None}
    rest = [argument for argument in arguments if argument not in can_be_none]
    return rest, [key for argument, key in can_be_none.items() if argument in arguments]


def _told(error: Exception) -> str:
    """One line on what is wrong with flags, or with a config."""
    if isinstance(error, flags.UnrecognizedFlagError):
        return _unknown_flag(error)
    if key := _unknown_key(sys.argv):
        return key
    text = str(error.args[0] if isinstance(error, KeyError) else error).strip()
    if missing := re.search(r"failure to load: .*\[Errno \d+\] (.*): '(.*)'", text, re.DOTALL):
        return f"cannot read {missing[2]}: {missing[1]}"
    if "Error whilst parsing config file" in text or "failure to load: " in text:  # ends with what was raised
        text = text.rpartition("\n")[2].rpartition("failure to load: ")[2]
    of_config = isinstance(error, ImportError | SyntaxError)
    return ("the config file: " if of_config else "") + " ".join(text.partition(" Other fields")[0].split())


def _unknown_flag(error: flags.UnrecognizedFlagError) -> str:
    """What to say of a flag that a script does not have; of a key of the config, how it is set."""
    known, key = flags.FLAGS, error.flagname.removeprefix("config.")
    if key in _keys():
        if "set" in known:
            return f"unknown flag --{error.flagname}: a key of the config is set by --set={key}=VALUE"
        if error.flagname != key:
            return f"--config must be given before --{error.flagname}: --help tells more"
        if "config" in known:
            return f"unknown flag --{error.flagname}: a key of the config is set by --config.{key}=VALUE"
    return str(error)


def _unknown_key(arguments: Sequence[str]) -> str:
    """What to say of the first ``--config.key=...`` that names no key; empty if all do."""
    keys = _keys()
    for argument in arguments:
        dashes, dot, key = argument.partition("=")[0].partition("config.")
        if dashes.startswith("-") and dot and key not in keys:
            meant = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
            hint = f", did you mean {meant[0]!r}?" if meant else ":"
            return f"unknown config key {key!r}{hint} configs/base.py declares them all"
    return ""


def _keys() -> dict[str, Any]:
    """The keys that configs/base.py declares, nested ones joined with dots, and their values."""

    def items(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
        for key, value in config.items():
            if isinstance(value, ConfigDict):
                yield from items(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(items(base.get_config()))


def given(flag: str, reader: Callable[[str], Any], path: str) -> Any:
    """What a reader makes of the path that a flag gives; if it cannot, a DataError names the flag."""
    try:
        return reader(path)
    except (OSError, ValueError) as error:
        raise DataError(f"--{flag}: {error}") from error


def define_checkpoint() -> flags.FlagHolder[int | str | None]:
    """Defines the flag --checkpoint, a step or "best"; None for the newest."""
    holder = flags.DEFINE(
        _Checkpoint(),
        "checkpoint",
        None,
        'The step of the checkpoint, or "best", for the one that config.best_metric found to be; the newest by '
        "default.",
    )
    _list_in_help("checkpoint")
    return holder


class _Checkpoint(flags.ArgumentParser[int | str]):
    """Reads what --checkpoint is given."""

    def parse(self, argument: Any) -> int | str:
        """A step, or "best"."""
        from metric_jax.training.runs import BEST

        if argument == BEST:
            return BEST
        try:
            return int(argument)
        except ValueError:
            raise ValueError(f'a step was expected, or "{BEST}"') from None


def define_data(name: str) -> Callable[[], dict[str, Any]]:
    """Defines a flag --data.KEY for every key of a config's data; returns what tells those that were given."""
    data = base.get_config().data
    # Before the flags are defined, which would raise for a key that there is not.
    for argument in sys.argv[1:]:
        dashes, dot, key = argument.partition("=")[0].partition("data.")
        if dot and dashes in ("-", "--", "-no", "--no") and key not in data:
            stop(name, unknown("key of --data", key, data))
    anew = (
        "Sets a key of the run's data anew, as --data.KEY=VALUE. The keys are those below, with the defaults of "
        "configs/base.py; what is not given is as in the run."
    )
    config_flags.DEFINE_config_dict("data", data, anew)
    _list_in_help("data")
    return lambda: config_flags.get_override_values(flags.FLAGS["data"])


def _list_in_help(flag: str) -> None:
    """Makes a flag that is defined here one of the script's own, which alone --help tells."""
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[flag])


def stop(name: str, told: str, code: int = BAD_INPUT) -> NoReturn:
    """Ends the script: bad input."""
    print(f"{name}: {told}", file=sys.stderr)
    sys.exit(code)
