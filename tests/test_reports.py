"""The report says what is so, holds all it needs, and lets no name become markup or a path."""

import base64
import hashlib
import html.parser
import io
import json
import re

import numpy as np
import pytest
import references_reports
from PIL import Image
from small_report import CLASS_NAMES, HOSTILE, small_run

import metric_jax as mj
from metric_jax import reports
from metric_jax.reports import embedding_map, figures, metrics, projector, thumbnails
from metric_jax.reports.examples import NEIGHBOURS, PAIRS, Answers, hardest
from metric_jax.reports.run import checked

ONE = checked([small_run()])[0]
OTHER = small_run('<i>two</i> \\" $x^$ \ud800 字', seed=1, distance=mj.cosine)


class Page(html.parser.HTMLParser):
    """A page taken apart as a browser does: elements, and the text of each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts, self.scripts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "source", "input", "br"):
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self.open[-1:] != ["style"]:
            self.texts.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def data(self):
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder that stands around a report of two runs, and the paths that were said to be written."""
    around = tmp_path_factory.mktemp("around")
    return around, reports.write(
        around / "in" / "report", [small_run(), OTHER], title=HOSTILE[1], projector=True
    )


@pytest.fixture(scope="module")
def page(written):
    return Page(written[1][0].read_text(encoding="utf-8"))


def pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


# --- what is written ----------------------------------------------------------------------------------------


def test_security_nothing_is_written_but_the_files_it_names(written):
    around, paths = written
    assert {path for path in around.rglob("*") if path.is_file()} == set(paths)
    assert [str(path.relative_to(around / "in" / "report")) for path in paths] == [
        "report.html",
        "metrics.png",
        "training_loss.png",
        "training_map_at_r.png",
        "distances_1.png",
        "distances_2.png",
        "roc.png",
        "det.png",
        "projector/sprite.png",
        "projector/metadata.tsv",
        "projector/tensors.tsv",
        "projector/tensors2.tsv",
        "projector/projector_config.pbtxt",
    ]


def test_figures_are_png_files(written):
    for path in written[1]:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.format == "PNG"


def test_security_a_link_in_a_files_place_is_replaced_and_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("dear")
    folder = tmp_path / "report"
    folder.mkdir()
    for name in ("report.html", "report.html.tmp", "roc.png"):
        (folder / name).symlink_to(victim)
    # constant embeddings, RGB images, a log without a line: none of that is a reason not to report
    flat = small_run(channels=3, history=[], metrics={}, embeddings=np.ones((24, 1), np.float16))
    assert len(reports.write(folder, [flat])) == 4
    assert victim.read_text() == "dear"
    assert not (folder / "report.html").is_symlink()
    assert Page((folder / "report.html").read_text()).data["projections"][0]["x"] == [0.0] * 24


# --- the page -----------------------------------------------------------------------------------------------


def test_security_names_are_text_and_never_markup(page):
    text = " ".join(page.texts)
    for name in [*HOSTILE, *CLASS_NAMES.values(), '<i>two</i> \\" $x^$ \\ud800 字']:
        assert name in text
    assert not page.open  # every element was closed by its own end
    assert not page.of("b") + page.of("i")
    assert len(page.scripts) == 3
    for _, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on")]
    assert page.data["names"][1] == f"{HOSTILE[1]} 1"
    assert page.data["classes"] == list(CLASS_NAMES.values())


