"""Image files to arrays of bytes, whatever is in them: any depth, palettes, transparency, grey among colour."""

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from metric_jax.data.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "PPM", "BMP")  # Pillow's names; its PPM is PGM and PBM too
GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B")
LARGEST_SIDE = 2**13  # to resize to; a square of it is about as large as the largest image that Pillow opens
NO_MEMORY = "there is no memory for more: set a smaller data.size, or read a part of them"
ORIENTATION = 0x0112  # the EXIF tag that says how the camera was held


def decode(
    encoded: bytes, size: int | tuple[int, int] = 0, channels: int = 0, *, crop: bool = False
) -> np.ndarray:
    """``[height, width, channels]`` uint8 of a JPEG, PNG, WebP, PGM, PPM or BMP file.

    Black and white images, one bit a pixel, become 0 and 255: decoders disagree whether their white is 1 or 255.
    Photos are turned upright as their EXIF orientation says. Of an animation it is the first frame.

    Args:
        encoded: The file.
        size: Side length to resize it to, square whatever it was, or (height, width); 0 keeps its own.
        channels: 1 makes it grey, 3 red, green and blue; 0 keeps what it is.
        crop: Whether to cut out the middle, as much as has the new shape, rather than to squeeze all of it.

    Returns:
        One channel if it is or becomes grey, else red, green and blue. What is transparent lies on white.

    Raises:
        ValueError: A file of no such format.
        Exception: Pillow's own, of a file that is broken, or so large that opening it would be an attack.

    Example:
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("1", (3, 2), 1).save(file, "PNG")
        >>> decode(file.getvalue())[..., 0].tolist()
        [[255, 255, 255], [255, 255, 255]]
    """
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata; what spoils the picture raises
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image: Image.Image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        except UnidentifiedImageError as error:
            raise ValueError("not a JPEG, PNG, WebP, PGM, PPM or BMP file") from error
        image.load()  # before its metadata: looking for these takes what it can of a damaged one, without a word
        image = _upright(image)
        if image.mode == "F":
            raise ValueError(
                "its pixels are floating-point numbers, of unknown scale: save it with 8 bits each"
            )
        grey = image.mode in GREY_MODES if channels == 0 else channels == 1
        if image.mode.startswith("I"):  # 16 bits a pixel: convert() would make all but the darkest white
            deep = np.asarray(image)
            is_clear = deep == image.info.get("transparency", -1)  # a shade that a PNG may say is transparent
            image = Image.fromarray(np.where(is_clear, 255, deep >> 8).astype(np.uint8))
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        image = image.convert("L" if grey else "RGB")
        if size:
            height, width = (size, size) if isinstance(size, int) else size
            box = _middle(image.size, width / height) if crop else None
            image = image.resize((width, height), Image.Resampling.BOX, box)
        return np.atleast_3d(np.asarray(image))


def check(size: int, channels: int, crop: bool = False) -> None:
    """Raises a DataError for a size or channels that no image can have, or for a crop to no size."""
    if size < 0:
        raise DataError(f"data.size must not be negative, got {size}")
    if size > LARGEST_SIDE:
        raise DataError(f"data.size must be at most {LARGEST_SIDE}, got {size}")
    if channels not in (0, 1, 3):
        raise DataError(f"data.channels must be 1 (grey), 3 (colour) or 0 (as they are), got {channels}")
    if crop and not size:
        raise DataError("data.crop=True needs a size to crop to: set data.size")


def stack(images: Sequence[np.ndarray], name: str) -> np.ndarray:
    """One array ``[n, height, width, channels]``; beside images in colour, grey ones get three channels too.

    Args:
        images: From `decode`.
        name: Whose they are, for the error.

    Raises:
        DataError: They differ in size.

    Example:
        >>> import numpy as np
        >>> stack([np.zeros((2, 2, 1), np.uint8), np.zeros((2, 2, 3), np.uint8)], "ours").shape
        (2, 2, 2, 3)
    """
    channels = max(image.shape[2] for image in images)
    sizes = sorted({image.shape[:2] for image in images})
    if len(sizes) > 1:
        smallest, largest = (f"{height}×{width}" for height, width in (sizes[0], sizes[-1]))
        raise DataError(f"the images of {name} differ in size, from {smallest} to {largest}: set data.size")
    return np.stack([np.broadcast_to(image, (*sizes[0], channels)) for image in images])


def _middle(size: tuple[int, int], ratio: float) -> tuple[float, float, float, float]:
    """The largest box of that ratio of width to height in the middle of an image: left, upper, right, lower."""
    width, height = min(size[0], size[1] * ratio), min(size[1], size[0] / ratio)
    left, upper = (size[0] - width) / 2, (size[1] - height) / 2
    return left, upper, left + width, upper + height


def _upright(image: Any) -> Any:
    """The image as it was seen, whichever way the camera was held."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # whatever is wrong with the metadata, the picture is still there
        return image
    return image if turn is None else image.transpose(turn)
