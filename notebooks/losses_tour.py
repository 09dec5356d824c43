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
# # Three points, two losses, and one of your own
#
# A1 and A2 are two photos of one person, C is a photo of somebody else. A network has made points of them, and a
# loss says how the points should move. This page looks at two losses on these three points, then at a whole
# batch, and at last at a loss that you write yourself.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import metric_jax as mj

# %% [markdown]
# ## Two formulas
#
# **Contrastive loss** (Hadsell, Chopra, LeCun 2006) judges each pair alone, by its distance $d$. Two photos of
# one person pay $d^2$, two of different people $\max(0,\, m - d)^2$ with a margin $m$.
#
# **Triplet loss** (Schroff, Kalenichenko, Philbin 2015) compares. A1 is the anchor: $\max(0,\, d(A1, A2) - d(A1,
# C) + m)$. It wants C farther from A1 than A2 is, by the margin, and asks for nothing else.


# %%
def contrastive(points):
    """The contrastive loss of the three pairs of ``points = [A1, A2, C]``."""
    a1, a2, c = points
    first, second = jnp.stack([a1, a1, a2]), jnp.stack([a2, c, c])
    is_same = jnp.array([True, False, False])
    return mj.contrastive_loss(first, second, is_same, margin=1.0).sum()


def triplet(points):
    """The triplet loss of anchor A1, positive A2 and negative C."""
    a1, a2, c = points
    return mj.triplet_loss(a1, a2, c, margin=0.35)


# %% [markdown]
# ## Two situations
#
# - **Hard negative**: C looks like A1, and A2 does not.
# - **Hard positive**: A1 and A2 look different. C is nearer to A1 than A2 is, but farther than contrastive's
#   margin.
#
# The gradient of a loss says how it pulls at each point. It comes from the library's own functions, by
# `jax.grad`.

# %%
SITUATIONS = {
    "hard negative": jnp.array([[0.0, 0.0], [1.75, 0.0], [0.2, 0.3]]),
    "hard positive": jnp.array([[0.0, 0.0], [1.75, 0.0], [0.3, 1.05]]),
}
print("situation      loss         value   pull at A2   pull at C")
for situation, points in SITUATIONS.items():
    for loss in (contrastive, triplet):
        value, gradient = jax.value_and_grad(loss)(points)
        at_a2, at_c = jnp.linalg.norm(gradient[1:], axis=-1)
        print(f"{situation:<14} {loss.__name__:<11} {value:>6.3f} {at_a2:>12.3f} {at_c:>11.3f}")

# %% [markdown]
# Look at the pull at C in the hard positive: under contrastive loss it is not small, it is exactly 0. C is beyond
# the margin, so its pair is done, although C is nearer to A1 than A2 is. Triplet loss moves it.

# %%
start = SITUATIONS["hard positive"]
assert not jax.grad(contrastive)(start)[2].any()
assert jax.grad(triplet)(start)[2].any()

# %% [markdown]
# ## Where descent ends
#
# Both losses see only differences, so one point may stay where it is: A1. Gradient descent moves the other two.


# %%
def descend(loss, start, *, rate=0.01, steps=800):
    """The points ``[steps + 1, 3, 2]`` before each step of gradient descent and after the last; A1 stays."""
    free = jnp.array([[0.0], [1.0], [1.0]])

    def step(points, _):
        return points - rate * free * jax.grad(loss)(points), points

    return np.asarray(jax.lax.scan(step, start, length=steps + 1)[1])


POINTS = (("A1", "#0072B2", "o"), ("A2", "#0072B2", "o"), ("C", "#D55E00", "s"))

