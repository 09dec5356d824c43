import json
import pathlib

import numpy as np
import pytest
import scripts

from experiments import hard_examples

ROOT = pathlib.Path(__file__).parent.parent
HELD = pytest.mark.parametrize("held", [("A1",), ()], ids=["anchor stands still", "all three move"])
BOTH = pytest.mark.parametrize("scenario", list(hard_examples.SCENARIOS))


def order(run, step):
    """d(A1, C) - d(A1, A2) - margin: positive once the triplet is in order."""
    return run.distance("A1", "C", step) - run.distance("A1", "A2", step) - hard_examples.TRIPLET_MARGIN


def test_the_scenarios_are_what_they_are_called():
    negative, positive = (hard_examples.run(s, "contrastive") for s in ("hard negative", "hard positive"))
    assert negative.distance("A1", "C", 0) < 0.5 < negative.distance("A1", "A2", 0)
    assert (
        positive.distance("A1", "A2", 0) > positive.distance("A1", "C", 0) > hard_examples.CONTRASTIVE_MARGIN
    )


@HELD
def test_contrastive_loss_leaves_the_hard_positives_c_exactly_where_it_is(held):
    run = hard_examples.run("hard positive", "contrastive", held)
    assert np.all(run.gradients[:, 2] == 0.0)
    assert np.all(run.path[:, 2] == run.path[0, 2])


@HELD
@BOTH
def test_contrastive_loss_pulls_until_a2_lies_on_a1(scenario, held):
    run = hard_examples.run(scenario, "contrastive", held)
    assert run.distance("A1", "A2", -1) < 1e-3


def test_contrastive_loss_pushes_the_hard_negative_to_the_margin_and_no_farther():
    run = hard_examples.run("hard negative", "contrastive")
    assert run.distance("A1", "C", -1) == pytest.approx(hard_examples.CONTRASTIVE_MARGIN, abs=0.01)


@HELD
@BOTH
def test_triplet_loss_moves_c_away_and_stops_once_the_order_is_right(scenario, held):
    run = hard_examples.run(scenario, "triplet", held)
    away = (run.path[0, 2] - run.path[0, 0]) @ -run.gradients[0, 2]
    assert away > 0
    assert run.distance("A1", "C", -1) > run.distance("A1", "C", 0) + 0.1
    assert 0.1 < run.distance("A1", "A2", -1) < run.distance("A1", "A2", 0)
    steps = range(len(run.path))
    wrong = [order(run, step) <= 0 for step in steps]
    assert wrong[0]
    assert not wrong[-1]
    # It moves exactly as long as the order is wrong. At the corner itself float32 decides, not this float64 sum.
    for step in steps:
        if abs(order(run, step)) > 1e-5:
            assert run.gradients[step].any() == wrong[step]
    still = wrong.index(False)
    assert np.all(run.path[still:] == run.path[still])


def test_a_positive_that_is_stuck_blocks_contrastive_loss_but_not_triplet_loss():
    stuck = {loss: hard_examples.run("hard positive", loss, ("A1", "A2")) for loss in hard_examples.LOSSES}
    assert np.all(stuck["contrastive"].path == stuck["contrastive"].path[0])
    assert order(stuck["contrastive"], -1) < 0
    assert stuck["contrastive"].losses[-1] == stuck["contrastive"].losses[0] > 0
    assert np.all(stuck["triplet"].path[:, :2] == stuck["triplet"].path[0, :2])
    assert order(stuck["triplet"], -1) > 0
    assert stuck["triplet"].losses[-1] == 0


def test_gradients_are_those_of_the_textbook():
    """Against derivatives taken by hand: 2(x - y) and -2 (m - d)(x - y) / d of pairs, unit vectors of triplets."""
    for scenario, start in hard_examples.SCENARIOS.items():
        a1, a2, c = np.array(start)

        def pair(x, y, same):
            d = np.linalg.norm(x - y)
            return 2 * (x - y) if same else -2 * max(0, hard_examples.CONTRASTIVE_MARGIN - d) * (x - y) / d

        by_hand = np.array(
            [
                pair(a1, a2, True) + pair(a1, c, False),
                pair(a2, a1, True) + pair(a2, c, False),
                pair(c, a1, False) + pair(c, a2, False),
            ]
        )
        contrastive = hard_examples.run(scenario, "contrastive").gradients[0]
        np.testing.assert_allclose(contrastive, by_hand, atol=1e-6)

        to_a2, to_c = ((x - a1) / np.linalg.norm(x - a1) for x in (a2, c))
        triplet = hard_examples.run(scenario, "triplet").gradients[0]
        np.testing.assert_allclose(triplet, [to_c - to_a2, to_a2, -to_c], atol=1e-6)


def test_it_writes_the_figure_and_the_numbers_and_prints_the_table(tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    hard_examples.main(str(out))
    assert (out / "hard_examples.png").read_bytes().startswith(b"\x89PNG")
    assert 20_000 < (out / "hard_examples.png").stat().st_size < 200_000
    found = json.loads((out / "hard_examples.json").read_text())
    assert found["margins"] == {"contrastive": 1.0, "triplet": 0.35}
    assert [(r["scenario"], r["loss"], r["held"]) for r in found["runs"]] == [
        ("hard negative", "contrastive", ["A1"]),
        ("hard negative", "triplet", ["A1"]),
        ("hard positive", "contrastive", ["A1"]),
        ("hard positive", "triplet", ["A1"]),
        ("hard positive", "contrastive", ["A1", "A2"]),
        ("hard positive", "triplet", ["A1", "A2"]),
    ]
    for r in found["runs"]:
        for moment in (r["start"], r["end"]):
            p = moment["positions"]
            assert moment["distances"]["A2-C"] == pytest.approx(
                np.hypot(*np.subtract(p["A2"], p["C"])), rel=1e-6
            )
            assert set(moment["gradients"]) == {"A1", "A2", "C"}
            assert moment["loss"] >= 0
    assert found["runs"][2]["start"]["gradients"]["C"] == [0.0, 0.0]
    printed = capsys.readouterr().out
    assert printed.count("hard positive") == 8
    assert str(out) in printed


def test_the_readmes_picture_is_the_one_this_script_draws():
    image = pytest.importorskip("PIL.Image")
    with image.open(ROOT / "docs" / "blind_spots.png") as picture:
        readme = np.asarray(picture.convert("RGB"), float)
    figure = hard_examples.draw(hard_examples.all_runs())
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba(), float)[..., :3]
    assert readme.shape == drawn.shape
    assert np.mean(np.abs(readme - drawn)) < 2.0  # fonts and rounding may differ a little, the story may not


def test_an_argument_that_is_no_flag_is_one_line(tmp_path):
    done = scripts.run("hard_examples", f"--out={tmp_path / 'out'}", "story")
    assert done.code == "hard_examples: unknown argument 'story': flags begin with --"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["a file", "below a file"])
def test_a_folder_that_cannot_be_written_is_one_line_and_an_error(kind, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("keep me")
    out = taken if kind == "a file" else taken / "below"
    done = scripts.run("hard_examples", f"--out={out}")
    assert str(out) in done.code  # what Python prints at the end, and takes for an error
    assert len(done.code.splitlines()) == 1
    assert done.out == done.err == ""
    assert taken.read_text() == "keep me"
