import json

import numpy as np
import pytest
import scripts
from PIL import Image
from small_run import DIGITS, SMALL, folder_of_classes

from experiments import compare, compare_figure, sweep
from experiments import compare_measures as measures
from metric_jax import euclidean, training
from metric_jax.data import sources
from metric_jax.training import NonFiniteError, RunError, StoppedError

# --- what is measured -------------------------------------------------------------------------------------------------


def test_geometry_by_loops_over_pairs():
    generator = np.random.default_rng(0)
    labels = np.repeat([3, 5, 9], [4, 2, 3]).astype(np.int32)
    rows = (generator.normal(size=(9, 2)) + labels[:, None] / 4).astype(np.float32)
    d = [[float(np.hypot(*(x - y))) for y in rows] for x in rows]
    same = [[j for j in range(9) if labels[j] == labels[i] and j != i] for i in range(9)]
    other = [[j for j in range(9) if labels[j] != labels[i]] for i in range(9)]
    positives = [d[i][j] > min(d[i][n] for n in other[i]) for i in range(9) for j in same[i]]
    negatives = [d[i][j] < max(d[i][p] for p in same[i]) for i in range(9) for j in other[i]]
    gaps = [min(d[i][n] for n in other[i]) - max(d[i][p] for p in same[i]) for i in range(9)]
    centres = {k: rows[labels == k].mean(axis=0) for k in (3, 5, 9)}
    between = [np.hypot(*(centres[a] - centres[b])) for a, b in ((3, 5), (3, 9), (5, 9))]
    within = [np.mean([np.hypot(*(x - centres[k])) for x in rows[labels == k]]) for k in (3, 5, 9)]
    found = measures.geometry(rows, labels, euclidean)
    assert 0 < np.mean(positives) < 1
    assert 0 < np.mean(negatives) < 1
    assert found == pytest.approx(
        {
            "spread": np.mean(within) / np.mean(between),
            "hard_positives": np.mean(positives),
            "hard_negatives": np.mean(negatives),
            "gap": np.mean(gaps) / np.mean([d[i][j] for i in range(9) for j in other[i]]),
        },
        rel=1e-4,
    )


def test_classes_are_taken_whole_until_there_are_enough():
    digits = sources.digits()
    some = measures.some_classes(digits, most=600)
    assert len(set(some.labels)) == 3
    for label in set(some.labels):
        assert np.sum(some.labels == label) == np.sum(digits.labels == label)
    assert len(measures.some_classes(digits, most=1)) > 300  # two classes, for less means nothing
    assert len(measures.some_classes(digits)) == len(digits)


def test_a_patch_moves_those_who_wear_one():
    """Embeddings are two pixels, under either patch; a patch blackens one of them, 0.6 bright."""
    images = np.full((40, 20, 20, 1), 153, np.uint8)
    images[::2] = 102
    worn = measures.with_eyepatches(images, probability=0.5, seed=0)
    again = measures.with_eyepatches(images, probability=0.5, seed=0)
    np.testing.assert_array_equal(worn, again)
    wears = (worn != images).any(axis=(1, 2, 3))
    assert 8 < wears.sum() < 32
    assert set(np.unique(worn)) == {0, 102, 153}
    whole = sources.Images(images, (np.arange(40) % 2).astype(np.int32))

    def embed(images):
        return images[:, 8, [6, 13], 0].astype(np.float32) / 255

    found = measures.everything(embed, whole, whole, worn=worn, distance=euclidean)
    moved = [0.4 if i % 2 == 0 else 0.6 for i in range(40) if wears[i]]
    assert found["eyepatch_shift"] == pytest.approx(np.mean(moved) / np.hypot(0.2, 0.2), rel=1e-3)
    assert found["map_at_r"] == 1.0
    assert found["eyepatch_map_at_r"] < 0.9
    assert found["spread"] == found["trained_spread"] == pytest.approx(0.0, abs=1e-6)


# --- the script -------------------------------------------------------------------------------------------------------


