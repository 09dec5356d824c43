"""A run that was trained, opened again: its config, its model with the parameters of a checkpoint, its data.

Nothing in the folder of the run is changed, so a run may be opened while it trains.
"""

import contextlib
import functools
import inspect
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
from flax import nnx
from jax.sharding import NamedSharding

from metric_jax import whitening as whitenings
from metric_jax.data import DataError, Images, datasets
from metric_jax.data.listing import NO_CLASS, File, read, reason
from metric_jax.distances import Distance
from metric_jax.training import calibration, choices, devices, evaluate, folders, manifest, stored
from metric_jax.training.errors import RunError
from metric_jax.training.state import part
from metric_jax.training.step import make_embed
from metric_jax.whitening import Whitening

SECTIONS = ("data", "model", "loss")
BEST = "best"  # the checkpoint, rather than its step


class Run:
    """A trained model and what belongs to it; from `open_run`.

    Attributes:
        folder: The run's.
        config: What it was trained with, nested dicts.
        step: That of the checkpoint.
        tested_on: `datasets.ids_digest` of the images that training was not to see; None of an older run.
        image_shape: (height, width, channels) of the images it embeds.
        crop: Whether an image file of another shape is cut to that one rather than squeezed.
        distance: The distance between its embeddings.
        parameters: Those of the model, the rest of its state, and its whitening or None, on all devices.
        function: ``(*parameters, images [n, height, width, channels] uint8) -> embeddings [n, dim]``, to be jitted.
    """

    def __init__(
        self, folder: pathlib.Path, config: dict[str, Any], step: int, data: Mapping[str, Any] | None
    ):
        """Restores the parameters. `open_run` has checked that the folder holds this step."""
        self.folder, self.config, self.step = folder, config, step
        self._asked = data or {}
        self._data_options = {**config["data"], **self._asked}
        self.distance: Distance = choices.distance(
            config["loss"].get("distance"), loss=config["loss"].get("name", "")
        )
        known = _recorded(folder) if data is None else None
        self.image_shape = known.image_shape if known else tuple(self._data[0].images.shape[1:])
        self.crop: bool = known.crop if known else self._data_options.get("crop", False)
        self._mesh = devices.mesh(jax.device_count())
        frozen = config.get("optimizer", {}).get("freeze", ())
        graphdef, wanted = _abstract_model(config["model"], self.image_shape, frozen)
        if config.get("eval_whitening") is not None:
            wanted["whitening"] = jax.eval_shape(lambda: whitenings.none(config["model"]["dim"]))
        saved = _Saved(folder / folders.CHECKPOINTS / str(step), f"checkpoint {step} of {folder}")
        saved.check(wanted, self.image_shape)
        self.parameters = saved.load(wanted, devices.replicated(self._mesh))
        self.tested_on: str | None = saved.notes().get("tested_on")
        views = config.get("eval_views", 1)
        augment = choices.augmentation(**config["augment"]) if views > 1 else None
        mirrored = config.get("eval_mirrored", False)
        self.function = make_embed(graphdef, views=views, mirrored=mirrored, augment=augment)
        self._jitted = devices.jit(self.function)

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Embeds images, some at a time; however many, a set of more than that compiles one shape.

        Args:
            images: ``[n, height, width, channels]`` uint8.

        Returns:
            ``[n, dim]`` float32.

        Raises:
            RunError: Images of another shape or type than the model takes, or none at all.
        """
        if not len(images):
            raise RunError(f"{self.folder} is given no image to embed")
        if not hasattr(images, "dtype"):
            kind = type(images).__name__
            raise RunError(
                f"{self.folder} embeds one array of images, got a {kind}: give it np.stack(images)"
            )
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            takes = ", ".join(map(str, self.image_shape))
            raise RunError(
                f"{self.folder} embeds images [n, {takes}] uint8, got {list(images.shape)} {images.dtype}"
            )
        # A power of two, so that sets of many small sizes compile few shapes.
        size = min(self.config.get("eval_batch", 512), 1 << max(0, len(images) - 1).bit_length())
        size = -(-size // self._mesh.size) * self._mesh.size
        apply = functools.partial(self._jitted, *self.parameters)
        return evaluate.in_batches(apply, images, size=size, mesh=self._mesh)

    def load_data(self) -> tuple[Images, Images]:
        """The (training set, test set) of the run, read once."""
        return self._data

    def history(self) -> list[dict[str, Any]]:
        """What the run wrote down about its steps, up to that of the checkpoint."""
        path = self.folder / folders.METRICS
        found = []
        for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
            with contextlib.suppress(ValueError):  # the last line of a run that goes on may not be whole
                found.append(json.loads(line))
        return [line for line in found if line["step"] <= self.step]

    def read_image(self, path: str | pathlib.Path) -> np.ndarray:
        """An image file as the run's own images are: ``[height, width, channels]`` uint8, grey or colour, resized.

        Raises:
            DataError: The file is missing, no image, or broken.
        """
        height, width, channels = self.image_shape
        file = File(pathlib.Path(path), str(path), NO_CLASS)
        try:
            return read(file, (height, width), channels, crop=self.crop)
        except Exception as error:  # Pillow has many
            raise DataError(f"cannot read the image {path}: {reason(error)}") from error

    @functools.cached_property
    def _data(self) -> tuple[Images, Images]:
        known = inspect.signature(datasets.load).parameters
        for key in self._data_options:
            if key not in known:
                where = "data of open_run" if key in self._asked else self.folder / folders.CONFIG
                raise RunError(f"{where} has data.{key}, which no data set takes: leave it out")
        return datasets.load(**self._data_options)


def open_run(
    workdir: str | pathlib.Path,
    checkpoint: int | str | None = None,
    *,
    data: Mapping[str, Any] | None = None,
) -> Run:
    """Opens a run, finished, interrupted or still going on.

    Args:
        workdir: The run's folder.
        checkpoint: The step of the checkpoint, or "best" for the one that config.best_metric found to be; the newest by
            default.
        data: Keys of ``config.data`` to read other data than the run's own, ``{"data_dir": "elsewhere"}``. The run then
            takes images of the shape that these have, also if no key differs, ``{}``. None: it takes those that its
            threshold was calibrated for, which spares reading the data, or those of its own data if it has none yet.

    Returns:
        The run.

    Raises:
        RunError: The folder is none or holds no run; there is no such checkpoint, it is broken, or its parameters are
            not those of the config's model.
        DataError: The data have to be read to know the shape of the images, and cannot be.
    """
    folder = pathlib.Path(os.path.expanduser(workdir))
    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}: name that of a run, as in --workdir=runs/digits")
    config = _read_config(folder / folders.CONFIG)
    home = folder / folders.CHECKPOINTS
    steps = stored.steps(home)
    if not steps:
        raise RunError(f"{folder} has no checkpoint yet: train on until the first is saved")
    step = stored.best_step(home) if checkpoint == BEST else checkpoint
    if checkpoint == BEST and step is None:
        why = "nothing was evaluated yet" if config.get("best_metric") else "its config names no best_metric"
        raise RunError(f"{folder} has no best checkpoint: {why}")
    step = steps[-1] if step is None else step
    if step not in steps:
        kept = ", ".join(map(str, steps))
        raise RunError(f"{folder} has no checkpoint of step {step!r}: it keeps {kept}")
    return Run(folder, config, step, data)


class _Saved:
    """What a checkpoint holds of a model: read in two steps, so that it is looked at before it is loaded."""

    def __init__(self, path: pathlib.Path, name: str):
        self._path, self._name = path.absolute(), name
        with self._readable():
            manifest.verify(self._path)
            self._state = ocp.metadata(self._path, stored.STATE).metadata
            self._shapes = stored.describe(_evaluated(self._state))

    def check(self, wanted: dict[str, Any], image_shape: tuple[int, ...]) -> None:
        """Raises a RunError for the first array that is not as the model wants it."""
        arrays, sides = stored.describe(wanted), "×".join(map(str, image_shape))
        for key in sorted(arrays.keys() | self._shapes.keys()):
            if arrays.get(key) != self._shapes.get(key):
                raise RunError(
                    f"{self._name} is of another architecture: {key} is {self._shapes.get(key, 'not in it')}, and for "
                    f"images of {sides} the config's model has {arrays.get(key, 'none')}"
                )

    def load(self, wanted: dict[str, Any], sharding: NamedSharding) -> tuple[Any, Any, Whitening | None]:
        """(parameters, rest, whitening); nothing else is read."""
        state = jax.tree.map(lambda _: ocp.PLACEHOLDER, self._state)
        arrays = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), wanted)
        if "whitening" in arrays:
            state["whitening"] = arrays["whitening"]._asdict()
        if state["average"]:
            state["average"] = {key: arrays[key] for key in state["average"]}
        else:
            state["params"]["model"], state["rest"] = arrays["params"], arrays["rest"]
        with self._readable():
            loaded = _evaluated(ocp.load(self._path, state, checkpointable_name=stored.STATE))
        whitening = Whitening(**loaded["whitening"]) if "whitening" in loaded else None
        return loaded["params"], loaded["rest"], whitening

    def notes(self) -> dict[str, Any]:
        """What else the run goes on from."""
        with self._readable():
            return folders.read_json(self._path / stored.NOTES)["notes"]

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax has many, and some of a page
            told = str(error).strip().partition("\n")[0][:200] or type(error).__name__
            raise RunError(f"{self._name} cannot be read ({told}): choose another --checkpoint") from error


def _evaluated(state: Mapping[str, Any]) -> dict[str, Any]:
    """As `TrainState.evaluated`, of a state that was read, and its whitening if it has one."""
    model = state["average"] or {"params": state["params"]["model"], "rest": state["rest"]}
    whitening = state.get("whitening")  # older checkpoints know of none
    return {**model, "whitening": whitening} if whitening else model


def _abstract_model(
    options: Mapping[str, Any], image_shape: tuple[int, ...], frozen: Sequence[str]
) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """The model's graph, and the shapes of its parameters and of the rest."""
    untrained = {**options, "pretrained": ""}  # the weights are the checkpoint's
    make = functools.partial(choices.model, **untrained, image_shape=image_shape)
    graphdef, params, rest = part(nnx.eval_shape(lambda: make(key=jax.random.key(0))), frozen)
    return graphdef, {"params": params, "rest": rest}


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        raise RunError(f"{path.parent} holds no run: it has no {path.name}")
    config = folders.read_json(path)
    for section in SECTIONS:
        if not isinstance(config.get(section), dict):
            raise RunError(f"{path} is not the config of a run: it has no {section!r}")
    return config


def _recorded(folder: pathlib.Path) -> calibration.Threshold | None:
    """What an evaluation wrote down, the shape of the images too, which spares reading the data."""
    try:
        return calibration.read(folder)
    except RunError:
        return None
