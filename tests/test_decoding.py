"""Image files of every kind: what is decoded is what was stored, and a bomb never goes off."""

import io
import struct
import subprocess
import sys
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
    np.testing.assert_array_equal(decoding.decode(encoded(deep, "PPM")), GREY[..., None])
    raw = b"P5 4 3 65535\n" + deep.astype(">u2").tobytes()
    np.testing.assert_array_equal(decoding.decode(raw), GREY[..., None])


@pytest.mark.parametrize("kind", ["PNG", "PPM", "BMP", "WEBP"])
def test_formats_without_loss(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decoding.decode(encoded(COLOUR, kind, **options)), COLOUR)


# EXIF's orientations, by how an upright image was stored.
STORED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, 1),  # shown a quarter to the right
    7: lambda a: np.rot90(a, 2).T,
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_photos_are_upright_however_the_camera_was_held(orientation, kind):
    upright = np.kron(GREY, np.ones((16, 16), np.uint8))  # blocks that JPEG keeps
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    options = {"quality": 95} if kind == "JPEG" else {}
    decoded = decoding.decode(encoded(stored, kind, exif=exif, **options))[..., 0]
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).max() <= 2


@pytest.mark.parametrize("exif", [b"Exif\0\0junk", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0"])
def test_broken_metadata_do_not_spoil_a_photo(exif):
    stored = encoded(np.full((8, 8), 90, np.uint8), "JPEG", exif=exif)
    assert np.abs(decoding.decode(stored).astype(int) - 90).max() <= 1


def test_channels_are_what_is_asked_for():
    assert decoding.decode(encoded(GREY), channels=3).tolist() == np.stack([GREY] * 3, -1).tolist()
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(decoding.decode(encoded(COLOUR), channels=1)[..., 0], luma, atol=1)


def test_floating_point_pixels_have_no_scale():
    stored = b"Pf 2 1 -1\n" + np.array([0.5, 0.25], "<f4").tobytes()
    with pytest.raises(ValueError, match="floating-point numbers, of unknown scale"):
        decoding.decode(stored)


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


def test_a_shade_of_sixteen_bits_may_be_transparent():
    stored = encoded(np.array([[0, 20_000, 40_000]], np.uint16), transparency=20_000)
    assert decoding.decode(stored)[0, :, 0].tolist() == [0, 255, 156]


def test_size_averages():
    image = np.random.default_rng(0).integers(0, 256, (12, 20), dtype=np.uint8)
    means = image.reshape(4, 3, 4, 5).mean(axis=(1, 3))
    np.testing.assert_allclose(decoding.decode(encoded(image), size=4)[..., 0], means, atol=1)
    assert decoding.decode(encoded(image), size=(6, 5)).shape == (6, 5, 1)


@pytest.mark.parametrize(("shape", "middle"), [((4, 10), np.s_[:, 3:7]), ((10, 4), np.s_[3:7])])
def test_a_crop_is_the_middle_squeezed_in_no_direction(shape, middle):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(decoding.decode(encoded(image), 4, crop=True)[..., 0], image[middle])
    means = image[middle].reshape(2, 2, 2, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(decoding.decode(encoded(image), 2, crop=True)[..., 0], means, atol=1)


def test_a_crop_is_as_large_as_its_shape_allows():
    image = np.random.default_rng(0).integers(0, 256, (6, 6), dtype=np.uint8)
    np.testing.assert_array_equal(decoding.decode(encoded(image), (2, 6), crop=True)[..., 0], image[2:4])
    with pytest.raises(DataError, match=r"data\.crop=True needs a size to crop to: set data\.size"):
        decoding.check(0, 1, crop=True)


def test_stack_gives_grey_images_three_channels_beside_colour():
    stacked = decoding.stack([GREY[..., None], COLOUR], "ours")
    np.testing.assert_array_equal(stacked, [np.stack([GREY] * 3, -1), COLOUR])
    stacked[0] = 1  # an array of its own, not a view of what came in
    assert decoding.stack([GREY[..., None]] * 2, "ours").shape == (2, 3, 4, 1)
    with pytest.raises(DataError, match=r"images of ours differ in size, from 3×4 to 4×3: set data\.size"):
        decoding.stack([GREY[..., None], GREY.T[..., None]], "ours")


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_a_bomb_takes_no_memory():
    """20,000² black pixels in a file of 400 kB; in memory they would be 400 MB."""
    compressor = zlib.compressobj(9)
    rows = b"".join(compressor.compress(bytes(20_001)) for _ in range(20_000)) + compressor.flush()
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    program = """
import resource, sys
from metric_jax.data import decoding
bomb = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decoding.decode(bomb)
except Exception as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(parts)
    run = subprocess.run([sys.executable, "-c", program], input=bomb, check=True, capture_output=True)
    told, grown = run.stdout.decode().splitlines()
    assert "decompression bomb" in told
    assert int(grown) < 100_000  # kB


@pytest.mark.parametrize("side", [10_000, 20_000])  # of which Pillow itself only warns, and which it refuses
def test_a_bomb_is_refused_from_its_header(side):
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(Exception, match="decompression bomb"):
        decoding.decode(bomb)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a JPEG, PNG, WebP, PGM, PPM or BMP file"),
        (b"hello", "not a JPEG, PNG, WebP, PGM, PPM or BMP file"),
        (encoded(COLOUR, "GIF"), "not a JPEG, PNG, WebP, PGM, PPM or BMP file"),
        (encoded(COLOUR)[:-30], "truncated|broken"),
    ],
    ids=["empty", "text", "gif", "truncated"],
)
def test_a_file_that_is_no_image(content, message):
    with pytest.raises((ValueError, OSError), match=message):
        decoding.decode(content)


def test_a_damaged_file_is_told_and_never_half_an_image():
    whole = encoded(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8))
    told = 0
    for place in np.random.default_rng(1).integers(40, len(whole) - 20, 60):
        damaged = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        try:
            Image.open(io.BytesIO(damaged)).load()
        except (OSError, SyntaxError, ValueError):
            told += 1
            with pytest.raises((OSError, SyntaxError, ValueError)):
                decoding.decode(damaged)
    assert told > 40