def test_the_script_trains_measures_draws_and_does_not_train_twice(tmp_path, monkeypatch):
    options = [f"--workdir={tmp_path}", "--losses=contrastive:margin=0.5", "--seeds=3", f"--config={DIGITS}"]
    options += [f"--set={setting}" for setting in (*SMALL, *folder_of_classes(tmp_path / "classes"))]
    done = scripts.run("compare", *options)
    assert done.code == 0, done.err
    assert done.out == (tmp_path / "compare.md").read_text()
    told = json.loads((tmp_path / "compare.json").read_text())
    assert (told["config"], told["trained_on"]["classes"], told["tested_on"]["classes"]) == ("digits", 6, 6)
    pixels, untrained, row = told["rows"]
    assert [each["name"] for each in told["rows"]] == ["raw pixels", "untrained", "contrastive:margin=0.5"]
    run = tmp_path / "contrastive_margin=0.5" / "seed3"
    config = json.loads((run / "config.json").read_text())
    assert (config["loss"]["name"], config["loss"]["margin"]) == ("batch_contrastive_loss", 0.5)
    assert (config["seed"], config["data"]["split_seed"], config["batch"]["classes"]) == (3, 3, 6)
    results = json.loads((run / "results.json").read_text())
    assert row["map_at_r"]["values"] == pytest.approx([results["map_at_r"]], abs=1e-5)
    assert pixels["recall@1"]["mean"] == pytest.approx(results["baseline_recall@1"], abs=1e-5)
    assert 0 < untrained["trained_spread"]["mean"] < 2
    with Image.open(tmp_path / "compare.png") as image:
        assert image.width > 1000
    monkeypatch.setattr(training.loop, "_build", None)  # would fail if it were called
    monkeypatch.setattr(measures, "everything", lambda *_, **__: {"map_at_r": 0.5})
    monkeypatch.setattr(compare_figure, "draw", lambda told: None)
    monkeypatch.setattr(compare_figure, "save", lambda figure, path: None)
    assert "| 0.500" in scripts.run("compare", *options).out


@pytest.fixture
def measured(monkeypatch):
    """Nothing is trained; the MAP@R follows from loss and seed."""

    def train(config, workdir):
        if (config.loss.name, config.seed) == ("supcon_loss", 2):
            raise NonFiniteError("stopped at step 3: the loss is nan")
        if config.seed == 7:
            raise StoppedError("stopped by SIGTERM after step 3")
        return {}

    class Opened:
        distance = euclidean

        def __init__(self, home, data):
            self.embed = home

    def everything(embed, train, test, *, worn, distance):
        seed = int(str(embed)[-1]) if str(embed)[-1].isdigit() else 0
        return {
            "map_at_r": (0.5 if "supcon" in str(embed) else 0.4) + seed / 10 * (1 + ("sup" in str(embed)))
        }

    monkeypatch.setattr(training, "train_and_evaluate", train)
    monkeypatch.setattr(compare, "open_run", Opened)
    monkeypatch.setattr(compare, "before", lambda config, sets: {"map_at_r": 0.25})
    monkeypatch.setattr(measures, "everything", everything)
    monkeypatch.setattr(compare_figure, "draw", lambda told: None)
    monkeypatch.setattr(compare_figure, "save", lambda figure, path: None)


def test_differences_are_seed_by_seed(measured, tmp_path, capsys):
    assert compare.main(str(tmp_path), DIGITS, ["contrastive", "supcon"], [0, 1, 2, 3]) == 0
    told = json.loads((tmp_path / "compare.json").read_text())
    supcon = told["rows"][3]
    assert (supcon["seeds"], supcon["diverged"]) == ([0, 1, 3], [2])
    assert supcon["map_at_r_difference"]["values"] == pytest.approx([0.1, 0.2, 0.4])
    half = sweep.half_interval([0.1, 0.2, 0.4])
    out = capsys.readouterr().out
    assert f"| {7 / 30:.3f} ± {half:.3f} |" in out
    assert "| 3, 1 diverged |" in out
    assert "MAP@R less that of contrastive, seed by seed" in out


def test_T3_sigterm_ends_a_comparison(measured, tmp_path, capsys):
    assert compare.main(str(tmp_path), DIGITS, ["supcon"], [0, 7, 1]) == 143
    assert "compare: stopped by SIGTERM after step 3" in capsys.readouterr().err
    assert json.loads((tmp_path / "compare.json").read_text())["rows"][2]["seeds"] == [0]


