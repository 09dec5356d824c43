"""Draws docs/augmentation.png: a drawn face, changed at random in every way there is, a row for each.

python docs/augmentation_picture.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from metric_jax.data import augment

SIDE, DRAWS, LABEL, GAP = 72, 6, 150, 4
ROWS = (
    *("", "eyepatch=1", "rotate=25", "scale=0.3", "shear=0.3", "translate=0.15"),
    *("crop=0.4", "crop=0.4 aspect=0.6", "flip=0.5"),
    *("brightness=0.5", "contrast=1", "saturation=1", "hue=0.1", "blur=2"),
    *("cutout=0.35", "cutout=0.35 cutout_fill=0.5"),
)
ALL = (
    "eyepatch=0.5 rotate=10 scale=0.1 shear=0.1 translate=0.05 crop=0.6 aspect=0.2 flip=0.5 "
    "brightness=0.3 contrast=0.3 saturation=0.3 hue=0.05 blur=1 cutout=0.3"
)


def face(side: int) -> Image.Image:
    """A face before a striped wall; nobody's."""
    image = Image.new("RGB", (100, 100), "#9db8c8")
    draw = ImageDraw.Draw(image)
    for left in range(0, 100, 20):
        draw.rectangle((left, 0, left + 9, 100), fill="#b4cad6")
    draw.ellipse((10, 84, 90, 140), fill="#7a3b3b")  # shoulders
    draw.ellipse((20, 4, 80, 84), fill="#4a3020")  # hair
    draw.ellipse((25, 16, 75, 92), fill="#e0b090")
    draw.pieslice((22, 2, 78, 56), 180, 320, fill="#4a3020")  # parted on one side
    for middle in (37, 63):
        draw.ellipse((middle - 7, 42, middle + 7, 50), fill="white")
        draw.ellipse((middle - 3, 42, middle + 3, 50), fill="#3060a0")
    draw.line((50, 50, 47, 62, 52, 63), fill="#b08060", width=2)
    draw.chord((38, 62, 62, 80), 10, 170, fill="#b04848")
    return image.resize((side, side), Image.Resampling.LANCZOS)


def picture() -> Image.Image:
    """Rows of the face changed in one way, then in all."""
    images = jnp.tile(jnp.asarray(face(SIDE), jnp.float32)[None] / 255, (DRAWS, 1, 1, 1))
    step = SIDE + GAP
    sheet = Image.new("RGB", (LABEL + DRAWS * step, (len(ROWS) + 1) * step), "white")
    draw = ImageDraw.Draw(sheet)
    for row, amounts in enumerate([*ROWS, ALL]):
        label = {"": "as it is", ALL: "all, gently"}.get(amounts, amounts.replace(" ", "\n"))
        draw.multiline_text((4, row * step + SIDE // 2), label, fill="black", font_size=13, anchor="lm")
        chosen = {
            name: float(amount) for name, _, amount in (each.partition("=") for each in amounts.split())
        }
        changed = np.asarray(augment.random(images, jax.random.key(3), **chosen))
        for column, image in enumerate(np.round(changed * 255).astype(np.uint8)):
            sheet.paste(Image.fromarray(image), (LABEL + column * step, row * step))
    return sheet.quantize(256)


if __name__ == "__main__":
    picture().save(Path(__file__).with_name("augmentation.png"), optimize=True)
