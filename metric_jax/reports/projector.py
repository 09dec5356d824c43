"""Files for TensorBoard's embedding projector: `tensorboard --logdir FOLDER` shows them."""

import math
from collections.abc import Iterator, Sequence

from metric_jax.reports import thumbnails
from metric_jax.reports.run import Run

LARGEST_SHEET, LARGEST_SIDE = 8192, 64  # pixels; TensorBoard takes no larger sheet


def files(runs: Sequence[Run]) -> Iterator[tuple[str, bytes]]:
    """The names and contents of the files, those of a second run with a 2 in their names."""
    images = runs[0].images
    sheet = thumbnails.sprite(images, min(LARGEST_SIDE, LARGEST_SHEET // math.ceil(math.sqrt(len(images)))))
    yield "sprite.png", thumbnails.png(sheet.sheet)
    yield "metadata.tsv", _metadata(runs[0]).encode(errors="backslashreplace")
    config = []
    for number, run in enumerate(runs):
        tensors = f"tensors{number + 1 if number else ''}.tsv"
        yield (
            tensors,
            "".join("\t".join(f"{x:.7g}" for x in row) + "\n" for row in run.embeddings.tolist()).encode(),
        )
        config.append(
            "embeddings {\n"
            f'  tensor_name: "{_quoted(run.name)}"\n'
            f'  tensor_path: "{tensors}"\n'
            '  metadata_path: "metadata.tsv"\n'
            "  sprite {\n"
            '    image_path: "sprite.png"\n'
            f"    single_image_dim: {sheet.width}\n"
            f"    single_image_dim: {sheet.height}\n"
            "  }\n"
            "}\n"
        )
    yield "projector_config.pbtxt", "".join(config).encode()


def _metadata(run: Run) -> str:
    lines = ["class\tname", *(f"{_cell(run.class_of(i))}\t{_cell(name)}" for i, name in enumerate(run.names))]
    return "".join(f"{line}\n" for line in lines)


def _cell(text: str) -> str:
    """A text without what would end a cell or a line of the table."""
    return " ".join(text.split())


def _quoted(text: str) -> str:
    """A text inside the quotes of a protobuf text file: its bytes, those that are not plain as octal escapes."""
    content = text.encode(errors="backslashreplace")
    return "".join(chr(b) if 32 <= b < 127 and chr(b) not in "\"'\\" else f"\\{b:03o}" for b in content)
