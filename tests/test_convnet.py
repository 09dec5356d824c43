"""The four-block network against plain NumPy, and what a functional training step relies on."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from suite import AS_SHIPPED

from metric_jax.data import sources
from metric_jax.models import MODELS
from metric_jax.models.convnet import ConvNet, _max_pool
from metric_jax.training import state


def network(image_shape=(9, 6, 2), *, seed=0, width=4, dim=3, blocks=2, **options):
    return ConvNet(image_shape, width=width, dim=dim, blocks=blocks, rngs=nnx.Rngs(seed), **options)


def images(n, image_shape=(9, 6, 2), seed=0):
    return jnp.asarray(np.random.default_rng(seed).random((n, *image_shape)), jnp.float32)


def run(net, x, *, train):
    """Its embeddings, by a compiled function that leaves it as it is."""
    graphdef, state = nnx.split(net)
    return jax.jit(lambda state, x: nnx.merge(graphdef, state)(x, train=train))(state, x)


# --- the formula ------------------------------------------------------------------------------------------------------


def convolved(x, kernel):
    """3×3, with a border of zeros."""
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    out = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            window = padded[:, row : row + 3, column : column + 3]
            out[:, row, column] = np.einsum("nijc,ijcd->nd", window, kernel)
    return out


def pooled(x):
    """The largest of every 2×2; a last odd row or column falls away, a single one stays."""
    height, breadth = (max(1, side // 2) for side in x.shape[1:3])
    out = np.empty((len(x), height, breadth, x.shape[3]))
    for row in range(height):
        for column in range(breadth):
            out[:, row, column] = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].max(axis=(1, 2))
    return out


def normed(x, norm, train):
    """Less the mean, over the deviation: of a channel in this batch, of a channel so far, of an image's group."""
    if isinstance(norm, nnx.GroupNorm):
        grouped = x.reshape(*x.shape[:3], norm.num_groups, -1)
        mean, variance = (f(grouped, axis=(1, 2, 4), keepdims=True) for f in (np.mean, np.var))
        x = ((grouped - mean) / np.sqrt(variance + norm.epsilon)).reshape(x.shape)
    else:
        mean, variance = np.asarray(norm.mean[...]), np.asarray(norm.var[...])
        if train:
            everywhere = tuple(range(x.ndim - 1))
            mean, variance = x.mean(axis=everywhere), x.var(axis=everywhere)
        x = (x - mean) / np.sqrt(variance + norm.epsilon)
    return x if norm.scale is None else x * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])


