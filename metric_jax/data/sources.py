"""Where images come from: every source decodes once, into memory.

A batch is then a gather of rows. Decoding PNGs again for every batch would be slower by an order of magnitude, and
the sets of this field are small: Omniglot at 28×28 takes 25 MB.
"""

import dataclasses
import functools
import os
import pathlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from metric_jax.data import decoding
from metric_jax.data.cache import Decoded, through
from metric_jax.data.errors import DataError, unknown
from metric_jax.data.listing import stamp

LARGEST_LABEL = np.iinfo(np.int32).max


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Labelled images in memory.

    Attributes:
        images: ``[n, height, width, channels]`` uint8, whatever the source's own scale.
        labels: ``[n]`` int32.
        ids: ``[n]`` strings, what the source calls each image; if none are given, their numbers.
        class_names: What the source calls class 0, 1, ...; empty if it has only the numbers.
        columns: What else the source says of every image, ``[n]`` strings each: ``"split"``, ``"group"``, ``"super"``
            (the class of its class), ``"origin"`` (the class that its class was made of).

    Raises:
        DataError: Arrays of another shape or type; a class without a name beside some that have one.

    Example:
        >>> import numpy as np
        >>> images = Images(np.zeros((3, 8, 8, 1), np.uint8), np.array([4, 4, 7], np.int32))
        >>> images, images[images.labels == 4]
        (Images(3 of 8×8×1, 2 classes), Images(2 of 8×8×1, 1 class))
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.str_))
    class_names: tuple[str, ...] = ()
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype != np.uint8:
            raise DataError(
                f"images must be [n, height, width, channels] uint8, got {list(images.shape)} {images.dtype}"
            )
        if labels.shape != images.shape[:1] or labels.dtype != np.int32:
            raise DataError(
                f"labels must be [{len(images)}] int32, one for every image, got {list(labels.shape)} {labels.dtype}"
            )
        if not len(self.ids):
            object.__setattr__(self, "ids", np.arange(len(labels)).astype(np.str_))
        for name, strings in {"ids": self.ids, **self.columns}.items():
            if strings.shape != labels.shape or strings.dtype.kind != "U":
                got = f"{list(strings.shape)} {strings.dtype}"
                raise DataError(f"{name} must be [{len(images)}] strings, one for every image, got {got}")
        if self.class_names and len(labels) and labels.max() >= len(self.class_names):
            raise DataError(
                f"class {labels.max()} has no name, as there are {len(self.class_names)} class_names"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        count = len(np.unique(self.labels))
        shape = "×".join(map(str, self.images.shape[1:]))
        return f"Images({len(self)} of {shape}, {count} {'class' if count == 1 else 'classes'})"

    def __getitem__(self, indices: np.ndarray | slice) -> "Images":
        """The images at these indices, or where this mask is True."""
        columns = {name: column[indices] for name, column in self.columns.items()}
        return Images(
            self.images[indices], self.labels[indices], self.ids[indices], self.class_names, columns
        )

    def class_name(self, label: int) -> str:
        """What the source calls that class; its number, if it has no name."""
        return self.class_names[label] if self.class_names else str(label)

    def called(self) -> np.ndarray:
        """``[n]`` strings, `class_name` of every image."""
        return np.array([self.class_name(label) for label in self.labels.tolist()], np.str_)


def digits() -> Images:
    """The 1,797 handwritten digits, 8×8 and grey, that come with scikit-learn.

    Example:
        >>> digits().images.shape
        (1797, 8, 8, 1)

    References:
        Alpaydin, Kaynak (1998), Optical Recognition of Handwritten Digits. https://doi.org/10.24432/C50P49
    """
    from sklearn import datasets

    found = datasets.load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)[..., None]
    names = tuple(str(name) for name in found.target_names)
    return Images(images, found.target.astype(np.int32), class_names=names)


