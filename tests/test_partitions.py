import json

import numpy as np
import pytest
import scripts
from small_run import DIGITS, SMALL, folder_of_classes

from experiments import partitions, sweep
from experiments.compare_measures import accuracy
from metric_jax import euclidean, training
from metric_jax.data import Images, datasets
from metric_jax.training import NonFiniteError, RunError, StoppedError


def test_every_partition_is_trained_and_measured_beside_the_baselines(tmp_path):
    small = [*SMALL, *folder_of_classes(tmp_path / "classes"), "batch.classes=6"]
    options = [f"--set={setting}" for setting in small]
    told = scripts.run(
        "partitions", f"--config={DIGITS}", f"--workdir={tmp_path}", "--partitions=2", *options
    )
    assert told.code == 0
    assert (tmp_path / "partitions.md").read_text() == told.out
    rows = {row["name"]: row for row in json.loads((tmp_path / "partitions.json").read_text())["rows"]}
    assert list(rows) == ["network", "raw pixels", "PCA", "LDA"]
    for partition in (0, 1):
        home = next(tmp_path.glob(f"*/seed{partition}"))
        results = json.loads((home / "results.json").read_text())
        for name, prefix in (("network", ""), ("raw pixels", "baseline_")):
            found = rows[name]["map_at_r"]["values"][partition]
            assert found == pytest.approx(results[f"{prefix}map_at_r"], abs=1e-5)
    values = rows["PCA"]["eer"]["values"]
    assert f"| {np.mean(values):.3f} ± {sweep.half_interval(values):.3f} |" in told.out


def images(rows, labels):
    """Images of a pixel row each."""
    return Images(np.asarray(rows, np.uint8)[:, None, :, None], np.asarray(labels, np.int32))


def test_pca_keeps_what_varies_and_lda_what_tells_classes_apart():
    """The first pixel varies most, and the second tells a class."""
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    rows = np.stack(
        [generator.uniform(0, 250, 200), 100 + 20 * labels + generator.uniform(0, 4, 200)], axis=1
    )
    of_rows = images(rows, labels)
    principal, fisher = (fit(of_rows)(of_rows)[:, 0] for fit in (partitions.by_pca, partitions.by_lda))
    assert abs(np.corrcoef(principal, rows[:, 0])[0, 1]) > 0.99
    assert abs(np.corrcoef(fisher, labels)[0, 1]) > 0.97
    np.testing.assert_array_equal(
        partitions.by_pixels(of_rows)(of_rows), of_rows.images[:, 0, :, 0] / np.float32(255)
    )


def test_what_is_measured_of_points_on_a_line():
    """Genuine pairs are 1, 1, 1 and 2 apart, one of six impostors 2: the ROC is a line from (0, 3/4) to (1/6, 1)."""
    rows, labels = np.array([[0.0], [1.0], [2.0], [4.0], [5.0]], np.float32), np.array([0, 0, 0, 1, 1])
    found = accuracy(rows, labels, euclidean, fars=(0.2,))
    assert found["recall@1"] == 1
    assert found["tar@far=0.2"] == 1
    assert found["eer"] == pytest.approx(0.1)  # 1/4 (1 - 6 FAR) = FAR
    assert not any(key.startswith("relative") for key in found)
    with pytest.raises(
        RunError, match=r"this test set is too small: an FAR of 0\.01 is not resolvable with 6"
    ):
        accuracy(rows, labels, euclidean, fars=(0.01,))


def test_what_is_measured_relative_to_a_cohort():
    """The ROC goes through (1/4, 0), (1/4, 1/2) and (1/2, 1)."""
    rows, labels = np.array([[0.0], [4.0], [5.0], [8.0]], np.float32), np.array([0, 0, 1, 1])
    cohort = np.repeat(np.array([[-7.0], [11.0]], np.float32), 10, axis=0)  # at 7, 7, 6 and 3 from the rows
    found = accuracy(rows, labels, euclidean, fars=(0.3, 0.5), cohort=cohort)
    # genuine: 4 - 7, 3 - 4.5; impostors: 5 - 6.5, 8 - 5, 1 - 6.5, 4 - 5
    assert found["relative_tar@far=0.5"] == 1
    assert found["relative_tar@far=0.3"] == 0.5  # that of an FAR that was measured, not 0.6 between two
    assert found["relative_eer"] == pytest.approx(0.25 + 0.25 / 3)


@pytest.mark.parametrize(
    ("count", "settings", "told"),
    [
        (0, [], "--partitions must be at least 1, got 0"),
        (1, ["steps=1,2"], "--set takes one value of each key here"),
        (1, ["seed=3"], "--set=seed=3: the seed of a run and of its split is the partition's number"),
        (1, ["steps=1", "data.split_seed=3"], "--set=data.split_seed=3: the seed of a run and of its split"),
        (1, ["loss.name=suppcon_loss"], "did you mean 'supcon_loss'"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_trained(tmp_path, count, settings, told):
    with pytest.raises(RunError) as error:
        partitions.main(str(tmp_path / "none"), DIGITS, count, settings)
    assert told in str(error.value)
    assert not (tmp_path / "none").exists()


@pytest.fixture
def cheap(monkeypatch):
    """Baselines are not measured, and a set is not read."""
    known, unseen = (
        Images(np.zeros((2, 1, 1, 1), np.uint8), first + np.arange(2, dtype=np.int32)) for first in (0, 2)
    )
    monkeypatch.setattr(datasets, "load", lambda **_: (known, unseen))
    monkeypatch.setattr(partitions, "BASELINES", {})


def test_a_network_that_diverges_is_told(cheap, monkeypatch, tmp_path):
    def train(config, workdir):
        raise NonFiniteError("stopped at step 3: the loss is nan")

    monkeypatch.setattr(training, "train_and_evaluate", train)
    with pytest.raises(RunError, match=r"the network of .*seed0 diverged"):
        partitions.main(str(tmp_path), DIGITS, 1)


def test_T3_sigterm_ends_it(cheap, monkeypatch, tmp_path, capsys):
    def train(config, workdir):
        raise StoppedError("stopped by SIGTERM after step 3")

    monkeypatch.setattr(training, "train_and_evaluate", train)
    assert partitions.main(str(tmp_path), DIGITS, 1) == 143
    assert "partitions: stopped by SIGTERM after step 3" in capsys.readouterr().err


def test_a_split_that_is_always_the_same_makes_no_partitions(tmp_path):
    with pytest.raises(RunError, match=r"data\.split='own' draws no partitions: set it to 'class'"):
        partitions.main(str(tmp_path), "configs/mnist.py", 2)
