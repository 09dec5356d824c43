"""One training step, against the same arithmetic written out, with everything it can do and without."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import metric_jax as mj
from metric_jax.limits import POSITIVE
from metric_jax.models import ConvNet
from metric_jax.training import RunError, choices, devices, state, step
from metric_jax.training.objective import Learned, Objective

IMAGES = np.random.default_rng(0).integers(0, 256, size=(8, 8, 8, 1), dtype=np.uint8)
LABELS = np.repeat(np.arange(4), 2).astype(np.int32)
LEARNING_RATE = 0.1


def loss(embeddings, labels, **options):
    return mj.batch_all_triplet_loss(embeddings, labels, margin=0.5, **options)


PLAIN = Objective(loss=loss)
WITH_MEMORY = Objective(loss=loss, before=mj.nca_loss, before_steps=3, memory_start=2)
LEARNED = Objective(loss=mj.proxy_nca_pp_loss, proxies=(), learned={"temperature": Learned(0.5, POSITIVE)})


class Halved(nnx.Module):
    """A model that computes in half precision."""

    def __init__(self):
        self.head = nnx.Linear(64, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))

    def __call__(self, images, *, train):
        return self.head(images.reshape(len(images), -1))


def convnet(norm="batch"):
    return ConvNet((8, 8, 1), width=8, dim=8, blocks=1, norm=norm, rngs=nnx.Rngs(0))


def begin(
    model=None,
    objective=PLAIN,
    *,
    optimizer=None,
    augment=None,
    chunk=0,
    batch_statistics=True,
    ema=0.0,
    sharded=False,
    size=8,
    memory=0,
    frozen=(),
):
    """``(graphdef, state, step)`` of a small network, always the same; the state is donated to the step."""
    mesh = devices.mesh(size)
    optimizer = optimizer or optax.sgd(LEARNING_RATE)
    graphdef, created = state.create(
        model or convnet(),
        optimizer,
        jax.random.key(7),
        loss_params=objective.init(jax.random.key(1), classes=4, dim=8),
        memory=mj.memory.create(memory, 8) if memory else None,
        frozen=frozen,
        averages=ema > 0,
    )
    layout = devices.layout(created, mesh, sharded=sharded)
    encode = step.make_encoder(graphdef, mesh, chunk=chunk, batch_statistics=batch_statistics)
    options = {"augment": augment, "ema": ema, "mesh": mesh, "layout": layout}
    take = step.make_train_step(encode, optimizer, objective, **options)
    return graphdef, jax.device_put(created, layout), take


def steps(count, **options):
    """(state, outputs) after so many steps on one batch."""
    _, now, take = begin(**options)
    outputs = []
    for _ in range(count):
        now, output = take(now, IMAGES, LABELS)
        outputs.append(host(output))
    return now, outputs


def host(tree):
    return jax.tree.map(np.array, tree)  # a copy: what NumPy looks at cannot be donated


def assert_close(found, expected, rtol=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol / 10), host(found), host(expected)
    )


def test_a_step_is_a_gradient_step():
    graphdef, start, take = begin()
    images = jnp.asarray(IMAGES, jnp.float32) / 255

    def objective(params):
        return loss(state.assemble(graphdef, params, start.rest)(images, train=True), LABELS)

    value, gradient = jax.jit(jax.value_and_grad(objective))(start.params["model"])
    expected = host(jax.tree.map(lambda p, g: p - LEARNING_RATE * g, start.params["model"], gradient))
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(host(gradient))))
    after, output = take(start, IMAGES, LABELS)
    assert after.step == 1
    np.testing.assert_allclose(output.loss, value, rtol=1e-5)
    np.testing.assert_allclose(output.gradient_norm, norm, rtol=1e-4)
    assert_close(after.params["model"], expected, rtol=1e-4)
    assert output.embeddings.shape == (8, 8)
    assert output.learned == {}


def test_a_step_trains_what_the_loss_learns():
    graphdef, start, take = begin(objective=LEARNED)
    embeddings = state.assemble(graphdef, *start.evaluated)(IMAGES / np.float32(255), train=True)

    def value(params):
        temperature = jnp.exp(params["temperature"])
        return mj.proxy_nca_pp_loss(embeddings, LABELS, params["proxies"], temperature=temperature)

    before = host(start.params["loss"])
    gradient = jax.jit(jax.grad(value))(before)
    after, output = take(start, IMAGES, LABELS)
    assert_close(after.params["loss"], jax.tree.map(lambda p, g: p - LEARNING_RATE * g, before, gradient))
    assert output.learned == {"temperature": pytest.approx(0.5)}
    np.testing.assert_allclose(output.loss, value(before), rtol=1e-5)


def test_a_step_updates_what_the_model_keeps_of_itself():
    _, start, take = begin()
    before = host(start.rest)
    after, _ = take(start, IMAGES, LABELS)
    assert np.any(host(after.rest)["blocks"][0]["norm"]["mean"] != before["blocks"][0]["norm"]["mean"])


EVERYTHING = {
    "model": convnet("group"),
    "augment": lambda images, key: images + jax.random.uniform(key),
    "chunk": 2,
    "size": 2,
    "ema": 0.9,
    "sharded": True,
    "frozen": ("blocks.0.conv",),
}
OPTIONS = {
    "bare": {},
    "proxies": {**EVERYTHING, "objective": LEARNED},
    "memory": {**EVERYTHING, "objective": WITH_MEMORY, "memory": 16},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_many_steps_are_one_compilation_in_place_that_asks_nothing_of_the_host(options, compilations):
    _, now, take = begin(**options)
    mesh, first = devices.mesh(options.get("size", 8)), host(now.params)
    images, labels = devices.place((IMAGES, LABELS), mesh)
    for count in range(6):
        before = compilations()
        given = now
        with jax.transfer_guard("disallow"):
            now, _ = take(now, images, labels)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
        assert count == 0 or compilations() == before
    assert now.step == 6
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: np.any(a != b), first, host(now.params))))


def test_steps_lower_the_loss():
    _, outputs = steps(20)
    assert outputs[-1].loss < outputs[0].loss


def test_every_step_augments_with_a_key_of_its_own():
    seen = []

    def augment(images, key):
        jax.debug.callback(lambda data: seen.append(tuple(data.tolist())), jax.random.key_data(key))
        return images

    steps(3, augment=augment)
    jax.effects_barrier()
    expected = [jax.random.key_data(jax.random.fold_in(jax.random.key(7), i)) for i in range(3)]
    assert set(seen) == {tuple(key.tolist()) for key in expected}


# --- a few images at a time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 3, 4])
def test_in_chunks_a_step_is_that_of_the_whole_batch(chunk):
    """Four images a device."""
    together, whole = steps(2, model=convnet("group"), size=2)
    in_parts, parts = steps(2, model=convnet("group"), size=2, chunk=chunk)
    assert_close(parts, whole)
    assert_close(in_parts.params, together.params)


def test_in_chunks_batch_norm_is_refused_unless_its_statistics_stay():
    with pytest.raises(RunError, match=r"BatchNorm looks at all of a batch: set .*batch\.chunk=0"):
        steps(1, chunk=1)
    together, whole = steps(2, size=2, batch_statistics=False)
    in_parts, parts = steps(2, size=2, batch_statistics=False, chunk=2)
    assert_close(parts, whole)
    assert_close(in_parts.params, together.params)


def test_statistics_may_stay_as_they_are():
    graphdef, start, _ = begin()
    after, outputs = steps(1, batch_statistics=False)
    jax.tree.map(np.testing.assert_array_equal, host(after.rest), host(start.rest))
    used = state.assemble(graphdef, *start.evaluated)(IMAGES / np.float32(255), train=False)
    np.testing.assert_allclose(outputs[0].embeddings, used, rtol=1e-5, atol=1e-6)


# --- precision --------------------------------------------------------------------------------------------------------


def test_the_loss_of_a_model_in_half_precision_is_computed_in_float32():
    seen = []

    def seeing(embeddings, labels, **options):
        seen.append(embeddings.dtype)
        return loss(embeddings, labels, **options)

    graphdef, start, take = begin(Halved(), Objective(loss=seeing))
    embeddings = state.assemble(graphdef, *start.evaluated)(IMAGES / np.float32(255), train=True)
    assert embeddings.dtype == jnp.bfloat16
    found = step.make_embed(graphdef)(*start.evaluated, None, IMAGES)
    after, output = take(start, IMAGES, LABELS)
    assert set(seen) == {jnp.dtype(jnp.float32)}
    assert found.dtype == output.embeddings.dtype == output.loss.dtype == jnp.float32
    np.testing.assert_allclose(output.loss, loss(embeddings.astype(jnp.float32), LABELS), rtol=1e-6)
    assert {leaf.dtype for leaf in jax.tree.leaves(after.params)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("normalise", [True, False])
def test_an_embedding_may_be_the_mean_of_an_image_and_its_mirror_image(normalise):
    net = ConvNet((8, 8, 1), width=4, dim=4, blocks=1, normalise=normalise, rngs=nnx.Rngs(0))
    graphdef, params, rest = state.part(net)
    plain = step.make_embed(graphdef)
    both = [np.asarray(plain(params, rest, None, images)) for images in (IMAGES, np.flip(IMAGES, axis=2))]
    expected = (both[0] + both[1]) / 2
    if normalise:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = step.make_embed(graphdef, mirrored=True)(params, rest, None, IMAGES)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(both[0] - both[1]).max() > 1e-3


@pytest.mark.parametrize("normalise", [True, False])
def test_an_embedding_may_be_the_mean_of_several_views(normalise):
    net = ConvNet((8, 8, 1), width=4, dim=4, blocks=1, normalise=normalise, rngs=nnx.Rngs(0))
    graphdef, params, rest = state.part(net)
    plain = step.make_embed(graphdef)
    sides = [IMAGES, 255 - IMAGES, 255 - IMAGES]
    sides += [np.flip(side, axis=2) for side in sides]
    expected = np.mean([np.asarray(plain(params, rest, None, side), np.float64) for side in sides], axis=0)
    if normalise:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    embed = step.make_embed(graphdef, views=3, mirrored=True, augment=lambda images, key: 1 - images)
    np.testing.assert_allclose(embed(params, rest, None, IMAGES), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected - plain(params, rest, None, IMAGES)).max() > 1e-3


def test_the_views_of_an_image_do_not_hang_on_the_images_beside_it():
    graphdef, params, rest = state.part(ConvNet((8, 8, 1), width=4, dim=4, blocks=1, rngs=nnx.Rngs(0)))
    embed = step.make_embed(graphdef, views=3, augment=choices.augmentation(rotate=30.0, translate=0.2))
    together, alone = embed(params, rest, None, IMAGES), embed(params, rest, None, IMAGES[2:3])
    np.testing.assert_allclose(together[2:3], alone, rtol=1e-5, atol=1e-6)
    assert np.abs(alone - step.make_embed(graphdef)(params, rest, None, IMAGES[2:3])).max() > 1e-3


@pytest.mark.parametrize(("views", "told"), [(0, "at least 1, got 0"), (2, "says nothing: set eval_views=1")])
def test_views_that_cannot_be_made_are_refused(views, told):
    with pytest.raises(RunError, match=told):
        step.make_embed(None, views=views)


def test_bytes_become_fractions():
    found = step.to_unit(jnp.array([0, 51, 255], jnp.uint8))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, [0, 0.2, 1], rtol=1e-6)


# --- memory, averages, frozen parts -----------------------------------------------------------------------------------


def test_a_batch_meets_those_before_it_once_they_were_steps():
    """Of a memory of 20 rows, two batches and a half."""
    _, outputs = steps(5, objective=Objective(loss=loss, memory_start=2), memory=20)
    for number, output in enumerate(outputs):
        past = np.concatenate([np.zeros((0, 8), np.float32), *[o.embeddings for o in outputs[:number]]])
        labels = np.tile(LABELS, number)
        kept = slice(-20, None) if number >= 2 else slice(0)
        options = {"references": past[kept], "reference_labels": labels[kept], "with_batch": True}
        expected = loss(output.embeddings, LABELS, **(options if number >= 2 else {}))
        np.testing.assert_allclose(output.loss, expected, rtol=1e-5)


def test_averages_follow_parameters_and_statistics():
    _, now, take = begin(ema=0.3)
    average = host(now.average)
    for number in range(1, 5):
        now, _ = take(now, IMAGES, LABELS)
        decay = min(0.3, number / (number + 9))
        current = {"params": now.params["model"], "rest": now.rest}
        average = jax.tree.map(lambda a, b, d=decay: d * a + (1 - d) * np.asarray(b, float), average, current)
        assert_close(now.average, average)
    assert np.any(
        host(now.average)["params"]["head"]["kernel"] != host(now.params)["model"]["head"]["kernel"]
    )


def test_what_is_frozen_stays_bit_for_bit_and_costs_no_gradient():
    frozen = ("blocks.0.conv", "head.bias")
    graphdef, start, _ = begin()
    before = host(start.params["model"])
    now, outputs = steps(3, frozen=frozen, ema=0.5, optimizer=optax.adam(0.1))
    for rest in (now.rest, now.average["rest"]):
        kept = host(rest)
        np.testing.assert_array_equal(
            kept["blocks"][0]["conv"]["kernel"], before["blocks"][0]["conv"]["kernel"]
        )
        np.testing.assert_array_equal(kept["head"]["bias"], before["head"]["bias"])
    assert np.all(host(now.params)["model"]["head"]["kernel"] != before["head"]["kernel"])

    def objective(params):
        return loss(
            state.assemble(graphdef, params, start.rest)(IMAGES / np.float32(255), train=True), LABELS
        )

    gradient = host(jax.grad(objective)(start.params["model"]))
    left = [gradient["head"]["kernel"], *gradient["blocks"][0]["norm"].values()]
    np.testing.assert_allclose(outputs[0].gradient_norm, np.sqrt(sum((g**2).sum() for g in left)), rtol=1e-4)


# --- devices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [LEARNED, WITH_MEMORY], ids=["proxies", "memory"])
def test_a_state_spread_over_the_devices_trains_to_the_same_losses(objective, capfd):
    options = {"objective": objective, "memory": 0 if objective is LEARNED else 16, "ema": 0.9}
    options["optimizer"] = optax.adam(1e-2)
    on_each, expected = steps(6, **options)
    spread, found = steps(6, sharded=True, **options)
    assert_close([output.loss for output in found], [output.loss for output in expected])
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(on_each))
    for leaf in jax.tree.leaves(spread):
        shared = any(size % 8 == 0 for size in leaf.shape)
        assert len({str(shard.index) for shard in leaf.addressable_shards}) == (8 if shared else 1)
    held, less = (
        sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(found.opt_state))
        for found in (on_each, spread)
    )
    assert less < held / 6
    assert "rematerialization" not in capfd.readouterr().err  # XLA's word for having spread the layers too
