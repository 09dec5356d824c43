# ---
# jupyter:
#   accelerator: TPU
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train on a TPU, a GPU or a CPU
#
# This page takes whatever the machine has, spreads the batch over all devices, trains a network on handwritten
# digits that come with scikit-learn, evaluates it beside raw pixels, and draws what it has learned.
#
# On Colab choose *Runtime → Change runtime type*, then *Run all*. The next cell fetches the repository, if this
# page is not in it, and installs it with JAX for the accelerator that it finds. It does so before JAX is
# imported.

# %%
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

REPOSITORY = "https://github.com/OWNER/metric_jax"  # @param {type: "string"}

here = pathlib.Path.cwd()
root = next((each for each in (here, *here.parents) if (each / "configs" / "digits.py").is_file()), None)
if root is None:
    root = here / "metric_jax"
    if not root.is_dir():
        if "OWNER" in REPOSITORY:
            raise ValueError(
                f"REPOSITORY={REPOSITORY!r}: write whose copy of the repository to fetch for OWNER"
            )
        subprocess.run(["git", "clone", "--quiet", "--depth=1", REPOSITORY, str(root)], check=True)
    devices = pathlib.Path("/dev")
    has_tpu = any(devices.glob("accel*")) or any(devices.glob("vfio/[0-9]*"))
    extra = "tpu" if has_tpu else "cuda12" if shutil.which("nvidia-smi") else "cpu"
    packages = [f"jax[{extra}]", "--editable", str(root)]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *packages], check=True)
sys.path.insert(0, str(root))

# %% [markdown]
# ## What is there
#
# A machine without an accelerator has one device, its CPU. It is told to be two, so that there is a mesh to see.

# %%
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")

import functools
import math

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import metric_jax as mj
from configs import digits

backend, count = jax.default_backend(), jax.device_count()
print(f"{count} × {jax.devices()[0].device_kind}, by JAX {jax.__version__} for {backend}")

# %% [markdown]
# ## Train
#
# `configs/digits.py` is a start, and any key of `configs/base.py` can be changed. A batch has 10 classes of as
# many images each as all devices can share. `train_and_evaluate` spreads it over them; every anchor meets the
# positives and negatives of all devices, so the loss is that of one large batch.

# %%
small = backend == "cpu"
temporary = (
    tempfile.TemporaryDirectory()
)  # a folder on Drive instead keeps the run, and a run that is there resumes
workdir = pathlib.Path(temporary.name) / "digits"

config = digits.get_config()
config.batch.samples = math.lcm(8, count)
config.model.width = 32 if small else 128
config.steps = 200 if small else 1000
config.eval_every = config.checkpoint_every = config.steps // 4
config.log_every = config.steps // 20

results = mj.training.train_and_evaluate(config, str(workdir))
print(
    f"{results['steps']} steps in {results['seconds']:.0f} s, {results['images_per_s']:,.0f} images/s once compiled"
)

# %% [markdown]
# ## The mesh
#
# The same by hand. `jax.shard_map` gives every device its part of the rows, and `axis_name=` lets a loss gather
# the others'. Value and gradient are those of one device, up to rounding.

# %%
run = mj.training.open_run(workdir)
_, test = run.load_data()
embeddings = run.embed(test.images)

mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,))
rows = PartitionSpec("data")
some = len(test) // count * count
loss_on_mesh = jax.shard_map(
    functools.partial(mj.supcon_loss, axis_name="data"), mesh=mesh, in_specs=rows, out_specs=PartitionSpec()
)
x, y = jnp.asarray(embeddings[:some]), jnp.asarray(test.labels[:some])
spread = jax.device_put((x, y), NamedSharding(mesh, rows))

on_all, gradient = jax.jit(jax.value_and_grad(loss_on_mesh))(*spread)
on_one, expected = jax.value_and_grad(mj.supcon_loss)(x, y)
print(f"SupCon of {some} rows: {on_all:.5f} on {mesh.size} devices, {on_one:.5f} on one")
print(
    f"largest difference between the gradients: {np.abs(np.asarray(gradient) - np.asarray(expected)).max():.1e}"
)
jax.debug.visualize_array_sharding(spread[0])

