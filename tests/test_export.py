"""experiments/export.py: what it writes is used by JAX alone, in a process that never heard of this project."""

import json
import os
import pathlib
import re
import runpy
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
import trained_run
from flax import nnx
from jax import export as jax_export
from PIL import Image, ImageOps

from experiments import export
from metric_jax import models
from metric_jax.data import decoding
from metric_jax.training import RunError, calibration, choices, open_run, state
from metric_jax.training.step import make_embed

# As the script's docstring says it is done.
PROGRAM = """
import json, pathlib, sys
import jax
import numpy as np
folder = pathlib.Path(sys.argv[1])
embed = jax.export.deserialize(bytearray((folder / "digits.jaxexport").read_bytes())).call
about = json.loads((folder / "digits.json").read_text())
images = np.load(folder / "images.npy", allow_pickle=False)
assert images.shape[1:] == tuple(about["image_shape"])
np.save(folder / "embeddings.npy", np.asarray(embed(images)))
np.save(folder / "one.npy", np.asarray(embed(images[:1])))
one, other = embed(images[:2])
print(bool(jax.numpy.linalg.norm(one - other) <= about["threshold"]))
foreign = {"metric_jax", "flax", "optax", "orbax", "grain"} & {name.partition(".")[0] for name in sys.modules}
assert not foreign, foreign
"""


@pytest.fixture
def calibrated(tmp_path):
    folder = trained_run.copy(tmp_path / "run")
    (folder / "evaluation").mkdir()
    threshold = calibration.Threshold(0.01, 0.25, 0.009, 0.9, "euclidean", 1000, 12, (8, 8, 1), False)
    calibration.save(folder, threshold)
    return folder


def test_jax_alone_embeds_as_the_run_does_any_number_of_images(calibrated, tmp_path, capsys):
    export.main(str(calibrated), str(tmp_path / "digits.jaxexport"))
    assert "step 12, for cpu, cuda, tpu" in capsys.readouterr().out
    run = open_run(calibrated)
    images = run.load_data()[1].images[:37]
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    expected = run.embed(images)
    found, one = (np.load(tmp_path / name, allow_pickle=False) for name in ("embeddings.npy", "one.npy"))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one, expected[:1], rtol=1e-4, atol=1e-5)
    assert done.stdout.strip() == str(bool(np.linalg.norm(expected[0] - expected[1]) <= 0.25))
    about = json.loads((tmp_path / "digits.json").read_text())
    assert about == {
        "far": 0.01,
        "threshold": 0.25,
        "measured_far": 0.009,
        "tar": 0.9,
        "distance": "euclidean",
        "impostors": 1000,
        "step": 12,
        "image_shape": [8, 8, 1],
        "crop": False,
        "cohort": "",
        "channels": 1,
        "resize": "box",
        "platforms": ["cpu", "cuda", "tpu"],
    }
    artefact = jax_export.deserialize(bytearray((tmp_path / "digits.jaxexport").read_bytes()))
    assert artefact.platforms == ("cpu", "cuda", "tpu")
    assert artefact.nr_devices == 1
    assert not list(tmp_path.glob("*.tmp"))


def reader():
    """The function of the docstring that reads a photo, as text."""
    return textwrap.dedent(export.__doc__[export.__doc__.index("    def read(") :].partition("\n\n")[0])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("size", [(61, 83), (70, 35)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_photo_is_read_as_the_docstring_says(channels, crop, size, orientation, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    held = Image.Exif()
    held[decoding.ORIENTATION] = orientation
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", exif=held)
    (tmp_path / "read.py").write_text(f"{reader()}\nfound = read(photo)\n")
    given = {"np": np, "Image": Image, "ImageOps": ImageOps, "photo": tmp_path / "photo.jpg"}
    given["about"] = {"image_shape": [24, 16, channels], "crop": crop}
    found = runpy.run_path(str(tmp_path / "read.py"), given)["found"]
    expected = decoding.decode((tmp_path / "photo.jpg").read_bytes(), (24, 16), channels, crop=crop)
    np.testing.assert_array_equal(found, expected)


def test_the_page_on_data_reads_photos_as_the_docstring_does():
    page = (pathlib.Path(__file__).parent.parent / "docs" / "data.md").read_text()
    assert reader() in re.sub(r"^(>>>|\.\.\.) ", "", page, flags=re.MULTILINE)


@pytest.mark.parametrize("name", models.MODELS)
def test_every_network_takes_a_number_of_images_that_is_not_known_yet(name):
    graphdef, state = nnx.split(nnx.eval_shape(lambda: models.MODELS[name]((32, 32, 3), rngs=nnx.Rngs(0))))
    (n,) = jax_export.symbolic_shape("n")
    found = jax.eval_shape(
        lambda state, images: nnx.merge(graphdef, state)(images, train=False),
        state,
        jax.ShapeDtypeStruct((n, 32, 32, 3), np.float32),
    )
    assert found.shape[0] == n


@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("nowhere/digits.jaxexport", "is no file in a folder that there is"),
        ("run", "is no file in a folder that there is"),
        ("digits.json", "is what the description is to be called"),
        ("run/config.jaxexport", "would replace .*config.json, which describes no export"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_anything_is_done(calibrated, tmp_path, out, told):
    with pytest.raises(RunError, match=told):
        export.main(str(calibrated), str(tmp_path / out))


def test_a_folder_is_no_file():
    with pytest.raises(RunError, match=r"--out=\. is no file in a folder that there is"):
        export.main("nowhere", ".")


def test_an_embedding_of_several_views_takes_a_number_of_images_that_is_not_known_yet():
    graphdef, params, rest = state.part(models.ConvNet((8, 8, 1), width=4, dim=4, blocks=1, rngs=nnx.Rngs(0)))
    embed = make_embed(graphdef, views=3, mirrored=True, augment=choices.augmentation(rotate=9.0, cutout=0.3))
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    (n,) = jax_export.symbolic_shape("n")
    exported = jax_export.export(jax.jit(lambda images: embed(params, rest, None, images)))(
        jax.ShapeDtypeStruct((n, 8, 8, 1), np.uint8)
    )
    np.testing.assert_allclose(exported.call(images), embed(params, rest, None, images), rtol=1e-4, atol=1e-5)


def test_a_run_without_a_threshold_is_not_exported(tmp_path):
    with pytest.raises(RunError, match="has no threshold yet: calibrate one"):
        export.main(str(trained_run.trained()), str(tmp_path / "digits.jaxexport"))
    assert not list(tmp_path.iterdir())
