"""A small run to report on, whose names are as hostile as names can be."""

import numpy as np

from metric_jax import reports

HOSTILE = ("<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "\"' ><b>&amp;", "../../x")
CLASS_NAMES = {7: HOSTILE[0], 8: "</script>", 9: "../x", 10: "$\\frac{1}{$ {{ 7*7 }} {% raw %}"}
PER_CLASS = 6


def small_run(name="one", *, seed=0, channels=1, side=12, **changes):
    """Four classes of six images; an image's brightness is 10 times its index."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(list(CLASS_NAMES), PER_CLASS)
    n = len(labels)
    images = (
        np.full((n, side, side + 2, channels), 0, np.uint8)
        + (10 * np.arange(n, dtype=np.uint8))[:, None, None, None]
    )
    centers = generator.normal(size=(len(CLASS_NAMES), 5))[np.unique(labels, return_inverse=True)[1]]
    run = reports.Run(
        name=name,
        metrics={
            "map_at_r": 0.5,
            "map_at_r_low": 0.4,
            "map_at_r_high": 0.6,
            "baseline_map_at_r": 0.3,
            "eer": 0.25,
            "tar@far=0.001": float("nan"),
            "threshold": 1.5,
            "steps": 5,
            "threshold@far=0.01": 1.25,
            "seconds": 12.34,
        },
        history=[{"step": s, "loss": 1 / s, **({"map_at_r": s / 9} if s % 2 else {})} for s in range(1, 6)],
        images=images,
        labels=labels,
        names=[f"{HOSTILE[i % len(HOSTILE)]} {i}" for i in range(n)],
        class_names=CLASS_NAMES,
        embeddings=(centers + 0.7 * generator.normal(size=(n, 5))).astype(np.float32),
    )
    return run._replace(**changes)
