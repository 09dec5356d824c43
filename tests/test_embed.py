"""experiments/embed.py: every image has its embedding, whatever interrupts, and no other model's is among them."""

import io
import sys

import numpy as np
import pytest
import scripts
import trained_run
from PIL import Image

from experiments import embed
from metric_jax.data import DataError, shards
from metric_jax.training import RunError, open_run


@pytest.fixture(scope="module")
def run():
    return open_run(trained_run.trained())


@pytest.fixture(autouse=True)
def opened_once(run, monkeypatch):
    """Only what opens another checkpoint or other data opens the run again."""

    def cached(workdir, checkpoint=None, *, data=None):
        plain = checkpoint is None and not (data or {}).keys() - {"rotations", "mirrors"}
        return run if plain else open_run(workdir, checkpoint, data=data)

    monkeypatch.setattr(embed, "open_run", cached)


def start(out, **options):
    embed.main(str(trained_run.trained()), str(out), **options)
    return shards.read(out)


@pytest.fixture
def photos(tmp_path):
    """Five photos of two people, of many sizes and kinds."""
    root = tmp_path / "photos"
    for name, mode, side in [
        ("Ada/1.png", "L", 8),
        ("Ada/2.jpg", "RGB", 30),
        ("Ada/3.pgm", "L", 16),
        ("Bob/1.webp", "RGB", 9),
        ("Bob/2.png", "L", 8),
    ]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(side + len(mode)).integers(0, 256, (side, side + 2), dtype=np.uint8)
        Image.fromarray(np.roll(pixels, ord(name[4]))).convert(mode).save(path)
    return root


def test_the_test_set(run, tmp_path, capsys):
    found = start(tmp_path / "out", shard=150)
    test = run.load_data()[1]
    assert [len(shard) for shard in found.shards] == [150, 150, 59]
    np.testing.assert_allclose(np.concatenate(found.shards), run.embed(test.images), atol=1e-5)
    assert found.ids.tolist() == test.ids.tolist()
    np.testing.assert_array_equal(found.labels, test.labels)
    assert found.class_names == tuple("0123456789")
    told = capsys.readouterr()
    assert told.out == f"359 embeddings of 359 images in 3 shards in {tmp_path / 'out'}\n"
    lines = told.err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["image 150/359", "image 300/359", "image 359/359"]
    assert all("images/s" in line and "ETA" in line for line in lines)


def test_the_training_set_and_data_set_by_flags(tmp_path):
    found = start(tmp_path / "out", part="train", data={"split": "class", "test_fraction": 0.6})
    assert len(set(found.labels)) == 4
    assert 600 < len(found.ids) < 800


def test_turned_and_mirrored_images_are_not_embedded(tmp_path):
    """They are classes made for training."""
    found = start(tmp_path / "out", part="train", data={"rotations": True, "mirrors": True})
    assert len(set(found.labels)) == 10


def test_a_folder_with_classes_or_without(run, photos, tmp_path):
    found = start(tmp_path / "out", images=str(photos), shard=2)
    assert found.ids.tolist() == ["Ada/1.png", "Ada/2.jpg", "Ada/3.pgm", "Bob/1.webp", "Bob/2.png"]
    assert found.labels.tolist() == [0, 0, 0, 1, 1]
    assert found.class_names == ("Ada", "Bob")
    read = np.stack([run.read_image(photos / name) for name in found.ids])
    np.testing.assert_allclose(np.concatenate(found.shards), run.embed(read), atol=1e-5)
    flat = start(tmp_path / "flat", images=str(photos / "Ada"))
    assert (flat.ids.tolist(), flat.labels.tolist()) == (["1.png", "2.jpg", "3.pgm"], [-1] * 3)
    assert flat.class_names == ()
    np.testing.assert_allclose(flat.shards[0], np.concatenate(found.shards)[:3], atol=1e-5)


def test_who_was_interrupted_goes_on(run, photos, tmp_path, monkeypatch, capsys):
    whole = {path.name: path.read_bytes() for path in files_of(tmp_path / "whole", photos)}

    def interrupted(folder, number, *rest):
        if number == 1:
            (folder / "embeddings-00001.npy.tmp").write_bytes(b"half of it")
            raise KeyboardInterrupt
        return write(folder, number, *rest)

    write = shards.write
    monkeypatch.setattr(shards, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "out", images=str(photos), shard=2)
    monkeypatch.setattr(shards, "write", write)
    with pytest.raises(DataError, match="holds 1 of 3 shards"):
        shards.read(tmp_path / "out")
    first = (tmp_path / "out/embeddings-00000.npy").stat()
    capsys.readouterr()
    assert {path.name: path.read_bytes() for path in files_of(tmp_path / "out", photos)} == whole
    assert (tmp_path / "out/embeddings-00000.npy").stat().st_mtime_ns == first.st_mtime_ns
    assert capsys.readouterr().err.startswith("going on: 1 of 3 shards are there\nimage 4/5  ")


