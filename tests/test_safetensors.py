"""Files of tensors: what is read, and what is refused because a header promises what the file does not hold."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from references_models import write_safetensors

from metric_jax.models import safetensors

TENSORS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "count": np.int64(2**40),
    "odd": np.array([1, 2, 255], np.uint8),  # so that what follows lies at an odd byte
    "half": np.array([[1.5, -2.0]], np.float16),
    "brain": np.array([1.5, -2.0], jnp.bfloat16),
    "double": np.array([[[1 / 3]]]),
    "none": np.zeros((0, 4), np.float32),
}


def test_every_tensor_comes_back(tmp_path):
    found = safetensors.read(write_safetensors(tmp_path / "a.safetensors", TENSORS))
    assert list(found) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(found[name], tensor)
    assert not found["weight"].flags.writeable


def entry(**changes):
    """The header of one tensor of 4 float32, changed."""
    return json.dumps({"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes}).encode()


HEADERS = {
    "longer than the file": (b"{}", None, r"cut short: a header of 1000 bytes in 26"),
    "no JSON": (b"{'a': 1}", 16, "its header is not JSON"),
    "no text": (b"\xff\xfe\x00\x00", 16, "its header is not JSON"),
    "nested without end": (b"[" * 100_000, 16, "its header is not JSON"),
    "a list": (b"[1, 2]", 16, "its header is no JSON object"),
    "a name twice": (b'{"a": {}, "a": {}}', 16, "a name stands there twice"),
    "no offsets": (
        b'{"a": {"dtype": "F32", "shape": [2, 2]}}',
        16,
        r"tensor 'a' has no dtype, shape and data_off",
    ),
    "a tensor that is a number": (b'{"a": 1}', 16, "tensor 'a' has no dtype"),
    "an unknown type": (entry(dtype="F4"), 16, r"tensor 'a' is of type 'F4'; there is: BOOL, .*BF16"),
    "a negative size": (
        entry(shape=[-2, -2]),
        16,
        "tensor 'a' has a size or an offset that is no whole number",
    ),
    "a size with a fraction": (entry(shape=[2.0, 2]), 16, "no whole number"),
    "a size that is a truth": (entry(shape=[True, 4]), 16, "no whole number"),
    "a size past 64 bits": (entry(shape=[2**62, 2**62, 2]), 16, r"does not fill its 16 bytes"),
    "a size too many": (
        entry(shape=[2, 3]),
        16,
        r"tensor 'a' is F32 \[2, 3\], which does not fill its 16 bytes",
    ),
    "less data than promised": (entry(), 12, r"lies at bytes 0 to 16 of 12: the file is cut short"),
    "a begin behind the end": (entry(data_offsets=[16, 0]), 16, "lies at bytes 16 to 0"),
    "a negative begin": (entry(data_offsets=[-16, 0]), 16, "no whole number"),
    "data that is nobody's": (entry(), 20, "has 4 bytes behind its last tensor"),
    "a hole": (
        entry(data_offsets=[4, 20]),
        20,
        r"tensor 'a' begins at byte 4, where the one before ends at 0",
    ),
    "shared bytes": (
        json.dumps({n: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for n in "ab"}).encode(),
        16,
        r"tensor 'b' begins at byte 0, where the one before ends at 16",
    ),
}


@pytest.mark.parametrize("fault", HEADERS)
def test_security_a_header_that_lies_is_refused(fault, tmp_path):
    header, size, message = HEADERS[fault]
    path = tmp_path / "bad.safetensors"
    if size is None:
        path.write_bytes((1000).to_bytes(8, "little") + header + bytes(16))
    else:
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    with pytest.raises(ValueError, match=message) as refused:
        safetensors.read(path)
    told = str(refused.value)
    assert str(path) in told
    assert "\n" not in told
    assert len(told) < 400 + len(str(path))


@pytest.mark.parametrize("content", [b"", b"1234567", b"\x80\x02}q\x00."], ids=["empty", "short", "a pickle"])
def test_security_what_is_no_such_file_is_refused(content, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.safetensors is no safetensors file, or cut short"):
        safetensors.read(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*nowhere: No such file or directory"):
        safetensors.read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"cannot read .*: Is a directory"):
        safetensors.read(tmp_path)


def test_what_is_not_looked_at_is_not_read(tmp_path):
    """A tensor of a terabyte, in a file that is a hole from end to end."""
    count = 2**38
    header = entry(shape=[count], data_offsets=[0, 4 * count])
    path = tmp_path / "sparse.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 4 * count)
    assert safetensors.read(path)["a"][-1] == 0
