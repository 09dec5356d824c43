"""What a report shows is so: pairs, neighbours, projections, rows of metrics, thumbnails, names in figures."""

import base64
import importlib
import importlib.machinery
import io
import re
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
import references_reports
from PIL import Image
from small_report import small_run

from metric_jax.evaluation.pairs import Compared, all_pairs, compare
from metric_jax.reports import embedding_map, figures, metrics, panels, projector, thumbnails
from metric_jax.reports.examples import NEIGHBOURS, PAIRS, Answers, hardest
from metric_jax.reports.run import checked

ONE = checked([small_run()])[0]


def pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


# --- what there is to see -----------------------------------------------------------------------------------


def test_hardest_pairs_are_the_worst(x64):
    for found, expected in zip(
        hardest(ONE), references_reports.hardest(ONE.embeddings, ONE.labels, PAIRS), strict=True
    ):
        assert [(pair.first, pair.second) for pair in found] == [(a, b) for a, b, _ in expected]
        np.testing.assert_allclose([pair.distance for pair in found], [d for *_, d in expected], rtol=1e-5)


@pytest.mark.parametrize("right", [True, False])
def test_answers_are_the_nearest_images(right):
    lonely = ONE._replace(labels=np.where(np.arange(24) == 3, 99, ONE.labels))
    answers = Answers(lonely)
    nearest = [references_reports.neighbours(ONE.embeddings, query, NEIGHBOURS) for query in range(24)]
    queries = [q for q in range(24) if q != 3 and (lonely.labels[nearest[q][0]] == lonely.labels[q]) == right]
    assert answers.count(right=right) == len(queries) > 0
    sample = answers.sample(right=right)
    assert sample
    for answer in sample:
        assert answer.query in queries
        assert [neighbour.image for neighbour in answer.neighbours] == nearest[answer.query]
        for neighbour in answer.neighbours:
            assert neighbour.is_right == (lonely.labels[neighbour.image] == lonely.labels[answer.query])


def test_pca_is_scikit_learns_up_to_scale():
    from sklearn.decomposition import PCA

    found = embedding_map.projections(ONE, np.arange(24))[0].points
    expected = PCA(2, svd_solver="full").fit_transform(ONE.embeddings)
    assert np.corrcoef(found.T, expected.T)[:2, 2:] == pytest.approx(np.eye(2), abs=1e-3)
    assert np.ptp(found[:, 0]) / np.ptp(found[:, 1]) == pytest.approx(
        np.ptp(expected[:, 0]) / np.ptp(expected[:, 1]), rel=1e-3
    )


@pytest.mark.parametrize(("n", "neighbours"), [(24, 15), (12, 11)])
def test_umap_where_it_is_installed(monkeypatch, n, neighbours):
    """A stand-in with the part of umap-learn 0.5's interface that is used."""
    asked = []

    class Umap:
        def __init__(self, **options):
            asked.append(options)

        def fit_transform(self, rows):
            asked.append(rows)
            return rows[:, :2] + 100

    module = types.ModuleType("umap")
    module.__spec__, module.UMAP = importlib.machinery.ModuleSpec("umap", None), Umap
    monkeypatch.setitem(sys.modules, "umap", module)
    shown = np.arange(n)
    found = embedding_map.projections(ONE, shown)
    assert [projection.title for projection in found] == ["PCA", "t-SNE", "UMAP"]
    assert asked[0] == {"n_neighbors": neighbours, "random_state": 0, "n_jobs": 1}
    np.testing.assert_allclose(np.diff(asked[1], axis=0), np.diff(ONE.embeddings[:n], axis=0), atol=1e-5)
    assert np.corrcoef(found[2].points.T, ONE.embeddings[:n, :2].T)[:2, 2:].diagonal() == pytest.approx(1)
    assert np.abs(found[2].points).max() == pytest.approx(1)


@pytest.mark.parametrize("scale", [0, 1e-25])
def test_of_what_is_as_good_as_one_point_there_is_a_pca_alone(scale):
    """t-SNE would divide by a deviation of 0, and end the process."""
    point = ONE._replace(embeddings=(scale * ONE.embeddings).astype(np.float32))
    assert [projection.title for projection in embedding_map.projections(point, np.arange(24))] == ["PCA"]


def test_without_umap_there_is_none(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert [projection.title for projection in embedding_map.projections(ONE, np.arange(24))] == [
        "PCA",
        "t-SNE",
    ]


def test_figures_show_the_pairs_that_were_measured_on():
    some = Compared(*(x[::3] for x in compare(ONE.embeddings, all_pairs(ONE.labels))))
    other = small_run("other", seed=1)
    for runs in ([ONE._replace(compared=some), other], [other, ONE._replace(compared=some)]):
        found = panels.compare(runs)
        np.testing.assert_array_equal(found.is_same, some.is_same)
        assert not found.are_all
        for run, distances in zip(runs, found.distances, strict=True):
            expected = np.linalg.norm(run.embeddings[some.first] - run.embeddings[some.second], axis=1)
            np.testing.assert_allclose(distances, expected, rtol=1e-5)
    every = panels.compare([ONE])
    assert (len(every.is_same), every.are_all) == (276, True)


def test_the_histogram_marks_every_threshold():
    lines = {}
    distances, is_same = np.arange(20.0), np.arange(20) < 8

    def draw(ax, theme):
        figures.histogram(distances, is_same, metrics.thresholds(ONE), ax, theme)
        lines.update({line.get_label(): float(line.get_xdata()[0]) for line in ax.get_lines()})
        assert len({line.get_linestyle() for line in ax.get_lines()}) == 2

    figures.png(draw, figures.THEMES["light"])
    assert lines == {"most accurate threshold": 1.5, "threshold for FAR 0.01": 1.25}


@pytest.mark.parametrize(("n", "most"), [(5, 5), (100, 7), (1000, 100)])
def test_points_are_chosen_evenly_and_always_the_same(n, most):
    labels = np.random.default_rng(0).integers(5, size=n)
    chosen = embedding_map.choose(labels, most)
    assert len(set(chosen.tolist())) == most
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, embedding_map.choose(labels, most))
    shares = np.bincount(labels[chosen], minlength=5) / most
    np.testing.assert_allclose(shares, np.bincount(labels, minlength=5) / n, atol=1.01 / most)