def files_of(out, photos):
    start(out, images=str(photos), shard=2)
    return sorted(out.iterdir())


def test_shards_of_another_model_or_of_other_images_are_refused(photos, tmp_path):
    out = tmp_path / "out"
    start(out, images=str(photos))
    with pytest.raises(
        DataError, match=r"made otherwise, with another model \(.*\), step \(12 there, 8 here\)"
    ):
        start(out, images=str(photos), checkpoint=8)
    with pytest.raises(DataError, match=r"with another shard \(2048 there, 3 here\): choose"):
        start(out, images=str(photos), shard=3)
    with pytest.raises(DataError, match=r"holds embeddings of other images \("):
        start(out)
    (photos / "Bob/3.png").write_bytes((photos / "Ada/1.png").read_bytes())
    with pytest.raises(DataError, match=r"holds embeddings of other images \("):
        start(out, images=str(photos))


def test_a_run_trained_anew_is_another_model_though_its_step_is_the_same(run, photos, tmp_path):
    other = trained_run.copy(tmp_path / "run")
    changed = max(
        (other / "checkpoints/12").rglob("*"), key=lambda path: path.stat().st_size * path.is_file()
    )
    changed.write_bytes(changed.read_bytes() + b"x")
    moved = type("Moved", (), {"folder": other, "step": 12})
    assert embed.digest_of_checkpoint(moved) != embed.digest_of_checkpoint(run)
    changed.write_bytes(changed.read_bytes()[:-1])
    assert embed.digest_of_checkpoint(moved) == embed.digest_of_checkpoint(run)


def test_T7_one_report_of_all_that_is_wrong_before_its_shard_is_written(photos, tmp_path, capsys):
    (photos / "Ada/2.jpg").write_text("hello")
    (photos / "Bob/2.png").write_bytes(b"")
    out = tmp_path / "out"
    with pytest.raises(DataError) as caught:
        start(out, images=str(photos), shard=1)
    assert str(caught.value).splitlines() == [
        f"2 of what is in {photos} cannot be used: mend or remove them, or leave them out with --skip_bad",
        "  'Ada/2.jpg': not a JPEG, PNG, WebP, PGM, PPM or BMP file",
        "  'Bob/2.png': an empty file",
    ]
    assert [path.name for path in sorted(out.glob("*.npy"))] == ["embeddings-00000.npy"]
    capsys.readouterr()
    found = start(out, images=str(photos), shard=1, skip_bad=True)
    assert found.ids.tolist() == ["Ada/1.png", "Ada/3.pgm", "Bob/1.webp"]
    assert [len(shard) for shard in found.shards] == [1, 0, 1, 1, 0]
    told = capsys.readouterr()
    assert "3 embeddings of 5 images, 2 left out in 5 shards" in told.out
    assert "'Ada/2.jpg': not a JPEG" in told.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": 0}, "--shard must be at least 1, got 0"),
        (
            {"images": "x", "part": "train"},
            "--images is a folder of its own: leave --part and --data, or --images",
        ),
        ({"images": "x", "data": {"size": 8}}, "--images is a folder of its own"),
        ({"images": "/nowhere"}, "folder of images /nowhere is not there: say with --images"),
        ({"images": ""}, "--images is empty"),
        ({"skip_bad": True}, "--skip_bad is for --images: for the run's data, say --data.skip_bad=True"),
    ],
)
def test_flags_that_do_not_fit(tmp_path, options, message):
    with pytest.raises((RunError, DataError), match=message):
        start(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_to(photos, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=f"cannot write to {tmp_path / 'file/out'}: "):
        start(tmp_path / "file/out", images=str(photos))


def test_a_bar_on_a_terminal(photos, tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    start(tmp_path / "out", images=str(photos))
    assert "embedding: 100%" in terminal.getvalue()
    assert "ETA" not in terminal.getvalue()


def test_the_command(photos, tmp_path):
    command = ["embed", f"--workdir={trained_run.trained()}", f"--out={tmp_path}/out"]
    done = scripts.run(*command, f"--images={photos}", "--shard=3")
    assert done.code == 0, done.err
    assert done.out == f"5 embeddings of 5 images in 2 shards in {tmp_path}/out\n"
    assert [line.split()[:2] for line in done.err.splitlines()] == [["image", "3/5"], ["image", "5/5"]]
    wrong = scripts.run(*command, "--data.nmae=mnist")
    assert wrong.code == 2
    assert len(wrong.err.splitlines()) == 1, wrong.err
    assert "nmae" in wrong.err


def test_a_gallery_knows_what_was_made_of_its_images(photos, tmp_path):
    found = start(tmp_path / "out", images=str(photos))
    assert (found.made_with["image_shape"], found.made_with["crop"]) == ([8, 8, 1], False)
