"""Retrieval's metrics on every way to the same ranks: parts of a gallery, devices, threads, padding."""

import itertools
import os

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from test_retrieval import check, expect, labelled

import metric_jax as mj
from metric_jax.evaluation import scores as scores_module
from metric_jax.evaluation.ranks import COMPARED

retrieval = mj.evaluation.retrieval

ALL = ("map_at_r", "precision@1", "r_precision", "recall@k", "mrr", "precision@k", "ndcg@k", "map")


def unequal(n=330, seed=7, largest=100):
    """Rows of classes of 1 to so many, and enough of them that only some blocks need to be looked into."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(40), np.r_[1, 3, largest, np.full(37, 6)])[:n])
    rows = generator.normal(size=(40, 3))[labels] + generator.normal(size=(len(labels), 3))
    return np.round(rows * 8).astype(np.float32) / 8, labels  # on a grid: many distances tie


@pytest.mark.parametrize("metrics", [ALL, ("map_at_r",), ("mrr",), ("ndcg@k",)], ids="+".join)
@pytest.mark.parametrize("largest", [100, 2 * COMPARED])
def test_N14_every_metric(largest, metrics):
    batch, labels = unequal(largest=largest)
    found = retrieval(batch, labels, metrics=metrics, ks=(1, 3, 20))
    check(found, expect(batch, labels, ks=(1, 3, 20)))


def test_N14_relevant_items_that_are_farther_than_all_others():
    labels = np.arange(400) // 4
    batch = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    batch[:4] = 30.0 * np.array([[1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]])
    check(retrieval(batch, labels), expect(batch, labels))


@pytest.mark.parametrize("metrics", [ALL, ("map_at_r",)], ids="+".join)
def test_N14_a_gallery_in_parts(metrics, tmp_path):
    queries, labels = unequal(seed=8)
    gallery, gallery_labels = unequal()
    edges = [0, 5, 150, len(gallery)]
    parts = []
    for start, end in itertools.pairwise(edges):
        np.save(tmp_path / f"{start}.npy", gallery[start:end])
        parts.append(np.load(tmp_path / f"{start}.npy", mmap_mode="r"))
    whole = retrieval(queries, labels, gallery=gallery, gallery_labels=gallery_labels, metrics=metrics)
    in_parts = retrieval(queries, labels, gallery=parts, gallery_labels=gallery_labels, metrics=metrics)
    assert in_parts == pytest.approx(whole, rel=1e-6)
    check(in_parts, expect(queries, labels, gallery=gallery, gallery_labels=gallery_labels))


@pytest.mark.parametrize(
    ("shape", "names", "axes"),
    [((4,), "a", AxisType.Auto), ((4,), "a", AxisType.Explicit), ((2, 2), "ab", AxisType.Explicit)],
)
def test_devices_share_the_queries(shape, names, axes):
    (batch, labels), tile = unequal(), 7
    mesh = jax.make_mesh(shape, tuple(names), devices=jax.devices()[:4], axis_types=(axes,) * len(shape))
    assert retrieval(batch, labels, tile=tile, mesh=mesh) == retrieval(batch, labels, tile=tile)
    gallery = {"gallery": [batch[:100], batch[100:]], "gallery_labels": labels}
    assert retrieval(batch, labels, **gallery, mesh=mesh) == retrieval(batch, labels, **gallery)


def test_padding_changes_nothing():
    batch, labels = labelled(23, 5)
    where = np.random.default_rng(0).permutation(np.arange(30) < 23)
    padded, padded_labels = np.full((30, 3), np.nan, np.float32), np.zeros(30, int)
    padded[where], padded_labels[where] = batch, labels
    assert retrieval(padded, padded_labels, where=where) == retrieval(batch, labels)
    scores = mj.evaluation.retrieval_scores(padded, padded_labels, where=where, metrics=["mrr"])["mrr"]
    assert np.isnan(scores[~where]).all()
    with pytest.raises(TypeError, match="where must be boolean"):
        retrieval(batch, labels, where=np.ones(23))
    for wrong in (batch[:1], batch[:, 0]):
        with pytest.raises(ValueError, match=r"embeddings must be \[23, dim\], as where is"):
            retrieval(wrong, labels, where=np.ones(23, bool))
    with pytest.raises(ValueError, match="0 embeddings that count have nothing to be compared with"):
        retrieval(batch, labels, where=np.zeros(23, bool))


def test_an_empty_part_of_a_gallery_is_no_part():
    batch, labels = labelled(20, 3)
    parts = {"gallery": [batch[:7], batch[:0], batch[7:]], "gallery_labels": labels}
    assert retrieval(batch, labels, **parts) == retrieval(batch, labels, gallery=batch, gallery_labels=labels)


def test_scores_of_every_query_and_by_class():
    batch, labels = unequal()
    scores = mj.evaluation.retrieval_scores(batch, labels)
    of_classes = mj.evaluation.by_class(scores, labels)
    assert set(of_classes) == {label for label in labels if np.sum(labels == label) > 1}
    for label, found in of_classes.items():
        assert found["queries"] == np.sum(labels == label)
        mine = np.flatnonzero(labels == label)
        others = {"gallery": np.delete(batch, mine[0], axis=0), "gallery_labels": np.delete(labels, mine[0])}
        expected = expect(batch[mine[:1]], labels[mine[:1]], **others)
        np.testing.assert_allclose(scores["map_at_r"][mine[0]], expected["map_at_r"], rtol=1e-6)
        np.testing.assert_allclose(found["mrr"], scores["mrr"][mine].mean())
    assert np.isnan(scores["mrr"][labels == 0]).all()  # a class of one


def test_intervals_are_around_the_mean_and_widen_with_the_classes():
    batch, labels = unequal()
    found = retrieval(batch, labels, intervals=True)
    assert 0 <= found["map_at_r_low"] < found["map_at_r"] < found["map_at_r_high"] <= 1
    mean, low, high = mj.evaluation.intervals.bootstrap(
        mj.evaluation.retrieval_scores(batch, labels)["map_at_r"], labels
    )
    assert (mean, low, high) == pytest.approx([found[f"map_at_r{end}"] for end in ("", "_low", "_high")])


def test_rows_that_do_not_count_change_no_interval():
    """Neither padding, nor classes of one: each would be a group without a value."""
    batch, labels = labelled(40, 8)
    expected = retrieval(batch, labels, intervals=True, metrics=["mrr"])
    away = np.float32([[90, 0, 0], [0, 90, 0], [0, 0, 90]])  # farther from all than these are from each other
    more, more_labels = np.concatenate([batch, away]), np.r_[labels, 50, 51, 52]
    found = retrieval(more, more_labels, intervals=True, metrics=["mrr"])
    assert found == {**expected, "left_out": 3}
    where = np.arange(43) < 40
    assert retrieval(more, more_labels, intervals=True, metrics=["mrr"], where=where) == expected


def test_one_class_has_no_interval_and_is_told_before_the_search(monkeypatch):
    batch, labels = labelled(9, 2)
    monkeypatch.setitem(retrieval.__globals__, "score_queries", None)
    for one, number in ((labels * 0, 0), (np.r_[np.arange(8), 7], 7)):
        with pytest.raises(
            ValueError, match=f"two classes, and only those of class {number} have .*: leave intervals out"
        ):
            retrieval(batch, one, intervals=True)


def test_a_metric_that_does_not_exist():
    batch, labels = labelled(9, 2)
    for name in ("map@r", "recall@5"):
        with pytest.raises(ValueError, match=rf"unknown metric '{name}': choose of map_at_r, precision@1"):
            retrieval(batch, labels, metrics=(name,))
    with pytest.raises(ValueError, match="no metric is asked for"):
        retrieval(batch, labels, metrics=())
    retrieval(batch[:3], [0, 0, 1], metrics="mrr")  # whatever the default ks are


def test_threads_share_the_queries(monkeypatch, x64):
    batch, labels = unequal()
    batch = batch.astype(np.float64)
    alone = retrieval(batch, labels, tile=16)
    monkeypatch.setattr(scores_module, "THREADED", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert retrieval(batch, labels, tile=16) == alone
    retrieval(batch, labels, tile=200)  # fewer tiles than threads
