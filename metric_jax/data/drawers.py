"""Who drew what in Omniglot: the TFDS set does not say, but the order of its drawings does.

TFDS puts the examples of a split in the order of a hash of their keys, and the key of a drawing is the name of its
file, such as ``Angelic_0_0965_01.png``: alphabet, character, class and the person who drew it. Twenty people drew each
alphabet, and each of them drew each of its characters once, so all names are known, and their order tells which drawing
is whose. That the classes read are those of the names, for every one of thousands, is the proof.
"""

import hashlib

import numpy as np

from metric_jax.data.sources import Images

PEOPLE = 20
CLASSES = {"train": range(964), "test": range(964, 1623)}  # of each split


def drawers(images: Images) -> np.ndarray | None:
    """A number for the person who drew each image: 20 of them for each alphabet, and others for another.

    Args:
        images: Drawings of the TFDS set ``omniglot``, of its split ``train`` or ``test``, neither turned nor with other
            classes. They may be a part of it, taken after it was read whole, and not a slice such as ``test[:50%]``.

    Returns:
        ``[n]`` integers from 0; None if these are other images, or in another order than TFDS puts them in.

    Example:
        >>> from metric_jax.data import load
        >>> _, test = load("digits")
        >>> drawers(test) is None
        True

    References:
        Lake, Salakhutdinov, Tenenbaum (2015), Human-level concept learning through probabilistic program induction.
        https://doi.org/10.1126/science.aab3050
    """
    if not len(images):
        return None
    splits, _, places = np.strings.partition(images.ids, "/")
    split = str(splits[0])
    if split not in CLASSES or len(images.class_names) <= CLASSES[split][-1]:
        return None
    if not np.all((splits == split) & np.strings.isdecimal(places) & (np.strings.str_len(places) < 6)):
        return None
    drawings = [(label, person) for label in CLASSES[split] for person in range(1, PEOPLE + 1)]

    def place(drawing: tuple[int, int]) -> bytes:
        label, person = drawing
        file = f"{images.class_names[label]}_{label + 1:04}_{person:02}.png"
        return hashlib.md5(f"{split}{file}".encode(), usedforsecurity=False).digest()

    at = places.astype(np.int64)
    if at.max() >= len(drawings):
        return None
    labels, people = np.array(sorted(drawings, key=place))[at].T
    if not np.array_equal(labels, images.labels):
        return None
    alphabets = [images.class_names[label].rpartition("_")[0] for label in labels]
    return np.unique(alphabets, return_inverse=True)[1] * PEOPLE + people - 1