def in_patches(x, side):
    """Each patch as one pixel, the pixels it has row by row."""
    out = np.empty((len(x), x.shape[1] // side, x.shape[2] // side, side * side * x.shape[3]))
    for row in range(out.shape[1]):
        for column in range(out.shape[2]):
            patch = x[:, side * row : side * (row + 1), side * column : side * (column + 1)]
            out[:, row, column] = patch.reshape(len(x), -1)
    return out


def reference(net, x, train):
    x = in_patches(np.asarray(x, np.float64), net.patch)
    for block in net.blocks:
        x = pooled(np.maximum(normed(convolved(x, np.asarray(block.conv.kernel[...])), block.norm, train), 0))
    x = x.reshape(len(x), -1) @ np.asarray(net.head.kernel[...]) + np.asarray(net.head.bias[...])
    x = x if net.neck is None else normed(x, net.neck, train)
    return x / np.linalg.norm(x, axis=-1, keepdims=True) if net.normalise else x


def shaken(net):
    """The same network with no parameter and no running mean at its first value."""
    graphdef, state = nnx.split(net)
    generator = np.random.default_rng(5)

    def shake(x):
        return jnp.asarray(np.asarray(x) + generator.uniform(0.1, 0.5, x.shape), x.dtype)

    return nnx.merge(graphdef, jax.tree.map(shake, state))


@pytest.mark.parametrize(
    ("options", "train"),
    [
        ({}, False),
        ({}, True),
        ({"norm": "group", "width": 12}, True),
        ({"growth": 3}, True),
        ({"patch": 3}, True),
        ({"normalise": False}, False),
    ],
)
def test_numpy_says_the_same(options, train):
    net = shaken(network(**options))
    expected = reference(net, images(5), train)
    np.testing.assert_allclose(run(net, images(5), train=train), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("image_shape", [(8, 8, 1), (28, 28, 1), (105, 105, 1), (1, 1, 3), (2, 31, 3)])
def test_images_of_any_size(image_shape):
    net = network(image_shape, blocks=4)
    embeddings = run(net, images(2, image_shape), train=False)
    assert embeddings.shape == (2, 3)
    assert embeddings.dtype == jnp.float32
    assert jnp.isfinite(embeddings).all()


@pytest.mark.parametrize(("growth", "channels"), [(1, [5, 5, 5]), (2, [5, 10, 20])])
def test_width_dim_blocks_and_growth(growth, channels):
    net = nnx.eval_shape(lambda: network((28, 28, 1), width=5, dim=7, blocks=3, growth=growth))
    assert [block.conv.kernel.shape[2:] for block in net.blocks] == list(itertools.pairwise([1, *channels]))
    assert net.head.kernel.shape == (3 * 3 * channels[-1], 7)


@pytest.mark.parametrize(("width", "groups"), [(64, 8), (12, 4), (7, 1)])
def test_as_many_groups_as_divide_the_width(width, groups):
    net = nnx.eval_shape(lambda: network(norm="group", width=width))
    assert [block.norm.num_groups for block in net.blocks] == [groups] * 2


def test_length_one_or_not():
    x = images(6)
    lengths = jnp.linalg.norm(network()(x), axis=-1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)
    lengths = jnp.linalg.norm(network(normalise=False)(x), axis=-1)
    assert jnp.abs(lengths - 1).min() > 1e-3


def test_bfloat16_embeds_in_float32():
    exact, half = (network(dtype=dtype) for dtype in ("float32", "bfloat16"))
    embeddings = run(half, images(5), train=False)
    assert embeddings.dtype == jnp.float32
    np.testing.assert_allclose(embeddings, run(exact, images(5), train=False), atol=0.05)
    np.testing.assert_allclose(jnp.linalg.norm(embeddings, axis=-1), 1, rtol=1e-5)


def test_N4_black_images_have_finite_embeddings_and_gradients():
    """Their embedding, before it is scaled, is exactly zero, and all pixels tie in every pool."""
    graphdef, params, rest = nnx.split(network(), nnx.Param, ...)
    black = jnp.zeros((4, 9, 6, 2))

    def total(params, x):
        return jnp.sum(nnx.merge(graphdef, params, rest, copy=True)(x, train=True) @ jnp.arange(3.0))

    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(params, black)
    assert value == 0
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


# --- training and afterwards ------------------------------------------------------------------------------------------


def statistics(net):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(net, nnx.BatchStat))]


def test_running_means_change_in_training_alone():
    net = network()
    before = statistics(net)
    net(images(5), train=False)
    for old, new in zip(before, statistics(net), strict=True):
        np.testing.assert_array_equal(old, new)
    net(images(5), train=True)
    for old, new in zip(before, statistics(net), strict=True):
        assert np.abs(old - new).min() > 0


def test_the_neck_keeps_the_embeddings_of_a_batch_from_collapsing():
    nearly_equal = 0.5 + 1e-2 * images(64)
    embeddings = np.asarray(run(network(normalise=False), nearly_equal, train=True))
    np.testing.assert_allclose(embeddings.mean(axis=0), 0, atol=1e-4)
    assert embeddings.std(axis=0).min() > 0.5


def test_running_means_take_a_tenth_of_each_batch():
    net = network(blocks=1)
    features = convolved(np.asarray(images(5)), np.asarray(net.blocks[0].conv.kernel[...]))
    net(images(5), train=True)
    norm = net.blocks[0].norm
    np.testing.assert_allclose(norm.mean[...], 0.1 * features.mean(axis=(0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * features.var(axis=(0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize(
    ("norm", "train", "alone"),
    [("batch", False, True), ("batch", True, False), ("group", False, True), ("group", True, True)],
)
def test_whether_an_embedding_depends_on_the_rest_of_its_batch(norm, train, alone):
    net = shaken(network(norm=norm))
    batches = [jnp.concatenate([images(2), images(3, seed=seed)]) for seed in (1, 2)]
    one, other = (run(net, batch, train=train)[:2] for batch in batches)
    assert np.allclose(one, other, atol=1e-6) == alone


def test_parameters_follow_from_the_key():
    first, again, other = (jax.tree.leaves(nnx.state(network(seed=seed), nnx.Param)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    kernels = [(a, b) for a, b in zip(first, other, strict=True) if a.ndim > 1]
    assert len(kernels) == 3
    assert not any(np.any(a == b) for a, b in kernels)


def test_however_xla_compiles_it_the_gradient_is_the_same():
    """Of pixels that are equal, as in the black around a digit, a fused maximum has once lost the gradient."""
    x = jnp.asarray(sources.digits().images[:80] / np.float32(255))
    graphdef, params, rest = state.part(network((8, 8, 1), width=16, dim=8, blocks=3))
    towards = jnp.asarray(np.random.default_rng(1).normal(size=(80, 8)), jnp.float32)

    def value(params):
        return jnp.sum(towards * state.assemble(graphdef, params, rest)(x, train=True))

    plain = jax.jit(jax.grad(value))(params)
    shipped = jax.jit(jax.grad(value), compiler_options=AS_SHIPPED)(params)
    assert len(jax.tree.leaves(plain)) == 11
    for expected, found in zip(
        jax.tree.leaves(plain["blocks"]), jax.tree.leaves(shipped["blocks"]), strict=True
    ):
        assert jnp.max(jnp.abs(found - expected)) <= 1e-3 * jnp.max(jnp.abs(expected))


@pytest.mark.parametrize(("height", "breadth"), [(4, 6), (5, 3), (1, 4), (3, 1), (1, 1)])
def test_N9_the_gradient_goes_to_the_first_of_the_largest(height, breadth):
    x = np.random.default_rng(0).integers(0, 3, (2, height, breadth, 2)).astype(np.float32)
    towards = np.random.default_rng(1).normal(size=pooled(x).shape).astype(np.float32)
    expected = np.zeros_like(x)
    for place in np.ndindex(towards.shape):
        image, row, column, channel = place
        window = x[image, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2, channel]
        down, right = np.unravel_index(window.argmax(), window.shape)
        expected[image, 2 * row + down, 2 * column + right, channel] = towards[place]
    found, back = jax.vjp(_max_pool, x)
    assert np.array_equal(found, pooled(x))
    assert np.array_equal(back(towards)[0], expected)


@pytest.mark.parametrize("bad", range(4))
def test_the_largest_pixel_hides_no_nan(bad):
    x = jnp.arange(8.0).at[2 * bad].set(jnp.nan).reshape(1, 2, 2, 2)
    assert jnp.isnan(_max_pool(x)).tolist() == [[[[True, False]]]]


def test_a_functional_step_leaves_the_network_as_it_was():
    net = shaken(network())
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    before = statistics(net)

    @jax.jit
    def step(params, rest, x):
        model = nnx.merge(graphdef, params, rest)
        return model(x, train=True), nnx.split(model, nnx.Param, ...)[2]

    embeddings, updated = step(params, rest, images(5))
    for old, new in zip(before, statistics(net), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_allclose(embeddings, net(images(5), train=True), atol=1e-5)
    merged = nnx.merge(graphdef, params, updated)
    for stepped, eager in zip(statistics(merged), statistics(net), strict=True):
        np.testing.assert_allclose(stepped, eager, rtol=1e-4)
    np.testing.assert_allclose(merged(images(3)), net(images(3)), atol=1e-5)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, r"model\.width must be at least 1, got 0"),
        ({"dim": -1}, r"model\.dim must be at least 1, got -1"),
        ({"blocks": 0}, r"model\.blocks must be at least 1, got 0"),
        ({"patch": 0}, r"model\.patch must be at least 1, got 0"),
        (
            {"patch": 2},
            r"model\.patch=2 must divide the sides of the images, 9×6: resize them by data\.size=8",
        ),
        ({"dtype": "float16"}, r"model\.dtype must be 'float32' or 'bfloat16', got 'float16'"),
        ({"norm": "layer"}, r"model\.norm must be 'batch' or 'group', got 'layer'"),
        ({"image_shape": (8, 8)}, r"image_shape must be \(height, width, channels\), got \(8, 8\)"),
        ({"image_shape": (8, 0, 1)}, r"got \(8, 0, 1\)"),
    ],
)
def test_a_network_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        network(**options)


def test_images_that_it_was_not_made_for():
    net = network((9, 6, 2))
    with pytest.raises(ValueError, match=r"images must be \[batch, 9, 6, 2\], got \[5, 9, 6, 1\]"):
        net(images(5, (9, 6, 1)))
    with pytest.raises(ValueError, match=r"images must be \[batch, 9, 6, 2\], got \[9, 6, 2\]"):
        net(images(5)[0])
    with pytest.raises(TypeError, match="images must be floating, got uint8: divide bytes by 255"):
        net(jnp.zeros((5, 9, 6, 2), jnp.uint8))


def test_the_models_by_name():
    assert MODELS["convnet"] is ConvNet