@pytest.mark.parametrize(
    ("losses", "seeds", "settings", "told"),
    [
        (["supcon"], [0, 0], [], "--seeds must name different seeds, got 0, 0"),
        ([], [0], [], "--losses must name different losses, got none"),
        (["supcon", "supcon"], [0], [], "--losses must name different losses, got supcon, supcon"),
        (["suppcon_loss"], [0], [], "did you mean 'supcon_loss'"),
        (["supcon:margin=1"], [0], [], "supcon_loss has no margin"),
        (["supcon:margn=1"], [0], [], "unknown config key 'loss.margn'"),
        (["supcon:0.5"], [0], [], "'0.5' must be KEY=VALUE"),
        (["supcon"], [0], ["steps=1,2"], "--set takes one value of each key here"),
        (
            ["supcon"],
            [0],
            ["loss.name=npairs_loss"],
            "--set=loss.name=npairs_loss: that is what --losses says",
        ),
        (["supcon"], [0], ["data.split_seed=7"], "--set=data.split_seed=7: that is what --seeds says here"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_trained(tmp_path, losses, seeds, settings, told):
    with pytest.raises(RunError) as error:
        compare.main(str(tmp_path / "none"), DIGITS, losses, seeds, settings)
    assert told in str(error.value)
    assert not (tmp_path / "none").exists()


def test_a_share_of_eyepatches_is_a_share(tmp_path):
    with pytest.raises(RunError, match="--eyepatch must be a share"):
        compare.main(str(tmp_path), DIGITS, ["supcon"], [0], eyepatch=1.5)


def test_the_faces_are_compared_where_they_are(tmp_path):
    path, settings = compare.chosen("auto", str(tmp_path), ["steps=3"])
    assert path.endswith("configs/faces.py")
    assert settings == [f"data.root={tmp_path}", "steps=3"]
    assert compare.public(settings) == ["steps=3"]
    assert compare.chosen("mine.py", str(tmp_path), ["steps=3"]) == ("mine.py", ["steps=3"])


def test_faces_that_are_not_there_are_told(monkeypatch, tmp_path):
    with pytest.raises(
        RunError, match=r"there is no folder --faces=nowhere: --config=configs/digits\.py compares"
    ):
        compare.chosen(compare.AUTO, "nowhere", [])
    monkeypatch.chdir(tmp_path)
    assert compare.chosen(compare.AUTO, compare.FOLDER, [])[0].endswith("digits.py")
    (tmp_path / compare.FOLDER).mkdir(parents=True)
    assert compare.chosen(compare.AUTO, compare.FOLDER, ["a=1"])[1] == [f"data.root={compare.FOLDER}", "a=1"]


def test_strangers_are_none_who_are_trained_on():
    config = sweep.load(DIGITS)
    with pytest.raises(RunError, match="10 of the 10 classes to test on are trained on"):
        compare.parted(config, 0)
    config.data.split, config.data.test_fraction = "class", 0.5
    config.data.rotations = True
    _, train, test = compare.parted(config, 0)
    assert (len(set(train.labels)), len(set(test.labels))) == (20, 5)


def test_strangers_are_known_by_their_names(monkeypatch):
    """Where classes are texts, either split of a TFDS set numbers its own from 0."""
    labels = np.arange(8, dtype=np.int32) // 2
    sets = [
        sources.Images(np.zeros((8, 2, 2, 1), np.uint8), labels, class_names=tuple(names))
        for names in ("abcd", "efgh")
    ]
    config = sweep.load(DIGITS)
    for train in (sets[0], sources.with_mirrors(sets[0])):
        monkeypatch.setattr(compare.datasets, "load", lambda train=train, **_: (train, sets[1]))
        assert compare.parted(config, 0)[1:] == (train, sets[1])
        monkeypatch.setattr(compare.datasets, "load", lambda train=train, **_: (train, sets[0]))
        with pytest.raises(RunError, match="4 of the 4 classes to test on are trained on"):
            compare.parted(config, 0)


@pytest.mark.parametrize(
    ("sampler", "together"), [("hard_classes", "neighbours"), ("hierarchical", "super_classes")]
)
def test_a_batch_of_few_classes_is_one_that_its_sampler_can_draw(sampler, together):
    config = sweep.load(DIGITS)
    config.data.split, config.data.test_fraction = "class", 0.5
    config.batch.update(sampler=sampler, classes=8, **{together: 3 if sampler == "hard_classes" else 4})
    assert compare.parted(config, 0)[0].batch.classes == 4  # of the five that are trained on


def test_a_seed_of_few_classes_leaves_the_batches_of_the_next_alone(monkeypatch):
    config = sweep.load(DIGITS)
    config.batch.classes = 4
    for seed, there in enumerate((3, 5)):
        labels = np.arange(there, dtype=np.int32)
        sets = [
            sources.Images(np.zeros((there, 1, 1, 1), np.uint8), labels + of, labels.astype(str))
            for of in (0, 10)
        ]
        monkeypatch.setattr(compare.datasets, "load", lambda sets=sets, **_: sets)
        assert compare.parted(config, seed)[0].batch.classes == min(4, there)
