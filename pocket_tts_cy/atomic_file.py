"""Files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

#: Names that begin so are doors to a stream that is already open, not files to be replaced.
_OPEN_STREAMS = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` only when the block ends without an exception.

    The bytes go to a temporary file in the same folder, which is renamed at the end and removed
    after any exception, so a reader never sees half a file. A symbolic link is followed. A
    device, FIFO or open stream (``/dev/null``, ``/dev/stdout``) is written directly.

    Parameters
    ----------
    path : str or os.PathLike
        Where the file shall be.

    Yields
    ------
    BinaryIO
        The open file.

    Raises
    ------
    OSError
        The folder does not exist or cannot be written, or `path` is a folder or a
        write-protected file; the message names `path`. Also a full disk.
    """
    target = Path(path)
    mode = _mode_of_existing(target)
    if mode is not None and stat.S_ISDIR(mode):
        raise _os_error(errno.EISDIR, target)
    if str(target).startswith(_OPEN_STREAMS) or (mode is not None and not stat.S_ISREG(mode)):
        with open(target, "wb") as stream:
            yield stream
        return

    target = Path(os.path.realpath(target))
    if mode is not None and not os.access(target, os.W_OK):
        raise _os_error(errno.EACCES, target)
    temporary = target.parent / f".{secrets.token_hex(8)}.part"
    try:
        # Unlike tempfile's, this file gets the permissions that the umask asks for.
        file = open(temporary, "xb")  # noqa: SIM115 - closed before the rename below
    except OSError as exc:
        # The temporary name would only confuse.
        raise _os_error(exc.errno, target) from None
    try:
        with file:
            yield file
        if mode is not None:
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _os_error(number: int | None, path: Path) -> OSError:
    """The subclass of OSError that belongs to an error number."""
    number = number or errno.EIO
    return OSError(number, os.strerror(number), str(path))


def _mode_of_existing(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
