import json

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import metric_jax as mj
from metric_jax import data
from metric_jax.models import ConvNet
from metric_jax.training import RunError, calibration, devices, evaluate, state

IMAGES = data.Images(
    np.random.default_rng(0).integers(0, 256, size=(21, 8, 8, 1), dtype=np.uint8),
    np.arange(21, dtype=np.int32) % 5,
)


@pytest.fixture(scope="module")
def model():
    return ConvNet((8, 8, 1), width=4, dim=4, blocks=1, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def created(model):
    return state.create(model, optax.sgd(0.1), jax.random.key(0))


def evaluator(graphdef, batch_size, mesh=None, distance=mj.euclidean):
    mesh = mesh or devices.mesh(8)
    return evaluate.Evaluator(graphdef, IMAGES, distance=distance, batch_size=batch_size, mesh=mesh)


@pytest.mark.parametrize("batch_size", [1, 8, 10, 21, 64])
def test_embeddings_do_not_depend_on_how_they_are_batched(model, created, batch_size):
    graphdef, params = created
    expected = model(IMAGES.images / np.float32(255), train=False)
    found = evaluator(graphdef, batch_size).embed(params)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_glance_is_of_a_single_view(model, created):
    graphdef, params = created
    options = {"distance": mj.euclidean, "batch_size": 8, "mesh": devices.mesh(8)}
    evaluates = evaluate.Evaluator(
        graphdef, IMAGES, **options, views=2, mirrored=True, augment=lambda images, key: 1 - images
    )
    single = model(IMAGES.images / np.float32(255), train=False)
    np.testing.assert_allclose(evaluates.glance(params, IMAGES), single, rtol=1e-4, atol=1e-6)
    assert np.abs(evaluates.embed(params) - single).max() > 1e-3


def test_one_shape_is_compiled(created, compilations):
    graphdef, params = created
    evaluates = evaluator(graphdef, 8)
    evaluates.embed(params)
    before = compilations()
    evaluates.embed(params)
    assert compilations() == before


def test_metrics_are_those_of_retrieval(model, created):
    graphdef, params = created
    embeddings = model(IMAGES.images / np.float32(255), train=False)
    expected = mj.evaluation.retrieval(embeddings, IMAGES.labels, ks=(1, 2, 4, 8), distance=mj.cosine)
    found = evaluator(graphdef, 8, distance=mj.cosine)(params)
    assert found.keys() == expected.keys()
    for key in found:
        assert found[key] == pytest.approx(expected[key], rel=1e-6)


def test_a_step_is_evaluated_once(created, monkeypatch):
    graphdef, params = created
    evaluates = evaluator(graphdef, 8)
    first = evaluates(params)
    monkeypatch.setattr(evaluates, "embed", None)
    assert evaluates(params) == first


def test_the_table_shows_each_metric_beside_that_of_raw_pixels():
    raw = {"map_at_r": 0.5, "mrr": 0.4, "queries": 10}
    results = evaluate.beside({"map_at_r": 0.9, "mrr": 0.8, "queries": 10}, raw)
    twins = {"baseline_map_at_r": 0.5, "baseline_mrr": 0.4}
    assert results == {"map_at_r": 0.9, "mrr": 0.8, "queries": 10, **twins}
    rows = [line.split() for line in evaluate.table({**results, "steps": 1000}).splitlines()]
    assert ["map_at_r", "0.9000", "0.5000"] in rows
    assert ["mrr", "0.8000", "0.4000"] in rows
    assert ["steps", "1,000"] in rows


def test_the_table_has_intervals_where_they_are_known():
    results = {"auc": 0.9, "map_at_r": 0.8, "map_at_r_low": 0.75, "map_at_r_high": 0.85, "queries": 10}
    shown = evaluate.table(evaluate.beside(results, {key: value / 2 for key, value in results.items()}))
    rows = [line.split() for line in shown.splitlines()]
    assert rows[0] == "on the test set trained 95 % interval raw pixels".split()
    assert rows[1:] == [
        ["auc", "0.9000", "0.4500"],
        ["map_at_r", "0.8000", "0.7500", "to", "0.8500", "0.4000"],
        ["queries", "10"],
    ]
    assert len({len(line) for line in shown.splitlines()[:3]}) == 1  # the columns stand


# --- all that is measured, and the threshold --------------------------------------------------------------------------

LABELS = np.repeat(np.arange(6, dtype=np.int32), 4)
EMBEDDINGS = np.random.default_rng(1).normal(size=(24, 3)).astype(np.float32) + LABELS[:, None] / 3


def pairs():
    """Distances of all pairs and whether they are genuine, by float64 loops."""
    found = [
        (np.sqrt(np.sum((EMBEDDINGS[i].astype(np.float64) - EMBEDDINGS[j]) ** 2)), LABELS[i] == LABELS[j])
        for i in range(24)
        for j in range(i + 1, 24)
    ]
    return np.array([d for d, _ in found]), np.array([same for _, same in found])


def compared(embeddings=EMBEDDINGS, labels=LABELS, distance=mj.euclidean):
    return evaluate.compared(embeddings, evaluate.draw_pairs(labels), distance=distance)


def assess(embeddings=EMBEDDINGS, labels=LABELS, distance=mj.euclidean, **options):
    found = compared(embeddings, labels, distance)
    return evaluate.assess(embeddings, labels, found, distance=distance, **options)


def test_all_is_measured_in_one_flat_dictionary():
    found = assess()
    distances, is_same = pairs()
    closer = distances[is_same][:, None] < distances[~is_same]
    assert found["auc"] == pytest.approx(closer.mean(), abs=1e-6)
    assert (found["genuine"], found["impostors"], found["clusters"]) == (36, 240, 6)
    for key in (
        "map_at_r",
        "recall@1",
        "5way_1shot",
        "accuracy",
        "auc",
        "eer",
        "tar@far=0.1",
        "tar@far=0.01",
    ):
        assert found[f"{key}_low"] <= found[key] <= found[f"{key}_high"]
    assert {"nmi", "ami", "purity"} <= found.keys()
    assert "tar@far=0.001" not in found
    assert all(isinstance(value, int | float) for value in found.values())


def test_pairs_are_measured_with_intervals_over_their_classes():
    distances, is_same = pairs()
    first, second = np.triu_indices(24, 1)
    subjects = np.stack([LABELS[first], LABELS[second]], axis=1)
    expected = mj.evaluation.verification(distances, is_same, fars=(0.1, 0.03, 0.01), subjects=subjects)
    found = assess(labels=LABELS.astype(np.int64) + 2**40, far=0.03)
    assert expected.items() <= {key: pytest.approx(value, abs=1e-5) for key, value in found.items()}.items()


def test_few_shot_of_as_many_ways_as_there_are_classes():
    assert "20way_1shot" not in assess()
    found = assess(np.repeat(np.eye(20, 4, dtype=np.float32), 3, axis=0), np.repeat(np.arange(20), 3))
    assert found["20way_1shot"] < found["5way_1shot"] < 1  # of the 20 classes, 16 lie in one point


def test_few_shot_is_left_out_where_fewer_than_five_classes_have_two_images():
    some = np.concatenate([np.arange(16), [16, 20]])  # the fifth and the sixth class have one
    found = assess(EMBEDDINGS[some], LABELS[some], distance=mj.cosine)
    assert "5way_1shot" not in found
    assert "map_at_r" in found


@pytest.mark.parametrize(
    ("embeddings", "labels", "told"),
    [
        (np.where(np.arange(24)[:, None] == 7, np.nan, EMBEDDINGS), LABELS, "NaN or infinity in row 7"),
        (EMBEDDINGS, np.zeros(24, np.int32), "1 classes"),
        (EMBEDDINGS, np.arange(24), "24 classes"),
    ],
)
def test_what_cannot_be_measured_is_told(embeddings, labels, told):
    with pytest.raises(RunError, match=f"this test set cannot be evaluated: .*{told}"):
        compared(embeddings, labels)


def test_a_far_that_these_impostors_cannot_resolve_is_told():
    with pytest.raises(
        RunError, match=r"^this test set cannot be evaluated: an FAR of 0\.001 is not resolvable"
    ):
        assess(far=0.001)


def calibrate(far=0.1):
    return calibration.calibrate(
        compared(), far=far, distance=mj.euclidean, step=3, image_shape=(8, 8, 1), crop=False
    )


@pytest.mark.parametrize("far", [1.0, 0.5, 0.1, 1 / 240])
def test_the_threshold_is_the_largest_that_keeps_the_far(far):
    found = calibrate(far=far)
    distances, is_same = pairs()
    allowed = [t for t in distances if np.mean(distances[~is_same] <= t) <= far]
    assert found.threshold == pytest.approx(max(allowed), rel=1e-6)
    assert found.measured_far == pytest.approx(np.mean(distances[~is_same] <= max(allowed)))
    assert found.tar == pytest.approx(np.mean(distances[is_same] <= max(allowed)))
    assert (found.far, found.impostors, found.distance, found.step) == (far, 240, "euclidean", 3)


def test_a_far_that_cannot_be_measured_calibrates_nothing():
    with pytest.raises(RunError, match=r"no threshold can be calibrated: an FAR of 0\.004 is not resolvable"):
        calibrate(far=0.004)


@pytest.mark.parametrize("far", [0.0, -0.1, 1.1, float("nan")])
def test_a_far_out_of_range_is_refused(far):
    with pytest.raises(RunError, match="--far must lie above 0 and be at most 1"):
        calibration.check_far(far)


def test_a_threshold_is_read_as_it_was_saved(tmp_path):
    (tmp_path / "evaluation").mkdir()
    threshold = calibrate()
    calibration.save(tmp_path, threshold)
    assert calibration.of_run(tmp_path, step=3, distance=mj.euclidean) == threshold


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "has no threshold yet: calibrate one with experiments/evaluate.py"),
        ("{", "is not JSON"),
        ("3", "holds no JSON object"),
        ('{"far": 0.01}', "has no number 'threshold'"),
        ('{"far": 0.01, "threshold": NaN}', "has no number 'threshold'"),
        ('{"far": true}', "has no number 'far'"),
        (
            '{"far": 0, "threshold": 0, "measured_far": 0, "tar": 0, "impostors": 0, "step": 0, "image_shape": [8]}',
            "has no 'image_shape' of three numbers",
        ),
        (
            '{"far": 0, "threshold": 0, "measured_far": 0, "tar": 0, "impostors": 0, "step": 0, '
            '"image_shape": [8, 8, 1], "crop": 1}',
            "does not say whether to 'crop'",
        ),
    ],
)
def test_a_threshold_that_is_none_is_told_in_one_line(tmp_path, content, told):
    if content is not None:
        (tmp_path / "evaluation").mkdir()
        (tmp_path / "evaluation" / "threshold.json").write_text(content)
    with pytest.raises(RunError, match=told):
        calibration.read(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        pytest.param(
            "threshold", 10**400, "has no number 'threshold' that is finite: calibrate one", id="huge"
        ),
        ("far", 7, r"has no number 'far' that is in \[0, 1\]: calibrate one with"),
        ("tar", -0.1, r"has no number 'tar' that is in \[0, 1\]"),
        ("step", 1.0, "has no number 'step' that is at least 0"),
        ("impostors", 1.5, "has no number 'impostors' that is at least 0"),
        ("impostors", -1, "has no number 'impostors' that is at least 0"),
        ("image_shape", [8, 0, 1], "has no 'image_shape' of three numbers"),
    ],
)
def test_a_number_out_of_range_is_no_threshold(tmp_path, key, value, told):
    (tmp_path / "evaluation").mkdir()
    written = calibrate()._replace(**{key: value})._asdict()
    (tmp_path / "evaluation" / "threshold.json").write_text(json.dumps(written))
    with pytest.raises(RunError, match=told):
        calibration.read(tmp_path)


def test_a_threshold_of_another_checkpoint_or_distance_is_refused(tmp_path):
    (tmp_path / "evaluation").mkdir()
    calibration.save(tmp_path, calibrate())
    for step, distance in ((4, mj.euclidean), (3, mj.cosine)):
        with pytest.raises(
            RunError, match=f"step 3 and the euclidean distance, and this is step {step} and the"
        ):
            calibration.of_run(tmp_path, step=step, distance=distance)
