"""Reads safetensors files: named arrays behind a header in JSON, and nothing that could be run.

Eight bytes say how long the header is; the header says of every tensor its type, its shape and which of the bytes
behind the header are its own. Nothing of that is believed before it was checked against the size of the file.

References:
    https://huggingface.co/docs/safetensors
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

_DTYPES: Mapping[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    **{f"{kind.upper()}{8 * size}": np.dtype(f"<{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    "BF16": np.dtype(jnp.bfloat16),
}
_LONGEST_HEADER = 100_000_000  # bytes, as in the format's own reader


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Opens a file of tensors.

    Args:
        path: The file.

    Returns:
        Its tensors by name, read-only and mapped: what is not looked at is not read from disk.

    Raises:
        ValueError: The file cannot be read, or is no whole safetensors file; the message names file and tensor.
    """
    path = pathlib.Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise ValueError(
                    f"{path} is no safetensors file, or cut short: a header of {length} bytes in {size}"
                )
            header = _parsed(file.read(length), path)
        data = np.memmap(path, np.uint8, "r")[8 + length :]
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    spans = {name: _span(entry, len(data), f"{path}: tensor {name!r}") for name, entry in header.items()}
    _check_that_nothing_is_shared(spans, len(data), path)
    return {
        name: data[begin:end].view(dtype).reshape(shape) for name, (begin, end, dtype, shape) in spans.items()
    }


_Span = tuple[int, int, np.dtype, tuple[int, ...]]


def _parsed(text: bytes, path: pathlib.Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands there twice")
        return found

    try:
        header = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no safetensors file: its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} is no safetensors file: its header is no JSON object")
    header.pop("__metadata__", None)
    return header


def _span(entry: Any, available: int, name: str) -> _Span:
    """(first byte, last byte, type, shape) of a tensor, which fit together and lie within the file."""
    match entry:
        case {"dtype": str(kind), "shape": [*shape], "data_offsets": [begin, end]}:
            pass
        case _:
            raise ValueError(f"{name} has no dtype, shape and data_offsets")
    if kind not in _DTYPES:
        raise ValueError(f"{name} is of type {kind!r}; there is: {', '.join(_DTYPES)}")
    if any(type(number) is not int or number < 0 for number in (*shape, begin, end)):
        raise ValueError(f"{name} has a size or an offset that is no whole number from 0 up")
    if not begin <= end <= available:
        raise ValueError(
            f"{name} lies at bytes {begin} to {end} of {available}: the file is cut short or damaged"
        )
    if math.prod(shape) * _DTYPES[kind].itemsize != end - begin:
        raise ValueError(f"{name} is {kind} {shape}, which does not fill its {end - begin} bytes")
    return begin, end, _DTYPES[kind], tuple(shape)


def _check_that_nothing_is_shared(spans: Mapping[str, _Span], available: int, path: pathlib.Path) -> None:
    """Raises unless the tensors fill the data one after the other."""
    filled = 0
    for name, (begin, end, *_) in sorted(spans.items(), key=lambda item: item[1][:2]):
        if begin != filled:
            raise ValueError(
                f"{path}: tensor {name!r} begins at byte {begin}, where the one before ends at {filled}"
            )
        filled = end
    if filled != available:
        raise ValueError(f"{path} has {available - filled} bytes behind its last tensor: it is damaged")
