"""Writing of safetensors files, one tensor in memory at a time."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping

from .atomic_file import replacing_file
from .safetensors_reader import NUMPY_TYPES, Tensor, item_size

#: The data starts at a multiple of this many bytes, so that every tensor is aligned for its type.
_ALIGNMENT = 8


def write_safetensors(
    path: str | os.PathLike[str],
    layout: Mapping[str, tuple[str, tuple[int, ...]]],
    tensor: Callable[[str], Tensor],
) -> None:
    """Write a safetensors file under a temporary name, then rename it.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write or replace.
    layout : mapping of str to (str, tuple of int)
        Type name and shape of each tensor, written into the header.
    tensor : callable
        Returns the tensor of a name. Called once per name just before it is written, widest
        types first, then by name (the order of the safetensors library).

    Raises
    ------
    OSError
        The file cannot be written.
    ValueError
        A returned tensor differs from its layout.
    """
    names = sorted(layout, key=lambda name: (-item_size(layout[name][0]), name))
    header: dict[str, object] = {}
    position = 0
    for name in names:
        dtype, shape = layout[name]
        end = position + math.prod(shape) * item_size(dtype)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)

    with replacing_file(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            value = tensor(name)
            if (value.dtype, value.shape) != layout[name] or value.data.shape != value.shape:
                raise ValueError(f"{name} is {value.dtype} {value.shape}, not {layout[name]}")
            # Without a copy when the array is already little-endian and contiguous.
            file.write(value.data.astype(NUMPY_TYPES[value.dtype], order="C", copy=False).data)
