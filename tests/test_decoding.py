"""Image files of every kind: what is decoded is what was stored, and a bomb never goes off."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from metric_jax.data import DataError, decoding


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


GREY = np.arange(0, 240, 20, dtype=np.uint8).reshape(3, 4)
COLOUR = np.stack([GREY, GREY[::-1], GREY + 15], axis=-1)


def test_grey_and_colour():
    np.testing.assert_array_equal(decoding.decode(encoded(GREY)), GREY[..., None])
    np.testing.assert_array_equal(decoding.decode(encoded(COLOUR)), COLOUR)
    lossy = decoding.decode(encoded(np.full((9, 9), 77, np.uint8), "JPEG"))
    assert lossy.shape == (9, 9, 1)
    assert np.abs(lossy.astype(int) - 77).max() <= 1


def test_one_bit_a_pixel_is_black_and_white():
    bits = GREY > 100
    stored = encoded(bits)
    assert Image.open(io.BytesIO(stored)).mode == "1"
    np.testing.assert_array_equal(decoding.decode(stored), np.where(bits, 255, 0)[..., None])


def test_sixteen_bits_a_pixel_keep_their_greys():
    deep = GREY.astype(np.uint16) * 257
    np.testing.assert_array_equal(decoding.decode(encoded(deep)), GREY[..., None])


def test_palette():
    image = Image.fromarray(COLOUR).quantize(colors=16)
    decoded = decoding.decode(encoded(image))
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))


def test_cmyk():
    decoded = decoding.decode(encoded(Image.new("CMYK", (5, 4), (0, 255, 255, 0)), "JPEG"))
    assert decoded.shape == (4, 5, 3)
    assert np.abs(decoded.astype(int) - [255, 0, 0]).max() <= 3  # no cyan and no black is red


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_what_is_transparent_lies_on_white(mode):
    """Black ink on nothing is a drawing, not a black square."""
    if mode == "P":
        image = Image.new("P", (2, 1))
        image.putpalette([0, 0, 0] * 2)
        image.putdata([0, 1])
        stored = encoded(image, transparency=bytes([255, 0]))
    else:
        pixels = np.zeros((1, 2, len(mode)), np.uint8)
        pixels[0, 0, -1] = 255
        stored = encoded(Image.fromarray(pixels, mode))
    decoded = decoding.decode(stored)
    assert decoded.shape == (1, 2, 1 if mode == "LA" else 3)
    assert decoded[0, :, 0].tolist() == [0, 255]


def test_size_averages():
    image = np.random.default_rng(0).integers(0, 256, (12, 20), dtype=np.uint8)
    means = image.reshape(4, 3, 4, 5).mean(axis=(1, 3))
    np.testing.assert_allclose(decoding.decode(encoded(image), size=4)[..., 0], means, atol=1)


def test_stack_gives_grey_images_three_channels_beside_colour():
    stacked = decoding.stack([GREY[..., None], COLOUR], "ours")
    np.testing.assert_array_equal(stacked, [np.stack([GREY] * 3, -1), COLOUR])
    stacked[0] = 1  # an array of its own, not a view of what came in
    assert decoding.stack([GREY[..., None]] * 2, "ours").shape == (2, 3, 4, 1)
    with pytest.raises(DataError, match=r"images of ours differ in size, from 3×4 to 4×3: set data\.size"):
        decoding.stack([GREY[..., None], GREY.T[..., None]], "ours")


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("side", [10_000, 20_000])  # of which Pillow itself only warns, and which it refuses
def test_a_bomb_is_refused_from_its_header(side):
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(Exception, match="decompression bomb"):
        decoding.decode(bomb)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither a PNG nor a JPEG"),
        (b"hello", "neither a PNG nor a JPEG"),
        (encoded(COLOUR, "GIF"), "neither a PNG nor a JPEG"),
        (encoded(COLOUR)[:-30], "truncated|broken"),
    ],
    ids=["empty", "text", "gif", "truncated"],
)
def test_a_file_that_is_no_image(content, message):
    with pytest.raises((ValueError, OSError), match=message):
        decoding.decode(content)
