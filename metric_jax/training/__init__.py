"""Training: what joins losses, data, models and evaluation."""

from metric_jax.training.errors import USER_ERRORS as USER_ERRORS
from metric_jax.training.errors import NonFiniteError as NonFiniteError
from metric_jax.training.errors import RunError as RunError
from metric_jax.training.errors import StoppedError as StoppedError
from metric_jax.training.loop import check as check
from metric_jax.training.loop import train_and_evaluate as train_and_evaluate
from metric_jax.training.processes import is_first as is_first
from metric_jax.training.processes import start as start
from metric_jax.training.runs import Run as Run
from metric_jax.training.runs import open_run as open_run
