r"""How fast batches come, and how fast a run takes them: does training ever wait for its data?

    python experiments/input_speed.py --config=configs/omniglot.py --config.data.data_dir=TFDS_FOLDER \
        --config.batch.samples=2 --config.data.test_split='test[:400]' --steps=60

Makes so many batches as the config says, and nothing else; then trains for as many steps, in a folder that is thrown
away. Any key of configs/base.py can be set by a flag. What is told is the median batch and the median step. Where a
batch is of near classes, the batches that are made alone are such, by centres at random, which is the slower way; those
that are trained on have any classes, for a run learns where classes lie at its first evaluation.
"""

import json
import pathlib
import statistics
import sys
import tempfile
import time

import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a script sees its own folder alone

from experiments import command
from metric_jax import data, training
from metric_jax.data import samplers
from metric_jax.training import choices, folders
from metric_jax.training.progress import SEVERAL


def main(config: ml_collections.ConfigDict, steps: int) -> dict[str, float]:
    """Measures both, and prints them beside each other.

    Args:
        config: That of a training run.
        steps: How many batches to make, and to train on.

    Returns:
        ``input`` and ``training``, images per second; ``waiting``, the part of a step that it waits for data.
    """
    if steps <= SEVERAL:
        raise training.RunError(f"--steps must be at least {SEVERAL + 1}, got {steps}: fewer tell no speed")
    with config.unlocked():
        config.update(steps=steps, log_every=steps, eval_every=steps, checkpoint_every=steps, wandb="")
        config.optimizer.warmup, config.loss.before, config.loss.before_steps = 0, "", 0
    with tempfile.TemporaryDirectory() as folder:
        training.train_and_evaluate(config, folder)
        step = json.loads(pathlib.Path(folder, folders.SPEED).read_text().splitlines()[-1])
    size = config.batch.classes * config.batch.samples
    found = {
        "input": size / statistics.median(batch_seconds(config)),
        "training": step["images_per_s"],
        "waiting": step["wait_seconds"] / step["step_seconds"],
    }
    print(f"batches of {size} images: the input alone makes {found['input']:,.0f} images/s,")
    print(
        f"training takes {found['training']:,.0f} images/s and waits for data {found['waiting']:.1%} of a step;"
    )
    print(f"the input is {found['input'] / found['training']:.1f} times as fast as the training")
    return found


def batch_seconds(config: ml_collections.ConfigDict) -> list[float]:
    """How long each of the batches takes but the first, if nothing but batches is made."""
    train, _ = data.load(**config.data)
    sampler = choices.sampler(train, **config.batch, seed=config.seed)
    if isinstance(sampler, samplers.HardClassSampler):  # which looks for neighbours only among centres
        classes = len(set(train.labels.tolist()))
        sampler = sampler.with_centres(np.random.default_rng(0).normal(size=(classes, config.model.dim)))
    stream = data.batches(train, sampler, count=config.steps)
    seconds, last = [], 0.0
    for number, _ in enumerate(stream):
        now = time.perf_counter()
        seconds += [now - last] if number else []
        last = now
    return seconds


if __name__ == "__main__":
    CONFIG = config_flags.DEFINE_config_file("config", None, "The config file.")
    STEPS = flags.DEFINE_integer("steps", 60, "How many batches to make, and to train on.")

    def measure() -> None:
        """What the flags say."""
        main(CONFIG.value, STEPS.value)

    command.start("input_speed", measure, usage=__doc__)