def tfds(
    name: str,
    split: str,
    *,
    data_dir: str = "",
    image_key: str = "image",
    label_key: str = "label",
    super_key: str = "",
    size: int = 0,
    channels: int = 0,
    crop: bool = False,
    cache: str = "",
) -> Images:
    """A split of a prepared TensorFlow data set, read without TensorFlow and without the network.

    Args:
        name: The set, ``"omniglot"``, or one of its configs, ``"set/config"``.
        split: The set's own name for it, such as ``"train"`` or ``"train[:1000]"`` or ``"train+test"``.
        data_dir: The folder that holds prepared sets; by default TFDS_DATA_DIR, then ~/tensorflow_datasets.
        image_key: The feature that holds the image.
        label_key: The feature that holds the class: numbers, or texts, which are numbered in their order.
        super_key: The feature that holds the class of the class; empty if there is none.
        size: Side length to resize the images to, square whatever they were; 0 keeps their own.
        channels: 1 makes them grey, 3 red, green and blue; 0 makes one channel if all are grey, else three.
        crop: Whether to cut out the middle of an image that is not square, rather than to squeeze it.
        cache: A folder for decoded images; empty for none.

    Returns:
        The images; what is transparent lies on white. Their ids are ``split/number``.

    Raises:
        DataError: The set is not prepared there or is broken, the split is unknown or empty, a feature is missing or
            of the wrong kind, images differ in size, a class is negative or beyond int32; a cache that cannot be
            written to.
    """
    decoding.check(size, channels, crop)
    there = prepared(name, data_dir)
    folder = there.parent

    def decode() -> Decoded:
        try:
            records, info = _open(name, split, folder, image_key, label_key, super_key)
            images, labels, supers = _read(
                records,
                image_key,
                [label_key, super_key],
                functools.partial(decoding.decode, size=size, channels=channels, crop=crop),
                title=f"reading {name} {split}",
            )
        except DataError:
            raise
        except Exception as error:  # whatever is wrong with that folder, the remedy is the same
            reason = str(error).strip().partition("\n")[0]
            raise DataError(
                f"data set {name!r} in {folder} cannot be read ({reason}): build it anew: {_build(name, folder)} "
                "--overwrite"
            ) from error
        names, numbers = _classes(labels, info[label_key])
        notes = {
            "labels": _as_labels(numbers, f"{label_key!r} of {name} {split}").tolist(),
            "class_names": names,
            "columns": {"super": _texts(supers, info[super_key])} if super_key else {},
        }
        return Decoded(decoding.stack(images, name), notes)

    files = sorted(path for path in there.rglob("*") if path.is_file())
    described = [name, split, image_key, label_key, super_key, size, channels, crop]
    described += [[path.relative_to(there).as_posix(), *stamp(path)] for path in files]
    images, notes, _ = through(cache, f"{name}-{split}", described, decode)
    return Images(
        images,
        np.array(notes["labels"], np.int32),
        np.array([f"{split}/{number}" for number in range(len(images))]),
        tuple(notes["class_names"]),
        {key: np.array(column) for key, column in notes["columns"].items()},
    )


def prepared(name: str, data_dir: str) -> pathlib.Path:
    """The folder of a prepared TFDS set; a DataError that tells the remedy if there is none.

    Looked for before TFDS is, which would search the network, or fail with a page of text.
    """
    if not name:
        raise DataError("data.name is empty: say which TFDS set, as in data.name=mnist")
    folder = tfds_folder(data_dir)
    there = folder / name.partition("/")[0].partition(":")[0]
    if not any(there.rglob("dataset_info.json")):
        raise DataError(
            f"data set {name!r} is not prepared in {folder}: say where it is with data.data_dir, or build it "
            f"once: {_build(name, folder)}"
        )
    return there


