"""How a script that uses a trained run starts: flags in, and of what is wrong with them one line and exit code 2."""

import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from absl import flags, logging
from ml_collections import config_flags

from configs import base
from experiments import interrupt
from metric_jax.data.errors import DataError, unknown
from metric_jax.training import USER_ERRORS
from metric_jax.training.runs import BEST

BAD_INPUT = 2
# Flags that a script cannot do without, if it has them.
NEEDED = ("config", "workdir", "out", "gallery", "pairs")


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
    known = flags.FLAGS
    # absl's own --help would exit with 1.
    wants_help = flags.DEFINE_bool("help", False, "Tells this.", flag_values=known)
    try:
        arguments = known(sys.argv)[1:]
    except (flags.Error, AttributeError) as error:  # the latter of a key that a config does not have
        stop(name, " ".join(str(error).split()))
    if wants_help.value:
        print(usage, known.main_module_help(), sep="\n")
        sys.exit(0)
    for key in NEEDED:
        if key in known and not known[key].value:
            stop(name, f"--{key} must be given: --help tells more")
    if len(arguments) != len(images):
        wanted = " ".join(["python", f"experiments/{name}.py", *images, "--workdir=RUN"])
        stop(
            name, f"got {len(arguments)} arguments that are no flags, where it takes {len(images)}: {wanted}"
        )
    try:
        getattr(known["config"].value if "config" in known else None, "lock", None)
    except (AttributeError, OSError) as error:  # a file that could not be loaded raises when it is first used
        stop(name, " ".join(str(error).split()))
    if not known["verbosity"].present:
        logging.set_verbosity(logging.ERROR)  # Orbax tells of every file
    interrupted = f"{name}: interrupted"
    interrupt.watch(interrupted)
    try:
        sys.exit(main(*arguments))
    except USER_ERRORS as error:
        stop(name, str(error))
    except Exception:  # not Python's own exit code, 1, which may have a meaning
        traceback.print_exc()
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        interrupt.end(interrupted)


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
        f'The step of the checkpoint, or "{BEST}", for the one that config.best_metric found to be; the newest by '
        "default.",
    )
    _list_in_help("checkpoint")
    return holder


class _Checkpoint(flags.ArgumentParser[int | str]):
    """Reads what --checkpoint is given."""

    def parse(self, argument: Any) -> int | str:
        """A step, or "best"."""
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


def stop(name: str, told: str) -> NoReturn:
    """Ends the script: bad input."""
    print(f"{name}: {told}", file=sys.stderr)
    sys.exit(BAD_INPUT)
