"""The report of a run: one page that opens anywhere, and its figures. Libraries draw; this says what is to be seen."""

from metric_jax.reports.page import write as write
from metric_jax.reports.run import Run as Run
