"""How a script that uses a trained run starts: flags in, and of what is wrong with them one line and exit code 2."""

import sys
from collections.abc import Callable
from typing import NoReturn

from absl import flags, logging

from metric_jax.training import USER_ERRORS

BAD_INPUT = 2
INTERRUPTED = 130  # what shells expect after Ctrl-C
NEEDED = ("workdir", "out", "gallery")  # flags that a script cannot do without, if it has them


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
    wants_help = flags.DEFINE_bool("help", False, "Tells this.")  # absl's own would exit with 1
    try:
        arguments = flags.FLAGS(sys.argv)[1:]
    except (flags.Error, AttributeError, KeyError) as error:  # the latter two from keys that no config has
        told = str(error.args[0] if isinstance(error, KeyError) else error)
        stop(name, " ".join(told.partition(" Other fields")[0].split()))
    if wants_help.value:
        print(usage, flags.FLAGS.main_module_help(), sep="\n")
        sys.exit(0)
    for key in NEEDED:
        if key in flags.FLAGS and not flags.FLAGS[key].value:
            stop(name, f"--{key} must be given: --help tells more")
    if len(arguments) != len(images):
        wanted = " ".join(["python", f"experiments/{name}.py", *images, "--workdir=RUN"])
        stop(
            name, f"got {len(arguments)} arguments that are no flags, where it takes {len(images)}: {wanted}"
        )
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)  # Orbax tells of every file
    try:
        sys.exit(main(*arguments))
    except USER_ERRORS as error:
        stop(name, str(error))
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def stop(name: str, told: str) -> NoReturn:
    """Ends the script: bad input."""
    print(f"{name}: {told}", file=sys.stderr)
    sys.exit(BAD_INPUT)
