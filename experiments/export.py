"""Writes the embedding function of a run into one file that JAX alone can load, on another machine too.

    python experiments/export.py --workdir=runs/faces --out=faces.jaxexport

The file is a serialized `jax.export` artefact: images, ``[n, height, width, channels]`` uint8 with n of 1 or more, to
embeddings, ``[n, dim]`` float32, with the parameters in it, for CPU, CUDA and TPU. Beside it, faces.json says what to
do with them: the threshold, the shape of the images, the distance. To use it takes jax and flatbuffers, and not this
project:

    import json, pathlib, jax
    embed = jax.export.deserialize(bytearray(pathlib.Path("faces.jaxexport").read_bytes())).call
    about = json.loads(pathlib.Path("faces.json").read_text())
    one, other = embed(images)                                  # two images, [2, *about["image_shape"]] uint8
    is_same = jax.numpy.linalg.norm(one - other) <= about["threshold"]      # if about["distance"] is "euclidean"

Photos become images as in training, by Pillow, whose other ways to resize move embeddings and so break the threshold:

    import numpy as np
    from PIL import Image, ImageOps

    def read(path):
        height, width, channels = about["image_shape"]
        image = ImageOps.exif_transpose(Image.open(path)).convert("L" if channels == 1 else "RGB")
        box, ratio = None, width / height
        if about["crop"]:
            wide, high = min(image.width, image.height * ratio), min(image.height, image.width / ratio)
            left, upper = (image.width - wide) / 2, (image.height - high) / 2
            box = (left, upper, left + wide, upper + high)
        return np.asarray(image.resize((width, height), Image.Resampling.BOX, box)).reshape(about["image_shape"])

    images = np.stack([read("one.jpg"), read("other.jpg")])

Such a file holds a program: load only what you trust. JAX promises to load it for six months at least.
"""

import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np
from absl import flags
from jax import export

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a script sees its own folder alone

from experiments import command
from metric_jax import files
from metric_jax.training import Run, RunError, calibration, folders, open_run

PLATFORMS = ("cpu", "cuda", "tpu")
EXPORT, DESCRIPTION = ".jaxexport", ".json"


def main(workdir: str, out: str, *, checkpoint: int | str | None = None) -> None:
    """Writes the function and its description.

    Args:
        workdir: The folder of a run that evaluate.py has been over.
        out: The file, NAME.jaxexport, say; the description beside it is NAME.json.
        checkpoint: The step of the checkpoint, or "best"; the newest by default.
    """
    path = pathlib.Path(out)
    if path.is_dir() or not path.parent.is_dir():
        raise RunError(f"--out={out} is no file in a folder that there is: name one")
    description = path.with_name(path.name.removesuffix(EXPORT) + DESCRIPTION)
    if path.suffix == DESCRIPTION:
        raise RunError(f"--out={out} is what the description is to be called: choose another ending")
    if description.exists() and not _describes(description):
        raise RunError(
            f"--out={out} would replace {description}, which describes no export: choose another name"
        )
    run = open_run(workdir, checkpoint)
    threshold = calibration.of_run(run.folder, step=run.step, distance=run.distance)
    serialized = serialize(run)
    try:
        files.replace(path, serialized)
        folders.write_json(description, {**threshold._asdict(), **_input(run), "platforms": PLATFORMS})
    except OSError as error:
        raise RunError(f"cannot write --out={out}: {error.strerror}") from error
    print(
        f"{path} ({len(serialized) / 2**20:.1f} MB) and {description}: step {run.step}, for {', '.join(PLATFORMS)}"
    )


def _input(run: Run) -> dict[str, Any]:
    """What of the way from a photo to the input the shape of the images and the crop do not say."""
    return {"channels": run.image_shape[2], "resize": "box"}


def _describes(path: pathlib.Path) -> bool:
    """Whether a file is the description of an export."""
    try:
        return "platforms" in json.loads(path.read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def serialize(run: Run) -> bytes:
    """The embedding function of a run, its parameters within, for any number of images."""
    parameters = jax.device_get(run.parameters)  # no longer those of particular devices

    @jax.jit
    def embed(images: jax.Array) -> jax.Array:
        return run.function(*parameters, images)

    (n,) = export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((n, *run.image_shape), np.uint8)
    return bytes(export.export(embed, platforms=PLATFORMS)(images).serialize())


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "The folder of the run.")
    CHECKPOINT = command.define_checkpoint()
    OUT = flags.DEFINE_string("out", None, "The file to write.")
    command.start(
        "export", lambda: main(WORKDIR.value, OUT.value, checkpoint=CHECKPOINT.value), usage=__doc__
    )
