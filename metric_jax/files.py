"""Files that are there as a whole or not at all."""

import os
import pathlib
from collections.abc import Callable
from typing import IO, Any


def replace(path: pathlib.Path, content: bytes | Callable[[IO[bytes]], Any]) -> pathlib.Path:
    """Puts a file in the place of another at one stroke; it is on disk when this returns.

    It is written under another name and then renamed. A link that stands in either place is replaced and not followed.

    Args:
        path: The file, in a folder that there is.
        content: What it is to hold, or what writes that into a file opened for bytes.

    Returns:
        The path.

    Raises:
        OSError: It cannot be written.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with temporary.open("wb") as file:
        content(file) if callable(content) else file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return temporary.replace(path)
