"""Reading of safetensors files through a memory map, every header field checked.

A file is eight bytes (little-endian length of the header), a JSON header that maps a name to
``{"dtype", "shape", "data_offsets"}``, and the data. The reader follows the format's own rules:
names are unique, tensors lie next to each other without holes or overlaps and fill the file.
Nothing of a file is believed before it is checked, so a damaged or hostile file gives one
clear error.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import PocketTTSError, WeightsError

#: Longest header that the format allows, in bytes.
MAX_HEADER_BYTES = 100_000_000
#: More dimensions than any tensor of a model has; NumPy's own limit is 32 or 64.
MAX_DIMENSIONS = 8

_LENGTH_BYTES = 8
_SHOWN_CHARACTERS = 120

#: NumPy type of each type of the format. BF16 has none and stays as its bits. BOOL is read as
#: bytes, because a file may hold values other than 0 and 1, which a NumPy bool must not.
NUMPY_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "<u1",
}


def item_size(dtype: str) -> int:
    """Bytes of one value of a type of the format."""
    return np.dtype(NUMPY_TYPES[dtype]).itemsize


@dataclass(frozen=True)
class Tensor:
    """One tensor of a safetensors file.

    Attributes
    ----------
    dtype : str
        Type name of the format, for example "F32", "F16" or "BF16".
    shape : tuple of int
        Shape of the tensor.
    data : numpy.ndarray
        C-contiguous values of that shape; not writable when they are a view of the memory map.
        BF16 values are uint16 words holding the upper half of a float32.
    """

    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray

    @classmethod
    def from_float32(cls, values: np.ndarray, dtype: str) -> Tensor:
        """Round float32 values to a storage type.

        Parameters
        ----------
        values : numpy.ndarray
            Values of any shape; converted to float32 first.
        dtype : str
            "F32", "F16" or "BF16" (round to nearest, ties to even).

        Returns
        -------
        Tensor
            The rounded values.
        """
        values = np.asarray(values, dtype=np.float32, order="C")
        if dtype == "F32":
            data = values
        elif dtype == "F16":
            data = values.astype(np.float16)
        elif dtype == "BF16":
            data = _bfloat16_bits(values)
        else:
            raise ValueError(f"cannot store float values as {dtype}; use F32, F16 or BF16")
        return cls(dtype, values.shape, data)

    def as_float32(self) -> np.ndarray:
        """Values as a new float32 array of the same shape."""
        if self.dtype == "BF16":
            wide = self.data.astype(np.uint32)
            wide <<= 16
            return wide.view(np.float32)
        return self.data.astype(np.float32)


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Round float32 values to bfloat16 bits: nearest, ties to even, NaN stays NaN."""
    bits = values.view(np.uint32)
    # Adding just under half a unit, plus the lowest kept bit, carries exactly when rounding up.
    rounded = bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))
    words = np.asarray((rounded >> 16).astype(np.uint16))
    words[np.isnan(values)] = 0x7FC0
    return words


def read_safetensors(
    path: str | os.PathLike[str], error: type[PocketTTSError] = WeightsError
) -> dict[str, Tensor]:
    """Map a safetensors file into memory and return its tensors by name.

    The tensors are views of the memory map: only what is used is read from the disk. A tensor
    that is not aligned for its type is copied.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    error : type, default WeightsError
        Exception class for a file that breaks the format.

    Returns
    -------
    dict of str to Tensor
        The tensors, in the order of the header.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    OSError
        The file cannot be opened.
    WeightsError
        (or `error`) The file is damaged; the message names file, tensor and what was expected.

    Notes
    -----
    Format: https://huggingface.co/docs/safetensors (its rules are those of the Rust library's
    validation).
    """
    path = Path(path)
    buffer = _map_file(path, error)
    header_length = int.from_bytes(buffer[:_LENGTH_BYTES], "little")
    available = len(buffer) - _LENGTH_BYTES
    if header_length > min(MAX_HEADER_BYTES, available):
        raise error(
            f"{path}: not a safetensors file or cut short: the header should have "
            f"{header_length} bytes, at most {min(MAX_HEADER_BYTES, available)} are possible"
        )
    data_start = _LENGTH_BYTES + header_length
    header = _parse_header(path, buffer[_LENGTH_BYTES:data_start], error)
    data_length = len(buffer) - data_start

    tensors: dict[str, Tensor] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            _check_metadata(path, entry, error)
            continue
        dtype, shape, begin, end = _check_entry(path, name, entry, data_length, error)
        spans.append((begin, end, name))
        tensors[name] = _view(buffer, dtype, shape, data_start + begin)
    _check_coverage(path, spans, data_length, error)
    return tensors