figure, axes = plt.subplots(2, 2, figsize=(9, 6.6), layout="constrained", sharex=True, sharey=True)
for row, (situation, start) in zip(axes, SITUATIONS.items(), strict=True):
    for ax, loss in zip(row, (contrastive, triplet), strict=True):
        path, gradient = descend(loss, start), np.asarray(jax.grad(loss)(start))
        for i, (name, colour, marker) in enumerate(POINTS):
            ax.plot(*path[:, i].T, color=colour, lw=3, alpha=0.4)
            ax.plot(*path[0, i], marker, mfc="white", mec=colour, ms=10, mew=2)
            ax.plot(*path[-1, i], marker, color=colour, ms=7)
            ax.annotate(name, path[0, i], (-16, 4), textcoords="offset points", color=colour, weight="bold")
            if name != "A1" and gradient[i].any():
                tip = path[0, i] - 0.2 * gradient[i]
                ax.annotate("", tip, path[0, i], arrowprops={"arrowstyle": "-|>", "lw": 2})
        ax.set(title=f"{situation}: {loss.__name__}", aspect="equal", xticks=[], yticks=[])
figure.suptitle("hollow: start, filled: end, arrow: minus the gradient at the start")
plt.show()

# %% [markdown]
# Contrastive loss pulls A2 all the way onto A1, wherever C is. Triplet loss stops as soon as the order is right,
# and leaves the two photos room to differ. Free points are kinder than a network, which often *cannot* move A2
# onto A1, because the two photos really look different. Then contrastive loss has nothing left to do in the hard
# positive, and the order stays wrong.
#
# ## A batch
#
# A batch of six people with four photos each has 24 · 3 · 20 = 1,440 triplets. Most of them are right already,
# and teach nothing. Batch-hard mining (Hermans, Beyer, Leibe 2017) takes one for each anchor: its farthest
# positive and its nearest negative.