def test_security_only_the_pages_own_scripts_may_run(page):
    policy = next(a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in page.scripts[1:]]
    assert rules["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert page.of("script")[0]["type"] == "application/json"


def test_page_needs_nothing_but_itself(page):
    for tag, attributes in page.elements:
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            assert re.match("data:image/|#", attributes.get(key, "#")), (tag, key)
    targets = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {a["href"].removeprefix("#") for a in page.of("a")} <= targets


def test_page_is_accessible(page):
    assert page.of("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert max(np.diff(levels)) == 1
    assert all("alt" in image for image in page.of("img"))
    assert all(cell.get("scope") in ("col", "row") for cell in page.of("th"))
    labelled = {label.get("for") for label in page.of("label")}
    assert {select["id"] for select in page.of("select")} <= labelled
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_table_shows_values_intervals_baselines_and_differences(page):
    text = re.sub(r"\s+", " ", " ".join(page.texts))
    assert re.search(r"MAP@R 0\.5000 0\.4000 – 0\.6000 0\.5000 0\.4000 – 0\.6000 \+0\.0000 0\.3000", text)
    assert "TAR at FAR 0.001 – – – –" in text
    assert re.search(r"EER lower is better 0\.2500", text)
    assert "seconds 12.34" in text


def test_comparison_counts_queries(page):
    def is_right(run):
        rows = run.embeddings.astype(np.float64)
        if run.distance is mj.cosine:
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        nearest = [references_reports.neighbours(rows, query, 1)[0] for query in range(len(rows))]
        return run.labels[nearest] == run.labels

    first, second = is_right(ONE), is_right(OTHER)
    text = re.sub(r"\s+", " ", " ".join(page.texts))
    counts = re.search(r"both runs (\d+) only one (\d+) only .+? (\d+) neither (\d+)", text).groups()
    expected = (first & second, first & ~second, ~first & second, ~first & ~second)
    assert [int(count) for count in counts] == [which.sum() for which in expected]
    assert len({which.sum() for which in expected}) > 2  # or they could be exchanged unseen


def test_sheet_holds_each_points_image(page):
    sheet = pixels(next(image["src"] for image in page.of("img") if image.get("id") == "map-sheet"))
    sprite = page.data["sprite"]
    assert (sprite["width"], sprite["height"]) == (14, 12)
    for index in range(24):
        row, column = divmod(index, sprite["columns"])
        middle = sheet[row * sprite["height"] + 6, column * sprite["width"] + 7]
        assert middle == pytest.approx(10 * index, abs=4)


def test_map_offers_the_projections_of_both_runs(page):
    titles = [projection["title"] for projection in page.data["projections"]]
    assert [title.rpartition(": ")[2] for title in titles if not title.endswith("UMAP")] == [
        "PCA",
        "t-SNE",
    ] * 2
    for projection in page.data["projections"]:
        assert np.abs([projection["x"], projection["y"]]).max() == pytest.approx(1)


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


def test_projector_files_agree(written):
    folder = written[1][-1].parent
    tensors = np.loadtxt(folder / "tensors.tsv", delimiter="\t")
    np.testing.assert_allclose(tensors, ONE.embeddings, rtol=1e-6)
    np.testing.assert_allclose(
        np.loadtxt(folder / "tensors2.tsv", delimiter="\t"), OTHER.embeddings, rtol=1e-6
    )
    lines = (folder / "metadata.tsv").read_text().splitlines()
    assert lines[0] == "class\tname"
    assert lines[1:] == [
        f"{CLASS_NAMES[label]}\t{name}" for label, name in zip(ONE.labels, ONE.names, strict=True)
    ]
    config = (folder / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "tensors2.tsv"' in config
    assert config.count("single_image_dim: 14\n    single_image_dim: 12\n") == 2
    with Image.open(folder / "sprite.png") as image:
        assert image.size == (5 * 14, 5 * 12)


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


# --- misuse -------------------------------------------------------------------------------------------------

BAD = [
    (
        {"images": np.zeros((24, 8, 8), np.uint8)},
        ValueError,
        r"images must be \[n, height, width, channels\] uint8",
    ),
    ({"images": np.zeros((24, 8, 8, 2), np.uint8)}, ValueError, "1 or 3 channels"),
    ({"images": np.zeros((24, 8, 8, 1), np.float32)}, ValueError, "uint8"),
    ({"images": np.zeros((0, 8, 8, 1), np.uint8)}, ValueError, "not empty"),
    ({"labels": np.zeros(23, int)}, ValueError, "labels must be an integer for each of the 24 images"),
    ({"labels": np.zeros(24)}, ValueError, "labels must be an integer"),
    ({"labels": np.zeros(24, int)}, ValueError, "24 images of 1 classes"),
    ({"labels": np.arange(24)}, ValueError, "24 images of 24 classes"),
    ({"names": ["x"]}, ValueError, "names must be one for each of the 24 images, got 1"),
    ({"embeddings": np.zeros((24, 0), np.float32)}, ValueError, r"embeddings must be floating \[n, dim\]"),
    ({"embeddings": np.zeros((24, 2), int)}, ValueError, "embeddings must be floating"),
    (
        {"embeddings": np.where(np.arange(24) == 5, np.nan, 0.0)[:, None]},
        ValueError,
        r"NaN or infinity in row 5 \(1 rows",
    ),
    ({"distance": "euclidean"}, TypeError, "distance must be a metric_jax Distance"),
    ({"distance": mj.cosine_similarity}, ValueError, "distance must be a distance"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD)
def test_run_that_does_not_fit_is_named(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        reports.write(tmp_path, [small_run(**changes)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "one or two reports.Run, got 0"),
        ([ONE] * 3, "one or two reports.Run, got 3"),
        (ONE, "one or two reports.Run, got Run"),
        ([ONE, ONE], "both runs are called 'one'"),
        ([ONE, small_run("two", labels=ONE.labels[::-1])], "differ in their labels"),
        ([ONE, small_run("two", names=ONE.names[::-1])], "differ in their names"),
        ([ONE, small_run("two", images=ONE.images[::-1])], "differ in their images"),
    ],
)
def test_runs_that_cannot_be_compared_are_named(tmp_path, runs, message):
    with pytest.raises(ValueError, match=message):
        reports.write(tmp_path, runs)


def test_class_without_a_name_is_called_by_its_number():
    assert ONE._replace(class_names={}).class_of(0) == "7"
