"""What ends a run by the user's doing, told in one line.

Everything else that is raised is a bug, and has a traceback.
"""

from metric_jax.data.errors import DataError


class RunError(ValueError):
    """A run that cannot start or go on as asked; the message names the offender and the remedy."""


class NonFiniteError(RunError):
    """The loss or its gradient became NaN or infinite."""


class StoppedError(RunError):
    """SIGTERM ended the run after a step, whose checkpoint is saved."""


USER_ERRORS = (RunError, DataError)