def _map_file(path: Path, error: type[PocketTTSError]) -> mmap.mmap:
    # Opening a FIFO would wait for a writer, so the kind of file is checked first.
    if not stat.S_ISREG(path.stat().st_mode):
        raise error(f"{path}: is not a regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < _LENGTH_BYTES:
            raise error(
                f"{path}: not a safetensors file: it has {size} bytes, the header needs more"
            )
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _parse_header(path: Path, raw: bytes, error: type[PocketTTSError]) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        raise error(f"{path}: not a safetensors file: the header is not a JSON object")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            name = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise error(f"{path}: the header has {_shown(name)} twice")
        return result

    try:
        # An object, as its first character was checked.
        return json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as exc:
        # PocketTTSError classes derive from ValueError too: hand the clear message on.
        if isinstance(exc, PocketTTSError):
            raise
        raise error(f"{path}: the safetensors header is not valid JSON ({exc})") from None


def _check_metadata(path: Path, entry: object, error: type[PocketTTSError]) -> None:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise error(f"{path}: __metadata__ should map names to strings")


def _check_entry(
    path: Path, name: str, entry: object, data_length: int, error: type[PocketTTSError]
) -> tuple[str, tuple[int, ...], int, int]:
    """Check one header entry; return its type, shape and byte range within the data."""
    where = f"{path}: tensor {_shown(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise error(f"{where}: should have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in NUMPY_TYPES:
        raise error(f"{where}: type {_shown(dtype)} is not one of {', '.join(sorted(NUMPY_TYPES))}")
    if not _is_size_list(shape) or len(shape) > MAX_DIMENSIONS:
        raise error(
            f"{where}: shape {_shown(shape)} should be a list of at most {MAX_DIMENSIONS} "
            "integers >= 0"
        )
    # NumPy multiplies the sizes with zeros left out, so that product must not overflow either.
    if math.prod(max(size, 1) for size in shape) * item_size(dtype) >= 2**63:
        raise error(f"{where}: shape {_shown(shape)} is too large for any file")
    if not _is_size_list(offsets) or len(offsets) != 2:
        raise error(f"{where}: data_offsets {_shown(offsets)} should be two integers >= 0")
    begin, end = offsets
    if not begin <= end <= data_length:
        raise error(
            f"{where}: bytes {_shown(begin)} to {_shown(end)} are not inside the file's "
            f"{data_length} bytes of data; the file is damaged or cut short"
        )
    expected = math.prod(shape) * item_size(dtype)
    if end - begin != expected:
        raise error(
            f"{where}: {dtype} of shape {shape} needs {expected} bytes, the header gives "
            f"{end - begin}"
        )
    return dtype, tuple(shape), begin, end


def _is_size_list(value: object) -> bool:
    # bool is a subclass of int, so the exact type is asked for.
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_coverage(
    path: Path, spans: list[tuple[int, int, str]], data_length: int, error: type[PocketTTSError]
) -> None:
    """The tensors, sorted by position, must follow each other exactly up to the file's end."""
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            problem = "overlaps another tensor" if begin < position else "leaves a hole before it"
            raise error(
                f"{path}: tensor {_shown(name)} {problem}: it starts at byte {begin}, "
                f"{position} was expected"
            )
        position = end
    if position != data_length:
        raise error(
            f"{path}: the tensors fill {position} bytes but the file has {data_length} bytes "
            "of data"
        )


def _view(buffer: mmap.mmap, dtype: str, shape: tuple[int, ...], start: int) -> Tensor:
    numpy_type = np.dtype(NUMPY_TYPES[dtype])
    if 0 in shape:
        return Tensor(dtype, shape, np.empty(shape, numpy_type))
    flat = np.frombuffer(buffer, numpy_type, count=math.prod(shape), offset=start)
    if not (flat.flags.aligned and numpy_type.isnative):
        flat = flat.astype(numpy_type.newbyteorder("="))
        flat.flags.writeable = False
    return Tensor(dtype, shape, flat.reshape(shape))


def _shown(value: object) -> str:
    """Value as it appears in a message: escaped, and short even when a hostile one is not."""
    if type(value) is int and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, str | list):
        value = value[:_SHOWN_CHARACTERS]
    if isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
        return "a nested list"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
