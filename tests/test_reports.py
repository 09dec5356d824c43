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
from metric_jax.evaluation.pairs import Compared, all_pairs, compare
from metric_jax.reports.run import checked

ONE = checked([small_run()])[0]
OTHER = small_run('<i>two</i> \\" $x^$ \ud800 字', seed=1, distance=mj.cosine)


class Page(html.parser.HTMLParser):
    """A page taken apart as a browser does: elements, and the text of each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts, self.scripts = [], [], [], []
        self.captions = []  # every image's alt, with the text before it
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "img" and self.texts:
            self.captions.append(
                (next(text.strip() for text in self.texts[::-1] if text.strip()), dict(attributes)["alt"])
            )
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


def test_the_calibrated_threshold_stands_beside_the_most_accurate_one(page):
    text = re.sub(r"\s+", " ", " ".join(page.texts))
    assert "most accurate threshold 1.5 1.5 threshold for FAR 0.01 1.25 1.25 steps 5 5" in text
    told = [image["alt"] for image in page.of("img") if image["alt"].startswith("Histograms")]
    assert len(told) == 2
    assert all(
        alt.endswith(" The most accurate threshold is 1.5. The threshold for FAR 0.01 is 1.25.")
        for alt in told
    )


def test_marks_say_whether_a_neighbour_is_of_the_querys_class(page):
    label_of = {
        f"{ONE.class_of(i)}, {name}": label
        for i, (name, label) in enumerate(zip(ONE.names, ONE.labels, strict=True))
    }
    seen = set()
    for mark, alt in page.captions:
        if mark == "query":
            query = label_of[alt]
        elif mark in ("✓ right", "✗ wrong"):
            assert (label_of[alt] == query) == (mark == "✓ right")
            seen.add(mark)
    assert len(seen) == 2


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
        assert float(middle) == pytest.approx(10 * index, abs=4)


def test_map_offers_the_projections_of_both_runs(page):
    titles = [projection["title"] for projection in page.data["projections"]]
    assert [title.rpartition(": ")[2] for title in titles if not title.endswith("UMAP")] == [
        "PCA",
        "t-SNE",
    ] * 2
    for projection in page.data["projections"]:
        assert np.abs([projection["x"], projection["y"]]).max() == pytest.approx(1)


# --- misuse -------------------------------------------------------------------------------------------------

PAIRS = compare(ONE.embeddings, all_pairs(ONE.labels))
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
    ({"compared": PAIRS._replace(distances=np.zeros(3))}, ValueError, "one of each for every pair"),
    (
        {"compared": PAIRS._replace(is_same=~PAIRS.is_same)},
        ValueError,
        "compared holds pairs of other labels",
    ),
    ({"compared": PAIRS._replace(distances=PAIRS.distances * np.nan)}, ValueError, "distances hold NaN"),
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
        (
            [ONE._replace(compared=PAIRS), small_run("two", compared=PAIRS._replace(first=PAIRS.second))],
            "compared holds pairs of other labels",
        ),
        (
            [ONE._replace(compared=PAIRS), small_run("two", compared=Compared(*(x[1:] for x in PAIRS)))],
            "compare other pairs: draw them once for both",
        ),
    ],
)
def test_runs_that_cannot_be_compared_are_named(tmp_path, runs, message):
    with pytest.raises(ValueError, match=message):
        reports.write(tmp_path, runs)


def test_class_without_a_name_is_called_by_its_number():
    assert ONE._replace(class_names={}).class_of(0) == "7"
