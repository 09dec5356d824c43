"""A million classes: their proxies spread over devices, and sampled (Partial FC)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import LOSSES
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from subjects import DIM, LABELS, N
from suite import assert_close, every, random_rows

import metric_jax as mj

PROXY_LOSSES = [loss for loss in LOSSES if loss.proxies is not None]
WHERE = np.arange(N) != 4


def batch_of(loss, dtype=np.float64):
    return loss.batch().astype(dtype), loss.proxies.astype(dtype)


# Classes spread over devices.


@functools.cache
def mesh(shape, names):
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, names, devices=devices, axis_types=(AxisType.Auto,) * len(shape))


LAYOUTS = {
    # mesh, where the batch lies, where the classes lie
    "one_axis_for_both": (((4,), ("data",)), "data", "data"),
    "classes_only": (((4,), ("data",)), None, "data"),
    "two_axes": (((2, 2), ("data", "model")), "data", "model"),
    "batch_over_both": (((2, 2), ("data", "model")), ("data", "model"), "model"),
}
# Of each way through the engine one loss in all layouts, and others in the one of most exchanges.
WAYS = ("arcface", "proxy_anchor")
OTHERS = ("cosface", "normalized_softmax", "p2sgrad", "soft_triple", "center")
every_loss_and_layout = pytest.mark.parametrize(
    ("loss", "layout"),
    [
        pytest.param(loss, layout, id=f"{loss.name}-{name}")
        for loss in PROXY_LOSSES
        for name, layout in LAYOUTS.items()
        if loss.name in WAYS or (loss.name in OTHERS and name == "batch_over_both")
    ],
)


@every_loss_and_layout
def test_P5_classes_on_four_devices_differentiated_outside(loss, layout, x64):
    shape, axis_name, class_axis = layout
    rows, proxies = batch_of(loss)

    def value(rows, labels, proxies, where, **axes):
        return loss(rows, labels, proxies=proxies, where=where, **axes)

    spread = jax.shard_map(
        functools.partial(value, axis_name=axis_name, class_axis=class_axis, tile=3),
        mesh=mesh(*shape),
        in_specs=(P(axis_name), P(axis_name), P(class_axis), P(axis_name)),
        out_specs=P(),
    )
    found, expected = (
        jax.jit(jax.value_and_grad(fn, argnums=(0, 2)))(rows, LABELS, proxies, WHERE)
        for fn in (spread, value)
    )
    jax.tree.map(functools.partial(assert_close, tolerance=1e-10), found, expected)


@every_loss_and_layout
def test_P5_classes_on_four_devices_differentiated_inside(loss, layout, x64):
    shape, axis_name, class_axis = layout
    rows, proxies = batch_of(loss)
    weights = np.random.default_rng(0).normal(size=(DIM, DIM))

    def value(weights, proxies, rows, labels, **axes):
        return loss(rows @ weights, labels, proxies=proxies, **axes)

    step = jax.value_and_grad(value, argnums=(0, 1))
    local = functools.partial(value, axis_name=axis_name, class_axis=class_axis)
    spread = jax.shard_map(
        jax.value_and_grad(local, argnums=(0, 1)),
        mesh=mesh(*shape),
        in_specs=(P(), P(class_axis), P(axis_name), P(axis_name)),
        out_specs=(P(), (P(), P(class_axis))),
    )
    found, expected = (jax.jit(fn)(weights, proxies, rows, LABELS) for fn in (spread, step))
    jax.tree.map(functools.partial(assert_close, tolerance=1e-10), found, expected)


@pytest.mark.parametrize("reduction", ["mean_active", "sum", "none"])
@every("loss", [loss for loss in PROXY_LOSSES if loss.name in WAYS])
def test_P5_classes_on_four_devices_under_any_reduction(loss, reduction):
    rows, proxies = batch_of(loss, np.float32)
    spread = jax.shard_map(
        lambda e, y, p: loss(e, y, proxies=p, reduction=reduction, axis_name="data", class_axis="data"),
        mesh=mesh((4,), ("data",)),
        in_specs=P("data"),
        out_specs=P("data") if reduction == "none" else P(),
    )
    assert_close(
        jax.jit(spread)(rows, LABELS, proxies), loss.expected(rows, LABELS, reduction=reduction), 1e-5
    )


@every("loss", [loss for loss in PROXY_LOSSES if loss.name in WAYS])
def test_nan_in_a_proxy_of_another_device_reaches_the_loss(loss):
    rows, proxies = batch_of(loss, np.float32)
    proxies.reshape(-1, DIM)[0, 0] = np.nan
    spread = jax.shard_map(
        lambda e, y, p: loss(e, y, proxies=p, axis_name="data", class_axis="data"),
        mesh=mesh((4,), ("data",)),
        in_specs=P("data"),
        out_specs=P(),
    )
    assert np.isnan(jax.jit(spread)(rows, LABELS, proxies))


def test_proxy_anchors_are_shared_out_though_they_do_not_divide(x64):
    """Six classes over four devices: each proxy is counted once."""
    proxies = np.random.default_rng(0).normal(size=(6, DIM))
    rows, labels = random_rows(n=12).astype(np.float64), np.arange(12) % 5

    def value(rows, labels, proxies, axis_name=None):
        return mj.proxy_anchor_loss(rows, labels, proxies, axis_name=axis_name)

    spread = jax.shard_map(
        functools.partial(value, axis_name="data"),
        mesh=mesh((4,), ("data",)),
        in_specs=(P("data"), P("data"), P()),
        out_specs=P(),
    )
    found, expected = (
        jax.jit(jax.value_and_grad(fn, argnums=(0, 2)))(rows, labels, proxies) for fn in (spread, value)
    )
    jax.tree.map(functools.partial(assert_close, tolerance=1e-10), found, expected)
    values = jax.shard_map(
        lambda *arrays: mj.proxy_anchor_loss(*arrays, axis_name="data", reduction="none"),
        mesh=mesh((4,), ("data",)),
        in_specs=(P("data"), P("data"), P()),
        out_specs=P(),  # proxies that every device has: so has it every value
    )(rows, labels, proxies)
    assert_close(values, mj.proxy_anchor_loss(rows, labels, proxies, reduction="none"), 1e-10)


# Sampled classes.


def test_all_classes_sampled_are_the_full_head(x64):
    rows, proxies = random_rows().astype(np.float64), np.random.default_rng(0).normal(size=(6, DIM))

    def partial(rows, proxies):
        sampled = mj.sample_classes(jax.random.key(0), LABELS, classes=6, count=6)
        return mj.arcface_loss(rows, LABELS, proxies[sampled.rows], proxy_labels=sampled.labels)

    found, expected = (
        jax.value_and_grad(fn, argnums=(0, 1))(rows, jnp.asarray(proxies))
        for fn in (partial, lambda rows, proxies: mj.arcface_loss(rows, LABELS, proxies))
    )
    jax.tree.map(functools.partial(assert_close, tolerance=1e-12), found, expected)


def test_sampled_classes_hold_those_of_the_batch_and_random_others():
    labels = jnp.array([90, 3, 3, 41, 99])
    where = jnp.array([True, True, True, True, False])
    seen = []
    for seed in range(20):
        sampled = mj.sample_classes(jax.random.key(seed), labels, classes=100, count=10, where=where)
        rows = np.asarray(sampled.rows)
        assert len(set(rows.tolist())) == 10
        assert {90, 3, 41} <= set(rows.tolist())
        np.testing.assert_array_equal(np.sort(rows), rows)
        np.testing.assert_array_equal(sampled.labels, rows)
        seen += rows.tolist()
    assert len(set(seen)) > 60  # 140 draws of 97
    assert seen.count(99) < 10


def test_a_sampled_head_is_the_softmax_over_those_classes_alone(x64):
    rows, proxies = random_rows().astype(np.float64), np.random.default_rng(0).normal(size=(20, DIM))
    labels = LABELS + 7
    sampled = mj.sample_classes(jax.random.key(1), labels, classes=20, count=9)
    kept = np.asarray(sampled.rows)
    value = mj.cosface_loss(rows, labels, proxies[kept], proxy_labels=sampled.labels)
    assert_close(value, mj.cosface_loss(rows, np.searchsorted(kept, labels), proxies[kept]), 1e-12)


@pytest.mark.parametrize("labels", [LABELS, LABELS.astype(np.uint8)])
@pytest.mark.parametrize("layout", [LAYOUTS[name] for name in ("one_axis_for_both", "two_axes")])
def test_each_device_samples_from_its_own_classes(layout, labels, x64):
    """With all of them kept, the head is the full one; with fewer, every row still meets its own class."""
    shape, axis_name, class_axis = layout
    rows = random_rows().astype(np.float64)
    proxies = np.random.default_rng(0).normal(size=(48, DIM))
    labels = labels * 13  # spread over the devices

    def value(rows, labels, proxies, count):
        axes = {"axis_name": axis_name, "class_axis": class_axis}
        sampled = mj.sample_classes(jax.random.key(0), labels, classes=48, count=count, **axes)
        losses = mj.arcface_loss(
            rows, labels, proxies[sampled.rows], proxy_labels=sampled.labels, reduction="none", **axes
        )
        return losses, sampled.labels

    def spread(count):
        return jax.jit(
            jax.shard_map(
                functools.partial(value, count=count),
                mesh=mesh(*shape),
                in_specs=(P(axis_name), P(axis_name), P(class_axis)),
                out_specs=(P(axis_name), P((*shape[1],) if axis_name != class_axis else class_axis)),
            )
        )(rows, labels, proxies)

    assert_close(
        spread(48 // shape[0][-1])[0], mj.arcface_loss(rows, labels, proxies, reduction="none"), 1e-12
    )
    losses, kept = spread(8)
    assert (np.asarray(losses) > 0).all()
    assert set(labels.tolist()) <= set(np.asarray(kept).tolist())


@pytest.mark.parametrize("count", [7, 101])
def test_a_count_that_the_batch_may_exceed_is_named(count):
    with pytest.raises(ValueError, match="count must be from 8 to 100"):
        mj.sample_classes(jax.random.key(0), LABELS, classes=100, count=count)


def test_a_number_of_classes_that_is_none_is_named_and_forgotten():
    for wrong in (
        {"classes": 10, "count": 8.0},
        {"classes": 10.0, "count": 8},
        {"classes": 10, "count": True},
    ):
        with pytest.raises(
            ValueError, match=r"sample_classes: (count|classes) must be a positive integer, got"
        ):
            mj.sample_classes(jax.random.key(0), LABELS, **wrong)
    assert len(mj.sample_classes(jax.random.key(0), LABELS, classes=10, count=8).rows) == 8


def test_few_classes_may_all_be_kept():
    assert len(mj.sample_classes(jax.random.key(0), LABELS, classes=4, count=4).rows) == 4


def test_classes_that_do_not_divide_over_the_devices_are_named():
    spread = jax.shard_map(
        lambda y: mj.sample_classes(jax.random.key(0), y, classes=10, count=2, class_axis="data").rows,
        mesh=mesh((4,), ("data",)),
        in_specs=P(),
        out_specs=P("data"),
    )
    with pytest.raises(ValueError, match="10 classes do not divide over the 4 devices of data"):
        spread(jnp.array([1, 2]))
