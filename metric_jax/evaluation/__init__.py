"""Honest evaluation: every definition written down, ties and queries without an answer included."""

from metric_jax.evaluation.retrieval import retrieval as retrieval
