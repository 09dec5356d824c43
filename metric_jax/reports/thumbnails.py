"""Images made small enough for a page: single thumbnails, and many on one sheet."""

import base64
import io
import math
from typing import NamedTuple

import numpy as np

JPEG_QUALITY = 85


class Sprite(NamedTuple):
    """Many images of one size on one sheet, row by row from the top left.

    Attributes:
        sheet: ``[height, width, channels]`` uint8.
        columns: How many images stand in a row.
        width: An image's, in pixels.
        height: Likewise.
    """

    sheet: np.ndarray
    columns: int
    width: int
    height: int


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """An image ``[height, width, channels]`` whose longer side is at most ``side`` pixels; a smaller one stays."""
    from PIL import Image

    height, width, channels = image.shape
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = Image.fromarray(image[..., 0] if channels == 1 else image).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(small).reshape(size[1], size[0], channels)


def sprite(images: np.ndarray, side: int) -> Sprite:
    """The images ``[n, height, width, channels]`` on one sheet, about as many columns as rows.

    Example:
        >>> import numpy as np
        >>> sprite(np.zeros((5, 40, 20, 1), np.uint8), side=10).sheet.shape
        (20, 15, 1)
    """
    small = [shrink(image, side) for image in images]
    height, width, channels = small[0].shape
    columns = math.isqrt(len(small) - 1) + 1
    rows = -(-len(small) // columns)
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[: len(small)] = small
    sheet = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return Sprite(sheet.reshape(rows * height, columns * width, channels), columns, width, height)


def png(image: np.ndarray) -> bytes:
    """The PNG file of an image ``[height, width, channels]``."""
    return _encoded(image, "PNG", optimize=True)


def data_uri(image: np.ndarray) -> str:
    """An image as part of a page: a PNG or, where that is smaller, as it is for photos, a JPEG."""
    files = {"png": png(image), "jpeg": _encoded(image, "JPEG", quality=JPEG_QUALITY, optimize=True)}
    kind = min(files, key=lambda kind: len(files[kind]))
    return as_uri(files[kind], f"image/{kind}")


def as_uri(content: bytes, media_type: str) -> str:
    """A file as a data: URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _encoded(image: np.ndarray, kind: str, **options: object) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, kind, **options)
    return file.getvalue()
