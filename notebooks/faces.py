# ---
# jupyter:
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
# # Same or not?
#
# In goes a folder of photos with one sub-folder for every person:
#
# ```
# photos/ada/1.jpg, photos/ada/2.jpg, ..., photos/bob/1.jpg, ...
# ```
#
# Out come a network that has learned to tell these people apart, a threshold, and for any two photos the answer
# "same" or "different". All of it happens on this machine.
#
# Name your folder in the next cell, or in the environment as `PHOTOS`. Without one, scikit-learn's handwritten
# digits are written into a folder of images: a digit then stands for a person.

# %%
import os
import pathlib
import sys
import tempfile

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import metric_jax as mj

PHOTOS = os.environ.get("PHOTOS", "")
temporary = (
    tempfile.TemporaryDirectory()
)  # goes when this page is closed; name a folder of your own to keep the run
workdir = pathlib.Path(temporary.name)


def write_digits(folder):
    """One folder of PNG files for every digit."""
    digits = load_digits()
    for i, (image, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        person = folder / f"digit {digit}"
        person.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)).save(person / f"{i:04}.png")


photos = pathlib.Path(PHOTOS).expanduser() if PHOTOS else workdir / "photos"
if not PHOTOS:
    write_digits(photos)
people = sorted(each.name for each in photos.iterdir() if each.is_dir() and not each.name.startswith("."))
print(f"{len(people)} people: {', '.join(people[:5])}, ...")

# %% [markdown]
# ## Train
#
# The settings are those of `configs/faces.py`, made smaller for a page that is to end soon. With twenty people or
# more, a quarter of them is kept away from training: people whom the network never saw are the real test. With
# fewer, a quarter of everybody's photos is.
#
# Every batch has some people and some photos of each. The loss is the triplet loss with semi-hard negatives,
# since the hardest of few photos are soon known by heart.

# %%
here = pathlib.Path.cwd()
root = next(each for each in (here, *here.parents) if (each / "configs" / "faces.py").is_file())
sys.path.insert(0, str(root))  # where the configs are

from configs import faces

config = faces.get_config()
config.data.root = str(photos)
config.data.size = 32 if PHOTOS else 8
config.data.split = "class" if len(people) >= 20 else "image"
config.batch.classes = min(12, len(people))
config.data.mirrors = config.eval_mirrored = bool(PHOTOS)  # a face may look either way, a digit does not
# Of the photos of who is trained on, this part is for training.
kept = 1 if config.data.split == "class" else 1 - config.data.test_fraction
config.data.min_images = round(config.batch.samples / kept)  # who has fewer photos is not trained on
config.model.width = 32
config.steps = config.eval_every = config.checkpoint_every = 120
config.log_every = 30

results = mj.training.train_and_evaluate(config, str(workdir / "run"))
for name in ("map_at_r", "recall@1"):
    print(f"{name:<10} {results[name]:.3f}   raw pixels {results[f'baseline_{name}']:.3f}")

# %% [markdown]
# `recall@1`: how often the nearest other photo is one of the same person. `map_at_r`: how well all photos of the
# person come before everybody else's; 1 is perfect. Raw pixels are the number to beat.
#
# ## A threshold
#
# Two photos are of one person if their embeddings are near. How near? All pairs of test photos are measured, and
# the threshold is the largest that takes at most one pair of strangers in a hundred for the same person.

# %%
run = mj.training.open_run(workdir / "run")
_, test = run.load_data()
embeddings = run.embed(test.images)

first, second, is_same = mj.evaluation.all_pairs(test.labels, limit=100_000)
distances = mj.evaluation.pair_distances(embeddings, first, second, distance=run.distance)
impostors = np.sum(~is_same)
wanted = max(0.01, 1 / impostors)  # few photos cannot tell of rarer errors
threshold, far, tar = mj.evaluation.threshold_at(distances, is_same, wanted)
print(f"same if the {run.distance.name} distance is at most {threshold:.3f}")
print(f"that accepts {far:.1%} of {impostors:,} pairs of strangers")
print(f"         and {tar:.1%} of {np.sum(is_same):,} pairs of one person")

figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
bins = np.linspace(0, distances.max(), 60)
for kind, colour, name in ((is_same, "#0072B2", "one person"), (~is_same, "#D55E00", "strangers")):
    ax.hist(distances[kind], bins, density=True, alpha=0.6, color=colour, label=name)
ax.axvline(threshold, color="black", ls="--", label="threshold")
ax.set(xlabel="distance", yticks=[])
ax.legend()
plt.show()

# %% [markdown]
# ## Two photos in, one word out


# %%
def same_or_different(one, other):
    """What the network says of two image files, and how far apart it finds them."""
    pair = run.embed(np.stack([run.read_image(one), run.read_image(other)]))
    distance = mj.evaluation.pair_distances(pair, [0], [1], distance=run.distance).item()
    return "same" if distance <= threshold else "different", distance


def show(ax, image, title, colour="black", line="solid"):
    """A photo in a frame."""
    ax.imshow(image, cmap="gray" if image.shape[-1] == 1 else None, vmin=0, vmax=255)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=9, parse_math=False)
    for spine in ax.spines.values():
        spine.set(color=colour, linestyle=line, linewidth=2.5)


middle = {
    same: np.argsort(distances[is_same == same])[np.sum(is_same == same) // 2] for same in (True, False)
}
figure, axes = plt.subplots(2, 2, figsize=(4.4, 5), layout="constrained")
for row, same in zip(axes, (True, False), strict=True):  # of either kind a pair as far apart as most
    pair = np.flatnonzero(is_same == same)[middle[same]]
    one, other = first[pair], second[pair]
    answer, distance = same_or_different(photos / test.ids[one], photos / test.ids[other])
    show(row[0], test.images[one], test.class_name(test.labels[one]))
    show(row[1], test.images[other], f"{test.class_name(test.labels[other])}\n{answer} ({distance:.2f})")
    print(f"{test.ids[one]} and {test.ids[other]}: {answer}, distance {distance:.3f}")
plt.show()

# %% [markdown]
# ## Who is near whom
#
# The first column is the query, then come its nearest test photos. A blue frame is within the threshold, a dashed
# one beyond. A name in red is somebody else.

# %%
nearest, how_far = mj.evaluation.nearest(embeddings, k=6, distance=run.distance)
queries = np.linspace(0, len(test) - 1, 5).astype(int)

figure, axes = plt.subplots(5, 7, figsize=(9, 8), layout="constrained")
for row, query in zip(axes, queries, strict=True):
    person = test.class_name(test.labels[query])
    show(row[0], test.images[query], person)
    for ax, i, distance in zip(row[1:], nearest[query], how_far[query], strict=True):
        frame = ("#0072B2", "solid") if distance <= threshold else ("#D55E00", "dashed")
        name = test.class_name(test.labels[i])
        show(ax, test.images[i], f"{name}\n{distance:.2f}", *frame)
        ax.title.set_color("black" if name == person else "red")
plt.show()

# %% [markdown]
# ## Take it with you
#
# The threshold holds for this network and for photos like these; ten people are not many to be taken for. The
# same in one command each, with intervals, a report and a picture, where FOLDER is your photos':
#
# ```bash
# python experiments/train.py --config=configs/faces.py --workdir=runs/faces --config.data.root=FOLDER
# python experiments/evaluate.py --workdir=runs/faces
# python experiments/verify.py IMAGE1 IMAGE2 --workdir=runs/faces
# python experiments/embed.py --workdir=runs/faces --images=FOLDER --out=GALLERY
# python experiments/search.py IMAGE --workdir=runs/faces --gallery=GALLERY
# ```
#
# [docs/data.md](../docs/data.md) tells more of folders, [docs/evaluation.md](../docs/evaluation.md) of what the
# numbers mean.
