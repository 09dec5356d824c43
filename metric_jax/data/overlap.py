"""Whether two splits of a TFDS set share images: ``train+test`` and ``test`` do, and so may slices of one split."""

from metric_jax.data.sources import tfds_folder

ALL = "all"  # TFDS's own name for every split together


def in_common(name: str, one: str, other: str, *, data_dir: str = "") -> int:
    """How many images two splits of a prepared TFDS set have in common.

    Args:
        name: The set.
        one: A split that can be read.
        other: Another one; two that are no slices, sums or all of the set share nothing, and the set is not opened.
        data_dir: As of `sources.tfds`.
    """
    if not any(split == ALL or "[" in split or "+" in split for split in (one, other)):
        return 0
    import tensorflow_datasets

    splits = tensorflow_datasets.builder(name, data_dir=tfds_folder(data_dir)).info.splits
    spans = [
        [(part.filename, part.skip, part.skip + part.take) for part in splits[split].file_instructions]
        for split in (one, other)
    ]
    return sum(
        max(0, min(end, other_end) - max(start, other_start))
        for file, start, end in spans[0]
        for other_file, other_start, other_end in spans[1]
        if file == other_file
    )