# %%
rng = np.random.default_rng(0)
labels = jnp.arange(24) // 4
people, photos = rng.normal(size=(6, 2)), rng.normal(size=(24, 2))
embeddings = jnp.asarray(1.5 * people[np.arange(24) // 4] + 0.3 * photos, jnp.float32)

wrong = mj.mining.triplet_margin(embeddings, labels, margin=0.2)
hardest = mj.mining.batch_hard(embeddings, labels)
print(f"{wrong.valid.sum()} of 1440 triplets violate a margin of 0.2")
print(f"the hardest of anchor 0: positive {hardest.positive[0]}, negative {hardest.negative[0]}")

loss, gradient = jax.value_and_grad(mj.batch_hard_triplet_loss)(embeddings, labels, margin=0.2)
print(f"batch-hard triplet loss {loss:.4f}, gradient {gradient.shape}")

found = mj.diagnostics.summary(embeddings, labels, margin=0.2)
for name in ("active_fraction", "hard_positives", "hard_negatives", "spread"):
    print(f"{name:<16} {found[name]:.3g}")

# %% [markdown]
# ## A loss for one anchor
#
# Every batch loss is, for one anchor, a function of its row of distances to all others, of which of these are
# positives, and of which are negatives. So write it for *one* anchor. `per_anchor` makes a loss of a batch out of
# it. Batch-hard triplet loss, for instance, is four lines:


# %%
@mj.per_anchor(distance=mj.euclidean)
def my_batch_hard_loss(distances, positives, negatives, *, margin=0.2):
    """The farthest positive should be nearer than the nearest negative, by a margin."""
    farthest = jnp.max(distances, where=positives, initial=0.0)
    nearest = jnp.min(distances, where=negatives, initial=jnp.inf)
    violation = jax.nn.relu(farthest - nearest + margin)
    return mj.terms(violation, where=positives.any() & negatives.any())


mine, its = my_batch_hard_loss(embeddings, labels), mj.batch_hard_triplet_loss(embeddings, labels)
print(f"mine {mine:.6f}, the library's {its:.6f}")
assert jnp.allclose(mine, its)

# %% [markdown]
# Now one that no paper has: every positive should be closer than the *average* negative. `mj.terms` lists what
# the anchor contributes, here one term for each of its positives.


# %%
@mj.per_anchor(distance=mj.euclidean)
def closer_than_average_loss(distances, positives, negatives, *, margin=1.5):
    """Every positive should be closer than the average negative, by a margin."""
    average = jnp.mean(distances, where=negatives)
    violations = jax.nn.relu(distances - average + margin)
    return mj.terms(violations, where=positives & negatives.any())


loss, gradient = jax.value_and_grad(closer_than_average_loss)(embeddings, labels)
print(f"{loss:.4f}", gradient.shape)

# %% [markdown]
# Everything below comes with it.
#
# **Masks.** Rows that fill a batch up stay out by `where=`, whatever they hold, in the gradient too.

# %%
padded = jnp.concatenate([embeddings, jnp.full((3, 2), jnp.nan)])
padded_labels = jnp.concatenate([labels, jnp.zeros(3, int)])
masked, to_padded = jax.value_and_grad(closer_than_average_loss)(
    padded, padded_labels, where=jnp.arange(27) < 24
)
print(f"{masked:.4f}, and of the padding the largest gradient is {jnp.abs(to_padded[24:]).max()}")
assert jnp.allclose(masked, loss)

# %% [markdown]
# **Tiles.** The value and the gradient are the same whatever the tile, but no matrix of all distances is ever
# made. What XLA sets aside for intermediate results, read off the compiled programs, with one tile and with the
# library's choice:

# %%
tiled, its_gradient = jax.value_and_grad(closer_than_average_loss)(embeddings, labels, tile=5)
assert jnp.allclose(tiled, loss)
assert jnp.allclose(its_gradient, gradient, atol=1e-6)


def megabytes(batch, tile):
    """What value and gradient need for a batch of 128-dimensional embeddings; nothing runs."""
    step = jax.jit(jax.value_and_grad(functools.partial(closer_than_average_loss, tile=tile)))
    rows = jax.ShapeDtypeStruct((batch, 128), jnp.float32)
    program = step.lower(rows, jax.ShapeDtypeStruct((batch,), jnp.int32)).compile()
    return program.memory_analysis().temp_size_in_bytes / 1e6


print("batch    one tile   tile='auto'   (MB)")
for batch in (2048, 4096):
    print(f"{batch:<8} {megabytes(batch, batch):>8,.0f} {megabytes(batch, 'auto'):>13,.0f}")

# %% [markdown]
# **Memory.** A batch is small. A memory keeps embeddings of the batches before, and the loss compares with these
# too. It is a plain pytree, part of the training state.

# %%
memory = mj.memory.create(size=64, dim=2)
memory = mj.memory.push(memory, embeddings + 0.1, labels)  # of an earlier step
with_memory = closer_than_average_loss(embeddings, labels, **mj.memory.references(memory), with_batch=True)
print(f"{with_memory:.4f}")

# %% [markdown]
# **Miners.** What a miner returns, any batch loss takes as `pairs=`: yours here sees only the pairs that are hard
# beside the hardest pair of the other kind.

# %%
mined = mj.mining.multi_similarity(embeddings, labels)
print(
    f"{mined.valid.sum()} of {24 * 23} pairs, loss {closer_than_average_loss(embeddings, labels, pairs=mined):.4f}"
)

# %% [markdown]
# **Who matches whom** is a function of two labels. Here two rows match that share a tag:

# %%
tags = jnp.asarray(rng.random((24, 5)) < 0.3)
print(f"{closer_than_average_loss(embeddings, tags, match=lambda a, b: (a & b).any()):.4f}")

# %% [markdown]
# `axis_name=` takes negatives from all devices of a mesh: [colab_tpu](colab_tpu.ipynb) does so. `reduction=`,
# `distance=` and the rest are in `help(closer_than_average_loss)`, the losses that there are in
# [docs/losses.md](../docs/losses.md), and [docs/own_loss.md](../docs/own_loss.md) has more of your own. Photos
# are next: [faces](faces.ipynb).
