"""Runs opened again: as they were, and of those that cannot be opened one clear line."""

import json

import jax
import numpy as np
import pytest
import trained_run
from PIL import Image
from small_run import everything

import metric_jax as mj
from metric_jax.data import DataError, datasets
from metric_jax.training import RunError, calibration, open_run


@pytest.fixture(scope="module")
def run():
    return open_run(trained_run.trained())


@pytest.fixture
def copy(tmp_path):
    return trained_run.copy(tmp_path / "copy")


def test_the_newest_checkpoint_scores_what_the_run_scored(run):
    results = json.loads((run.folder / "results.json").read_text())
    _, test = run.load_data()
    found = mj.evaluation.retrieval(run.embed(test.images), test.labels, distance=run.distance)
    assert run.step == trained_run.STEPS[-1]
    assert run.image_shape == (8, 8, 1)
    assert run.distance is mj.euclidean
    assert run.config["batch"]["classes"] == 4
    for key in ("map_at_r", "precision@1", "mrr"):
        assert found[key] == pytest.approx(results[key], abs=1e-6)


def test_an_older_checkpoint_is_another_model(run):
    older = open_run(run.folder, trained_run.STEPS[0])
    images = run.load_data()[1].images[:3]
    assert older.step == trained_run.STEPS[0]
    assert np.abs(older.embed(images) - run.embed(images)).max() > 1e-3


def test_a_run_embeds_mirror_images_too_if_its_evaluation_does(run, copy):
    images = run.load_data()[1].images[:3]
    sums = run.embed(images) + run.embed(images[:, :, ::-1])
    config = {**run.config, "eval_mirrored": True}
    (copy / "config.json").write_text(json.dumps(config))
    found = open_run(copy).embed(images)
    np.testing.assert_allclose(
        found, sums / np.linalg.norm(sums, axis=1, keepdims=True), rtol=1e-4, atol=1e-5
    )


def test_a_run_embeds_as_many_views_as_its_evaluation_does(run, copy):
    images = run.load_data()[1].images[:3]
    turned = {**run.config["augment"], "rotate": 30.0}
    (copy / "config.json").write_text(json.dumps({**run.config, "eval_views": 5, "augment": turned}))
    found = open_run(copy).embed(images)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    cosines = np.sum(found * run.embed(images), axis=1)
    assert (cosines < 1 - 1e-4).all()
    assert (cosines > 0.5).all()


def test_T1_a_checkpoint_that_is_being_written_is_none(copy):
    checkpoints = copy / "checkpoints"
    (checkpoints / "12").rename(checkpoints / "12.partial")
    before = everything(copy)
    assert open_run(copy).step == 8
    assert everything(copy) == before  # opening a run that trains in another process clears nothing away


@pytest.mark.parametrize("count", [1, 5, 128, 129, 300])
def test_embeddings_do_not_depend_on_how_many_there_are(run, count):
    images = np.concatenate([part.images for part in run.load_data()])
    found = run.embed(images[:count])
    assert found.shape == (count, 8)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, run.embed(images)[:count], rtol=1e-4, atol=1e-6)


def test_sets_of_any_size_beyond_a_batch_compile_one_shape(compilations):
    run = open_run(trained_run.trained())
    images = run.load_data()[0].images
    run.embed(images[:200])
    before = compilations()
    for count in (128, 129, 500):
        run.embed(images[:count])
    assert compilations() == before


def test_the_data_are_read_only_if_nobody_wrote_down_their_shape(copy, monkeypatch):
    (copy / "evaluation").mkdir()
    calibration.save(copy, calibration.Threshold(0.01, 0.5, 0.0, 1.0, "euclidean", 100, 12, (8, 8, 1), False))
    monkeypatch.setattr(datasets, "load", lambda **_: pytest.fail("the data were read"))
    run = open_run(copy)
    assert run.image_shape == (8, 8, 1)
    assert run.embed(np.zeros((2, 8, 8, 1), np.uint8)).shape == (2, 8)


def test_where_data_are_read_the_shape_of_the_images_is_theirs(copy):
    """Whatever size the run was last evaluated with: that is for what reads single images alone."""
    (copy / "evaluation").mkdir()
    threshold = calibration.Threshold(0.01, 0.5, 0.0, 1.0, "euclidean", 100, 12, (9, 11, 1), True)
    calibration.save(copy, threshold)
    one = open_run(copy)
    assert (one.image_shape, one.crop) == ((9, 11, 1), True)
    other = open_run(copy, data={})
    assert (other.image_shape, other.crop) == ((8, 8, 1), False)
    assert other.embed(other.load_data()[1].images[:2]).shape == (2, 8)


def test_other_data_may_take_the_place_of_the_runs_own():
    run = open_run(trained_run.trained(), data={"test_fraction": 0.1})
    assert len(run.load_data()[1]) < 200 < len(open_run(trained_run.trained()).load_data()[1])


def test_history_ends_with_the_checkpoint_and_survives_a_line_cut_off(copy):
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 14, "los')
    assert [line["step"] for line in open_run(copy).history()] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in open_run(copy, 8).history()] == [2, 4, 6, 8]


# --- image files ------------------------------------------------------------------------------------------------------