def test_rows_of_metrics():
    low = small_run(
        "low", metrics={"eer": 0.3, "recall@1": 0.2, "recall@1_low": 0.1, "recall@1_high": 0.3, "steps": 5}
    )
    high = small_run("high", metrics={"eer": 0.2, "recall@1": 0.8, "recall@1_low": 0.7, "recall@1_high": 0.9})
    eer, recall, steps = metrics.rows([low, high])
    assert (eer.title, recall.title, steps.title) == ("EER", "Recall@1", "steps")
    assert (eer.is_score, recall.is_score, steps.is_score) == (True, True, False)
    assert (eer.verdict, recall.verdict) == ("better", "better, intervals apart")
    assert [row.verdict for row in metrics.rows([high, low])[:2]] == ["worse", "worse, intervals apart"]
    near = low._replace(metrics=low.metrics | {"recall@1": 0.28, "recall@1_high": 0.75})
    assert metrics.rows([high, near])[1].verdict == "worse, intervals overlap"
    assert recall.difference == pytest.approx(0.6)
    assert steps.runs[1].value is None
    assert steps.difference is None


@pytest.mark.parametrize(
    ("key", "value", "is_score"),
    [
        ("recall@1", 0.5, True),
        ("new", 0.5, True),
        ("new", 1.5, False),
        ("threshold", 0.5, False),
        ("threshold@far=0.01", 0.5, False),
        ("left_out", 0, False),
    ],
)
def test_a_score_is_a_share_that_raw_pixels_have_too(key, value, is_score):
    (row,) = metrics.rows([small_run(metrics={key: value, f"baseline_{key}": value})])
    assert (row.is_score, row.runs[0].baseline) == (is_score, value)


# --- images and files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("shape", "side", "small"), [((40, 20), 10, (10, 5)), ((3, 90), 9, (1, 9)), ((5, 4), 9, (5, 4))]
)
def test_shrink_keeps_the_aspect_and_never_enlarges(shape, side, small, channels):
    found = thumbnails.shrink(np.full((*shape, channels), 77, np.uint8), side)
    assert found.shape == (*small, channels)
    assert (found == 77).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_data_uri_is_exact_for_drawings_and_small_for_photos(channels):
    drawing = np.zeros((64, 64, channels), np.uint8)
    drawing[20:30] = 255
    assert thumbnails.data_uri(drawing).startswith("data:image/png")
    np.testing.assert_array_equal(pixels(thumbnails.data_uri(drawing)).reshape(drawing.shape), drawing)
    photo = np.random.default_rng(0).integers(256, size=(64, 64, channels), dtype=np.uint8)
    assert thumbnails.data_uri(photo).startswith("data:image/jpeg")


def test_security_projector_texts_stay_in_their_cell():
    files = dict(projector.files([ONE._replace(names=["a\tb\nc\r\x85\u2028d"] * 24, name='"} x: {\n\\é')]))
    lines = files["metadata.tsv"].decode().splitlines()
    assert len(lines) == 25
    assert lines[1].split("\t")[1:] == ["a b c d"]
    quoted = re.search(rb'tensor_name: "(.*)"\n', files["projector_config.pbtxt"])[1].decode()
    assert '"' not in quoted.replace("\\042", "")
    assert (
        re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), quoted).encode("latin-1").decode() == '"} x: {\n\\é'
    )


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("Zoë", "Zoë"),
        ("字\n\ud800", "???"),
        ("$x^$", "$x^$"),
        ("a" * 29, "a" * 27 + "…"),
        ("a" * 28, "a" * 28),
    ],
)
def test_figures_draw_names_as_far_as_the_font_can(name, drawn):
    rows = metrics.rows([small_run(name)])
    texts = []

    def draw(ax, theme):
        figures.scores(rows, [name], ax, theme)
        texts.extend(text.get_text() for text in ax.get_legend().get_texts())

    figures.png(draw, figures.THEMES["dark"])  # a glyph that is missing would be a warning
    assert texts == [drawn, "raw pixels"]


def test_a_number_of_any_kind_is_shown():
    numbers = [0.5, np.float32(0.5), np.array(0.5), jnp.float32(0.5), jnp.array(0.5)]
    assert [metrics.number(number) for number in numbers] == [0.5] * 5
    assert metrics.number(np.int64(3)) == 3.0
    assert [metrics.number(other) for other in (None, "0.5", np.nan, [0.5], np.ones(2))] == [None] * 5