def tfds_folder(data_dir: str) -> pathlib.Path:
    """The folder that holds prepared TFDS sets: the given one, else TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(os.path.expanduser(folder))  # pathlib's own raises for a home that is nobody's


def with_rotations(images: Images) -> Images:
    """The images, and those turned by 90, 180 and 270 degrees as further classes: four times as many of both.

    With C one more than the largest class, class c turned by q quarters becomes ``c + q C``, and what is called so and
    so becomes "so and so, turned by 90 degrees".

    Args:
        images: Square ones.

    Returns:
        ``4 n`` images, those as they were first.

    Raises:
        DataError: Images that are not square; class numbers that would outgrow int32.

    Example:
        >>> import numpy as np
        >>> turned = with_rotations(Images(np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 2], np.int32)))
        >>> turned.images.shape, turned.labels.tolist()
        ((8, 8, 8, 1), [0, 2, 3, 5, 6, 8, 9, 11])

    References:
        Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra (2016), Matching Networks for One Shot Learning.
        https://arxiv.org/abs/1606.04080
    """
    if images.images.shape[1] != images.images.shape[2]:
        raise DataError("images that are not square cannot be turned: set data.size, or data.rotations=False")
    turned = {
        f", turned by {90 * quarter} degrees": np.rot90(images.images, quarter, axes=(1, 2))
        for quarter in (1, 2, 3)
    }
    return _with_further(images, turned)


def with_mirrors(images: Images) -> Images:
    """The images, and those mirrored left to right as further classes: twice as many of both.

    With C one more than the largest class, class c mirrored becomes ``c + C``, and what is called so and so becomes "so
    and so, mirrored".

    Args:
        images: Any.

    Returns:
        ``2 n`` images, those as they were first.

    Raises:
        DataError: Class numbers that would outgrow int32.

    Example:
        >>> import numpy as np
        >>> both = with_mirrors(Images(np.array([[[[1], [2]]]], np.uint8), np.array([4], np.int32)))
        >>> both.images[..., 0].tolist(), both.labels.tolist()
        ([[[1, 2]], [[2, 1]]], [4, 9])
    """
    return _with_further(images, {", mirrored": images.images[:, :, ::-1]})


def _with_further(images: Images, changed: Mapping[str, np.ndarray]) -> Images:
    """The images, and behind them all of them changed, as further classes, by what is added to their names."""
    labels = images.labels.astype(np.int64)
    classes, added = labels.max() + 1, ["", *changed]
    columns = {"origin": images.called(), **images.columns}
    return Images(
        np.concatenate([images.images, *changed.values()]),
        _as_labels(
            np.concatenate([labels + k * classes for k in range(len(added))]), "the images that are added"
        ),
        np.concatenate([np.strings.add(images.ids, text) for text in added]),
        tuple(name + text for text in added for name in images.class_names[:classes]),
        {name: np.tile(column, len(added)) for name, column in columns.items()},
    )


def _build(name: str, folder: pathlib.Path) -> str:
    """The command that prepares a set in a folder."""
    return (
        ".venv/bin/pip install -e '.[prepare]' && .venv/bin/python -m metric_jax.data.prepare "
        f"{shlex.quote(name)} --data_dir={shlex.quote(str(folder))}"
    )


def _open(
    name: str, split: str, folder: pathlib.Path, image_key: str, label_key: str, super_key: str
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The records of a split, with the image as the file that it was stored as; the features of the set."""
    import tensorflow_datasets

    builder = tensorflow_datasets.builder(name, data_dir=folder)
    info, kinds = builder.info, tensorflow_datasets.features
    if not info.splits:
        raise FileNotFoundError("no version in it is complete")
    try:
        count = info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise DataError(
            f"data set {name!r} has no split {split!r}, but {', '.join(info.splits)}, or a part such as "
            f"'{next(iter(info.splits))}[:1000]'"
        ) from error
    if not count:
        raise DataError(f"split {split!r} of {name} is empty: it has no images")
    class_keys = {"label_key": label_key, **({"super_key": super_key} if super_key else {})}
    for key in (image_key, *class_keys.values()):
        if key not in info.features:
            raise DataError(unknown(f"feature of {name}", key, info.features))
    image = info.features[image_key]
    if not isinstance(image, kinds.Image) or image.np_dtype not in (np.uint8, np.uint16):
        raise DataError(f"feature {image_key!r} of {name} is no image: set data.image_key to one that is")
    for option, key in class_keys.items():
        feature = info.features[key]
        integer = feature.shape == () and np.issubdtype(feature.np_dtype, np.integer)
        if not integer and not isinstance(feature, kinds.Text):
            raise DataError(
                f"feature {key!r} of {name} is no class: set data.{option} to an integer feature, or to a text"
            )
    decoders = {image_key: tensorflow_datasets.decode.SkipDecoding()}
    return builder.as_data_source(split=split, decoders=decoders), info.features


def _read(
    records: Sequence[Any],
    image_key: str,
    class_keys: list[str],
    decode: Callable[[bytes], np.ndarray],
    *,
    title: str,
) -> tuple[list[Any], ...]:
    """Of all records the images, decoded, and the classes by each of the keys; none by an empty one."""
    from tqdm import tqdm

    images: list[np.ndarray] = []
    classes: tuple[list[Any], ...] = tuple([] for _ in class_keys)
    try:
        for record in tqdm(records, desc=title, unit="image", disable=None, leave=False):
            images.append(decode(record[image_key]))
            for found, key in zip(classes, class_keys, strict=True):
                found.append(record[key] if key else None)
    except MemoryError as error:  # the set is not to blame
        raise DataError(f"{title} got as far as image {len(images)}, and {decoding.NO_MEMORY}") from error
    except Exception as error:
        raise ValueError(f"image {len(images)}: {error}") from error
    return images, *classes


def _classes(values: list[Any], feature: Any) -> tuple[list[str], list[int]]:
    """The names of the classes of a feature, none if they have none, and the numbers of these."""
    if not np.issubdtype(feature.np_dtype, np.integer):
        names, numbers = np.unique(_texts(values, feature), return_inverse=True)
        return names.tolist(), numbers.tolist()
    return list(getattr(feature, "names", None) or []), values


def _texts(values: list[Any], feature: Any) -> list[str]:
    """What the classes of a feature are called; their numbers, if they have no names."""
    names = getattr(feature, "names", None)
    return [
        value.decode() if isinstance(value, bytes) else names[value] if names else str(value)
        for value in values
    ]


def _as_labels(labels: Iterable[int], of: str) -> np.ndarray:
    """int32, none of which became another number on the way."""
    wide = np.asarray(labels, np.int64)
    if wide.min() < 0:
        raise DataError(
            f"class {wide.min()} in {of}: negative numbers mark images without one: choose another split or label"
        )
    if wide.max() > LARGEST_LABEL:
        raise DataError(f"class {wide.max()} in {of} does not fit int32: number the classes from 0")
    return wide.astype(np.int32)