def test_an_image_becomes_grey_and_of_the_size_of_the_runs_own(run, tmp_path):
    digit = run.load_data()[1].images[0]
    large = np.kron(digit[..., 0], np.ones((4, 4), np.uint8))
    Image.fromarray(np.stack([large] * 3, axis=-1)).save(tmp_path / "colour.png")
    np.testing.assert_array_equal(run.read_image(tmp_path / "colour.png"), digit)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        (b"", "an empty file"),
        (b"this is no image", "not a JPEG, PNG"),
        (b"\x80\x04N.", "not a JPEG, PNG"),  # a pickle
        ("cut off", "truncated"),
    ],
)
def test_an_image_that_cannot_be_read_is_told_by_its_name(run, tmp_path, content, told):
    path = tmp_path / "query.png"
    if content == "cut off":
        Image.fromarray(np.random.default_rng(0).integers(256, size=(64, 64), dtype=np.uint8)).save(path)
        content = path.read_bytes()[:2000]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"cannot read the image .*query\.png: .*{told}") as caught:
        run.read_image(path)
    assert "\n" not in str(caught.value)


def test_no_images_are_refused(run):
    with pytest.raises(RunError, match="is given no image to embed"):
        run.embed(np.zeros((0, 8, 8, 1), np.uint8))


@pytest.mark.parametrize(
    "images", [np.zeros((2, 8, 8, 3), np.uint8), np.zeros((8, 8, 1), np.uint8), np.zeros((2, 8, 8, 1))]
)
def test_images_of_another_shape_or_type_are_refused(run, images):
    with pytest.raises(RunError, match=r"embeds images \[n, 8, 8, 1\] uint8, got"):
        run.embed(images)


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_of_images_is_refused_with_what_makes_one_array_of_it(run, kind):
    images = kind(np.zeros((2, 8, 8, 1), np.uint8))
    with pytest.raises(RunError, match=rf"one array of images, got a {kind.__name__}: give it np\.stack"):
        run.embed(images)


def test_what_was_written_in_the_place_of_a_last_line_is_no_history(copy):
    before = open_run(copy).history()
    with (copy / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 9, \xff\xfe')
    assert open_run(copy).history() == before


# --- runs that cannot be opened ---------------------------------------------------------------------------------------


def change(folder, section, **changes):
    config = json.loads((folder / "config.json").read_text())
    config[section].update(changes)
    (folder / "config.json").write_text(json.dumps(config))


def without(folder, name):
    (folder / name).unlink()


def cut_off(folder):
    for path in (folder / "checkpoints" / "12" / "state").rglob("*"):
        if path.is_file() and path.name != "_METADATA":
            path.write_bytes(path.read_bytes()[:7])


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda f: without(f, "config.json"), "holds no run: it has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json holds no JSON object"),
        (
            lambda f: (f / "config.json").write_text('{"data": {}}'),
            "is not the config of a run: it has no 'model'",
        ),
        (lambda f: (f / "checkpoints").rename(f / "elsewhere"), "has no checkpoint yet"),
        (
            lambda f: change(f, "model", width=4),
            r"architecture: params\.blocks\.0\.conv\.kernel is \[3, 3, 1, 8\]",
        ),
        (
            lambda f: change(f, "model", blocks=1),
            r"architecture: params\.blocks\.1\.conv\.kernel is .* has none",
        ),
        (lambda f: change(f, "model", blocks=3), r"params\.blocks\.2\.conv\.kernel is not in it"),
        (
            lambda f: change(f, "model", norm="group"),
            r"architecture: rest\.blocks\.0\.norm\.mean is .* has none",
        ),
        (lambda f: change(f, "model", name="convnat"), "did you mean 'convnet'"),
        (lambda f: change(f, "model", depth=3), "model 'convnet' refuses its options"),
        (lambda f: change(f, "loss", name="triplett"), "unknown loss.name 'triplett'"),
        (lambda f: change(f, "data", colour=True), "has data.colour, which no data set takes"),
    ],
)
def test_a_run_that_cannot_be_opened_is_told_in_one_line(copy, harm, told):
    harm(copy)
    with pytest.raises(RunError, match=told) as caught:
        open_run(copy)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_is_cut_off_is_told_in_one_line(copy):
    cut_off(copy)
    with pytest.raises(RunError, match=r"checkpoint 12 of .* is not what was saved there") as caught:
        open_run(copy)
    assert "\n" not in str(caught.value)


def test_no_folder_and_a_step_that_is_not_kept(tmp_path):
    with pytest.raises(RunError, match=r"there is no folder .*nowhere: name that of a run"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match="has no checkpoint of step 4: it keeps 8, 12"):
        open_run(trained_run.trained(), 4)
    with pytest.raises(RunError, match="has no checkpoint of step '8': it keeps 8, 12"):
        open_run(trained_run.trained(), "8")
    with pytest.raises(RunError, match=r"data of open_run has data\.siez, which no data set takes: leave it"):
        open_run(trained_run.trained(), data={"siez": 8})


def test_a_run_is_spread_over_all_devices(run):
    kernel = run.parameters[0]["head"]["kernel"]
    assert kernel.sharding.device_set == set(jax.devices())
