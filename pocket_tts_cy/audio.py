"""Audio arrays and the writing of WAV files."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from .atomic_file import replacing_file
from .errors import AudioError

#: Silence that ends every file, in seconds, so that players do not cut the last word.
TAIL_SECONDS = 0.2
#: Number of frames in the header of a stream, whose length is not known when it begins.
STREAM_FRAMES = 1_000_000_000
#: The first samples of a chunk hide a small step of a fresh decoder under a ramp of 5 ms.
FADE_IN_FRACTION = 200

_BYTES_PER_SAMPLE = 2
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_PCM = 1
_MAX_SIZE_FIELD = 0xFFFF_FFFF
# The size field of the RIFF chunk counts all of the header but itself and the name before it.
_RIFF_OVERHEAD = _HEADER.size - 8


class AudioArray(np.ndarray):
    """Float32 samples that also answer the methods of a PyTorch tensor that audio code uses.

    A NumPy array in every other respect: ``size`` is the number of elements, not a method.
    """

    # Above that of plain arrays, so that joining with them gives an audio array.
    __array_priority__ = 1.0

    def __new__(cls, samples: Any) -> AudioArray:
        """View samples as an audio array; other types are converted to float32."""
        return np.asarray(samples, dtype=np.float32).view(cls)

    def numpy(self) -> np.ndarray:
        """The same samples as a plain array."""
        return self.view(np.ndarray)

    def detach(self) -> AudioArray:
        """The array itself: there is no gradient."""
        return self

    def cpu(self) -> AudioArray:
        """The array itself: it is always in main memory."""
        return self

    def clone(self) -> AudioArray:
        """A copy."""
        return self.copy()

    def dim(self) -> int:
        """Number of dimensions."""
        return self.ndim

    def numel(self) -> int:
        """Number of samples."""
        return self.size

    def unsqueeze(self, dim: int) -> AudioArray:
        """View with a further dimension of length one."""
        return np.expand_dims(self, dim).view(AudioArray)


def fade_in(samples: np.ndarray, sample_rate: int) -> None:
    """Ramp the first 5 ms of a chunk up from zero, in place.

    Parameters
    ----------
    samples : numpy.ndarray
        float32 ``[n]``, the beginning of a chunk.
    sample_rate : int
        In Hz.
    """
    ramp = np.linspace(0, 1, sample_rate // FADE_IN_FRACTION, dtype=np.float32)
    n = min(len(ramp), len(samples))
    samples[:n] *= ramp[:n]


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Samples as 16-bit integers: clamped to [-1, 1], times 32767, rounded towards zero.

    Parameters
    ----------
    samples : numpy.ndarray
        float32, any shape. NaN becomes silence.

    Returns
    -------
    numpy.ndarray
        Little-endian int16 of the same shape.
    """
    scaled = np.clip(samples, -1, 1) * np.float32(32767)
    return np.nan_to_num(scaled, copy=False).astype("<i2")


def wav_header(sample_rate: int, n_samples: int) -> bytes:
    """The 44 bytes before the samples of a 16-bit mono WAV file.

    Parameters
    ----------
    sample_rate : int
        In Hz.
    n_samples : int
        Number of samples that follow.

    Returns
    -------
    bytes
        RIFF, fmt and data chunk headers.
    """
    data_bytes = n_samples * _BYTES_PER_SAMPLE
    return _HEADER.pack(
        b"RIFF",
        data_bytes + _RIFF_OVERHEAD,
        b"WAVE",
        b"fmt ",
        16,
        _PCM,
        1,
        sample_rate,
        sample_rate * _BYTES_PER_SAMPLE,
        _BYTES_PER_SAMPLE,
        8 * _BYTES_PER_SAMPLE,
        b"data",
        data_bytes,
    )


class WavWriter:
    """Write a 16-bit mono WAV file while its samples are made; use it in a ``with`` block.

    A path is written under a temporary name that is renamed at the end of the block; after an
    exception nothing is left. Standard output ("-"), a device, FIFO or file object is written
    directly: with the true length when it can seek, else with a header that announces a very
    long stream. The end of the block appends 200 ms of silence.

    Parameters
    ----------
    target : str, os.PathLike or file object
        Where to write; "-" is standard output. A file object stays open.
    sample_rate : int
        In Hz.

    Attributes
    ----------
    n_samples : int
        Samples written so far.

    Raises
    ------
    OSError
        On entry: the target cannot be written. Later: disk full, reader of a pipe gone.
    """

    def __init__(self, target: str | os.PathLike[str] | BinaryIO, sample_rate: int) -> None:
        self.target = target
        self.sample_rate = sample_rate
        self.n_samples = 0
        self._exit = contextlib.ExitStack()
        self._file: BinaryIO | None = None
        self._seekable = False
        self._start = 0

    def __enter__(self) -> WavWriter:
        # A failure below must close the temporary file as well.
        with contextlib.ExitStack() as stack:
            self._file = self._open(stack)
            self._seekable = _is_seekable(self._file)
            if self._seekable:
                self._start = self._file.tell()
            self._file.write(wav_header(self.sample_rate, STREAM_FRAMES))
            self._exit = stack.pop_all()
        return self

    def _open(self, stack: contextlib.ExitStack) -> BinaryIO:
        if isinstance(self.target, str) and self.target == "-":
            return sys.stdout.buffer
        if isinstance(self.target, str | os.PathLike):
            return stack.enter_context(replacing_file(self.target))
        return self.target

    def write(self, samples: np.ndarray) -> None:
        """Append samples.

        Parameters
        ----------
        samples : numpy.ndarray
            float32 ``[n]`` or ``[1, n]``.

        Raises
        ------
        AudioError
            The samples are not mono, or the file would exceed the format's 4 GiB.
        """
        samples = np.asarray(samples, dtype=np.float32)
        if samples.ndim == 2 and samples.shape[0] == 1:
            samples = samples[0]
        if samples.ndim != 1:
            raise AudioError(
                f"a WAV file takes mono samples [n] or [1, n], not {list(samples.shape)}"
            )
        self._append(to_int16(samples).tobytes())

    def _append(self, data: bytes) -> None:
        if self._file is None:
            raise ValueError("WavWriter has to be used in a with block")
        n_samples = self.n_samples + len(data) // _BYTES_PER_SAMPLE
        # A stream's header states no true length, so a stream may go on.
        if self._seekable and n_samples * _BYTES_PER_SAMPLE + _RIFF_OVERHEAD > _MAX_SIZE_FIELD:
            raise AudioError("a WAV file cannot exceed 4 GiB; write the text in several parts")
        self._file.write(data)
        self.n_samples = n_samples

    def _finish(self) -> None:
        assert self._file is not None
        self._append(bytes(int(self.sample_rate * TAIL_SECONDS) * _BYTES_PER_SAMPLE))
        if self._seekable:
            end = self._file.tell()
            self._file.seek(self._start)
            self._file.write(wav_header(self.sample_rate, self.n_samples))
            self._file.seek(end)
        self._file.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The stack sees an exception of the block or of _finish, and drops the temporary file.
        with self._exit:
            try:
                if error is not None:
                    raise error
                self._finish()
            finally:
                self._file = None


def _is_seekable(file: BinaryIO) -> bool:
    try:
        return bool(file.seekable())
    except (AttributeError, OSError, ValueError):
        return False
