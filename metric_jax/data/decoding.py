"""Image files to arrays of bytes, whatever is in them: any depth, palettes, transparency, grey among colour."""

import io
import warnings
from collections.abc import Sequence

import numpy as np

from metric_jax.data.errors import DataError


def decode(encoded: bytes, size: int = 0) -> np.ndarray:
    """``[height, width, channels]`` uint8 of a PNG or JPEG file.

    Black and white images, one bit a pixel, become 0 and 255: decoders disagree whether their white is 1 or 255.

    Args:
        encoded: The file.
        size: Side length to resize it to, square whatever it was; 0 keeps its own.

    Returns:
        One channel if it is grey, else red, green and blue. What is transparent lies on white.

    Raises:
        ValueError: Neither PNG nor JPEG.
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
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image: Image.Image = Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG"))
        except UnidentifiedImageError as error:
            raise ValueError("neither a PNG nor a JPEG file") from error
    grey = image.mode in ("1", "L", "LA", "I", "I;16")
    if image.mode in ("I", "I;16"):  # 16 bits a pixel: convert() would make all but the darkest white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("L" if grey else "RGB")
    if size:
        image = image.resize((size, size), Image.Resampling.BOX)
    return np.atleast_3d(np.asarray(image))


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
