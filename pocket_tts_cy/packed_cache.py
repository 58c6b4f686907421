"""Packed weights on disk: a model that was packed once starts from a memory-mapped file.

A file is named after what it was made from: the weights files, the layout of the kernels and the
precision. It is written under a temporary name and renamed, so it is complete or absent; it is
checked when it is opened, and one that is damaged is removed and made anew. Processes that map the
same file share its memory.

File layout: one page of header (magic, payload size, checksum, name), then the payload.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .atomic_file import replacing_file
from .engine import checksum, packed_layout

logger = logging.getLogger(__name__)

#: Environment variable that sets the folder of the cache.
CACHE_VARIABLE = "POCKET_TTS_CY_CACHE"
#: Smaller models are packed faster than a file is found.
MIN_BYTES = 16_000_000

_MAGIC = b"PTCPACK1"
_HEADER = struct.Struct("<8sQQ64s")
# A page, so that the payload is aligned in the mapping.
_PAYLOAD_OFFSET = 4096
# What is read of a weights file to recognise it, besides its size and time of change.
_SAMPLE_BYTES = 65536
_SAMPLES = 16


def cache_folder() -> Path:
    """Folder of the packed weights.

    ``POCKET_TTS_CY_CACHE``, else ``pocket_tts_cy/packed`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    chosen = os.environ.get(CACHE_VARIABLE, "").strip()
    if chosen:
        return Path(chosen).expanduser()
    home = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(home) if home else Path.home() / ".cache") / "pocket_tts_cy" / "packed"


def cache_name(files: Sequence[Path], precision: str) -> str:
    """Name of the packed form of some weights files.

    Hashed are each file's size, its time of change, its first 64 KB (with the table of tensors) and
    pieces spread over the rest: reading all of a large file would take longer than packing it.

    Parameters
    ----------
    files : sequence of Path
        The weights files of a model, in the order in which they are read.
    precision : str
        How the weights are packed.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    digest = hashlib.blake2b(packed_layout(precision).encode(), digest_size=32)
    for path in files:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            digest.update(struct.pack("<Qq", status.st_size, status.st_mtime_ns))
            for sample in range(_SAMPLES):
                file.seek(sample * max(status.st_size - _SAMPLE_BYTES, 0) // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def open_packed(name: str) -> memoryview | None:
    """The packed weights of that name, mapped.

    Parameters
    ----------
    name : str
        From :func:`cache_name`.

    Returns
    -------
    memoryview or None
        None when there is no such file, or it was damaged and has been removed.
    """
    path = _path(name)
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # absent, or empty
        return None
    payload = memoryview(mapped)[_PAYLOAD_OFFSET:]
    if len(mapped) >= _PAYLOAD_OFFSET:
        magic, size, check, stored_name = _HEADER.unpack_from(mapped)
        if (
            magic == _MAGIC
            and size == len(payload)
            and stored_name == name.encode()
            and check == checksum(payload)
        ):
            return payload
    logger.warning("the packed weights %s are damaged; they are made anew", path)
    with contextlib.suppress(OSError):
        path.unlink()
    return None


def store_packed(name: str, pieces: Iterable[Any]) -> bool:
    """Write packed weights.

    Parameters
    ----------
    name : str
        From :func:`cache_name`.
    pieces : iterable of buffer
        The payload, piece by piece.

    Returns
    -------
    bool
        False when the file could not be written (no room, read-only folder); nothing is left
        behind then, and the caller goes on without it.
    """
    path = _path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as file:
            file.write(bytes(_PAYLOAD_OFFSET))
            for piece in pieces:
                file.write(piece)
            size = file.tell() - _PAYLOAD_OFFSET
            file.flush()
            file.seek(0)
            file.write(
                _HEADER.pack(_MAGIC, size, _payload_checksum(Path(file.name)), name.encode())
            )
    except OSError as exc:
        logger.warning("the packed weights are not kept: %s", exc)
        return False
    return True


def _payload_checksum(path: Path) -> int:
    """Checksum of the payload as one run of bytes, read back from the file."""
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
        view[_PAYLOAD_OFFSET:] as payload,
    ):
        return checksum(payload)


def cached_files() -> list[tuple[Path, int]]:
    """Files of the cache and their sizes in bytes."""
    folder = cache_folder()
    if not folder.is_dir():
        return []
    return sorted((path, path.stat().st_size) for path in folder.glob("*.packed"))


def clear_cache() -> int:
    """Remove all packed weights.

    Returns
    -------
    int
        Bytes that were freed. Processes that have a file mapped keep it until they end.
    """
    freed = 0
    for path, size in cached_files():
        path.unlink(missing_ok=True)
        freed += size
    return freed


def _path(name: str) -> Path:
    return cache_folder() / f"{name}.packed"