# %% [markdown]
# ## Evaluate
#
# On digits that training never saw, beside raw pixels, with 95 % intervals. `docs/evaluation.md` defines every
# number.


# %%
def measure(rows, distance):
    """Retrieval, verification and few-shot classification of some embeddings of the test set."""
    first, second, is_same = mj.evaluation.all_pairs(test.labels, limit=20_000)
    distances = mj.evaluation.pair_distances(rows, first, second, distance=distance)
    subjects = np.stack([test.labels[first], test.labels[second]], axis=1)
    few_shot = mj.evaluation.few_shot(
        rows, test.labels, ways=5, shots=1, queries=15, episodes=500, key=jax.random.key(0), distance=distance
    )
    return {
        **mj.evaluation.retrieval(jnp.asarray(rows), test.labels, distance=distance, intervals=True),
        **mj.evaluation.verification(distances, is_same, subjects=subjects),
        **{key.replace("accuracy", "few_shot"): value for key, value in few_shot.items()},
    }


SHOWN = {"map_at_r": "MAP@R", "recall@1": "recall@1", "eer": "equal error rate", "few_shot": "5-way 1-shot"}
pixels = test.images.reshape(len(test), -1) / np.float32(255)
trained, raw = measure(embeddings, run.distance), measure(pixels, mj.euclidean)
print(f"{'':<18} trained       95 %        raw pixels")
for key, name in SHOWN.items():
    interval = f"{trained[f'{key}_low']:.3f} to {trained[f'{key}_high']:.3f}"
    print(f"{name:<18} {trained[key]:.3f}   {interval}   {raw[key]:.3f}")

# %% [markdown]
# ## Look
#
# How training went, and the embeddings of the test set on their two main axes. Each is drawn as the digit that it
# is.

# %%
figure, (curves, plane) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
history = run.history()
for key, colour in (("loss", "#D55E00"), ("map_at_r", "#0072B2")):
    lines = [line for line in history if key in line]
    curves.plot(
        [line["step"] for line in lines], [line[key] for line in lines], "o-", color=colour, label=key
    )
curves.set(xlabel="step", ylim=(0, None))
curves.legend()

centred = embeddings - embeddings.mean(axis=0)
plane_rows = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
plane.scatter(*plane_rows.T, s=0)  # sets the limits
for at, label in zip(plane_rows, test.labels, strict=True):
    plane.text(*at, str(label), color=f"C{label}", ha="center", va="center", fontsize=8)
plane.set(xticks=[], yticks=[], title="test digits")
plt.show()

# %% [markdown]
# Where two digits lie far apart and yet look alike, ask for neighbours: the three digits that are farthest from
# their nearest fellow, and what is nearest to each.

# %%
nearest, how_far = mj.evaluation.nearest(embeddings, k=5, distance=run.distance)
farthest = np.argsort(how_far[:, 0])[::-1][:3]
figure, axes = plt.subplots(3, 6, figsize=(8, 4.6), layout="constrained")
for row, query in zip(axes, farthest, strict=True):
    for ax, i in zip(row, (query, *nearest[query]), strict=True):
        ax.imshow(test.images[i], cmap="gray")
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"{test.labels[i]}", color="black" if test.labels[i] == test.labels[query] else "red")
plt.show()

# %% [markdown]
# ## On from here
#
# Other data and other losses are commands in the root of the repository, in a Colab cell with `!` before them.
# This one prepares MNIST once, with TensorFlow, which Colab has, and trains on it:
#
# ```bash
# python -m metric_jax.data.prepare mnist --data_dir=data
# python experiments/train.py --config=configs/mnist.py --workdir=runs/mnist --config.data.data_dir=data
# ```
#
# [docs/scale.md](../docs/scale.md) trains on several hosts and says what a loss costs there;
# [losses_tour](losses_tour.ipynb) writes a loss for one anchor; [faces](faces.ipynb) tells people apart.
