"""Random changes with given draws in place of random ones, and what random ones are to look like."""

import jax
import jax.numpy as jnp
import numpy as np


def with_draws(monkeypatch, function, images, *draws, **amounts):
    """What a jitted change gives when `jax.random.uniform` gives these draws, call by call."""
    left = iter(draws)
    with monkeypatch.context() as patched:
        patched.setattr(jax.random, "uniform", lambda *_, **__: jnp.array(next(left), jnp.float32))
        return np.asarray(
            function.__wrapped__(jnp.asarray(images, jnp.float32), jax.random.key(0), **amounts)
        )


def random_images(n, height=24, width=24, channels=1):
    return np.random.default_rng(0).random((n, height, width, channels)).astype(np.float32)


def spread_evenly(values, largest):
    """Uniform in [-largest, largest], as far as the share of each quarter of it shows."""
    shares = np.histogram(values, np.linspace(-largest, largest, 5) * 1.001)[0] / len(values)
    assert np.abs(shares - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / len(values))
