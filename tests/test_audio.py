"""Audio arrays, conversion to 16 bits, and WAV files against the reference's bytes."""

import io
import os
import pickle
import subprocess
import sys
import threading
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from pocket_tts_cy import audio
from pocket_tts_cy.audio import AudioArray, WavWriter, fade_in, to_int16, wav_header
from pocket_tts_cy.errors import AudioError

GOLDEN = np.load(Path(__file__).parent / "data" / "wav_reference.npz")
SAMPLES = GOLDEN["samples"]
RATE = 24000
SILENCE = RATE // 5


class Unseekable(io.BytesIO):
    def seekable(self):
        return False


class Interruption(BaseException):
    """As KeyboardInterrupt, which pytest would take for itself."""


# ------------------------------------------------------------------------------------------------
# Arrays


def test_answers_of_a_tensor():
    array = AudioArray([0.5, -1.0, 2.0])
    assert array.dtype == np.float32
    plain = array.detach().cpu().numpy()
    assert type(plain) is np.ndarray
    assert np.shares_memory(plain, array)
    assert (array.dim(), array.numel(), array.size) == (1, 3, 3)
    assert array.unsqueeze(0).shape == (1, 3)
    assert array.unsqueeze(-1).shape == (3, 1)
    assert array.tolist() == [0.5, -1.0, 2.0]
    copy = array.clone()
    copy[0] = 9
    assert array[0] == np.float32(0.5)


def test_results_of_operations_are_audio_arrays():
    array = AudioArray(np.arange(6, dtype=np.float32))
    results = [
        array[1:4],
        array[::2],
        array * 0.5,
        np.concatenate([array, array]),
        np.concatenate([array, np.zeros(3, np.float32)]),
        array.copy(),
        array.unsqueeze(0),
        pickle.loads(pickle.dumps(array)),
    ]
    for result in results:
        assert type(result) is AudioArray
        assert result.dtype == np.float32
    np.testing.assert_array_equal(results[-1], array)
    assert float(array.max()) == 5.0
    assert type(AudioArray(AudioArray([1.0])).numpy()) is np.ndarray


def test_no_copy_of_float32():
    plain = np.zeros(4, np.float32)
    assert np.shares_memory(AudioArray(plain), plain)


@pytest.mark.parametrize("length", [0, 1, 119, 120, 121, 1920])
def test_fade_in(length):
    samples = np.full(length, 2.0, np.float32)
    fade_in(samples, RATE)
    expected = [2 * min(k / 119, 1) for k in range(length)]
    np.testing.assert_allclose(samples, expected, rtol=1e-6)


# ------------------------------------------------------------------------------------------------
# 16 bits


def test_conversion_is_the_references():
    pcm = np.frombuffer(GOLDEN["seekable"][44 : 44 + 2 * len(SAMPLES)].tobytes(), "<i2")
    np.testing.assert_array_equal(to_int16(SAMPLES), pcm)


@given(st_numpy.arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32)))
def test_conversion_of_any_value(samples):
    before = samples.copy()
    pcm = to_int16(samples)
    np.testing.assert_array_equal(samples, before)
    assert pcm.dtype == np.dtype("<i2")
    for value, result in zip(samples, pcm.tolist(), strict=True):
        if np.isnan(value):
            assert result == 0
        else:
            product = np.float32(min(max(value, np.float32(-1)), np.float32(1))) * np.float32(32767)
            assert result == int(product)


# ------------------------------------------------------------------------------------------------
# Files


def write_all(target, pieces=(100, 101)):
    with WavWriter(target, RATE) as writer:
        for piece in np.split(SAMPLES, pieces):
            writer.write(piece)


def test_a_file_has_the_references_bytes(tmp_path):
    path = tmp_path / "out.wav"
    write_all(path)
    assert path.read_bytes() == GOLDEN["seekable"].tobytes()
    write_all(str(path), pieces=())
    assert path.read_bytes() == GOLDEN["seekable"].tobytes()
    assert list(tmp_path.iterdir()) == [path]
    with wave.open(str(path)) as read:
        assert read.getparams()[:4] == (1, 2, RATE, len(SAMPLES) + SILENCE)


def test_file_objects_have_the_references_bytes():
    seekable, stream = io.BytesIO(), Unseekable()
    write_all(seekable)
    write_all(stream)
    assert seekable.getvalue() == GOLDEN["seekable"].tobytes()
    assert stream.getvalue() == GOLDEN["stream"].tobytes()
    assert not seekable.closed


def test_a_file_object_keeps_what_was_before():
    target = io.BytesIO()
    target.write(b"before")
    write_all(target)
    target.write(b"after")
    assert target.getvalue() == b"before" + GOLDEN["seekable"].tobytes() + b"after"


def test_a_minimal_object_is_a_stream():
    class Minimal:
        def __init__(self):
            self.parts = []

        def write(self, data):
            self.parts.append(bytes(data))

        def flush(self):
            pass

    target = Minimal()
    write_all(target)
    assert b"".join(target.parts) == GOLDEN["stream"].tobytes()


def test_header_fields():
    with wave.open(io.BytesIO(wav_header(22050, 3) + bytes(6))) as read:
        assert read.getparams()[:4] == (1, 2, 22050, 3)


def test_two_dimensional_mono_and_what_is_not_mono(tmp_path):
    target = io.BytesIO()
    with WavWriter(target, RATE) as writer:
        writer.write(SAMPLES[None, :])
        assert writer.n_samples == len(SAMPLES)
        for bad in (np.zeros((2, 5), np.float32), np.float32(1), np.zeros((1, 1, 5), np.float32)):
            with pytest.raises(AudioError, match="mono"):
                writer.write(bad)
    assert target.getvalue() == GOLDEN["seekable"].tobytes()


def test_without_samples_there_is_the_silence(tmp_path):
    path = tmp_path / "out.wav"
    write_all(path)
    with WavWriter(path, RATE):
        pass
    assert path.read_bytes() == wav_header(RATE, SILENCE) + bytes(2 * SILENCE)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Interruption])
@pytest.mark.parametrize("exists", [False, True])
def test_an_exception_leaves_the_folder_as_it_was(tmp_path, error, exists):
    path = tmp_path / "out.wav"
    if exists:
        path.write_bytes(b"old")

    def interrupted():
        with WavWriter(path, RATE) as writer:
            writer.write(SAMPLES)
            raise error("in the middle")

    with pytest.raises(error, match="in the middle"):
        interrupted()
    assert [item.read_bytes() for item in tmp_path.iterdir()] == [b"old"] * exists


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            if self.tell() > 1000:
                raise OSError(28, "No space left on device")
            return super().write(data)

    real_open = open
    monkeypatch.setattr(
        "builtins.open",
        lambda path, mode="r", *a, **k: (
            Full(path, mode.replace("b", "")) if "x" in mode else real_open(path, mode, *a, **k)
        ),
    )
    writer = WavWriter(tmp_path / "out.wav", RATE)

    def fill():
        with writer:
            for _ in range(5):
                writer.write(SAMPLES)

    with pytest.raises(OSError, match="No space left"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_failure_at_the_very_end_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "_MAX_SIZE_FIELD", 36 + 2 * (len(SAMPLES) + SILENCE) - 1)
    path = tmp_path / "out.wav"
    with pytest.raises(AudioError, match="4 GiB"):
        write_all(path)
    assert list(tmp_path.iterdir()) == []


def test_more_than_4_gib_is_refused_for_files_only(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "_MAX_SIZE_FIELD", 36 + 2 * (len(SAMPLES) + SILENCE))
    write_all(tmp_path / "out.wav")
    stream = Unseekable()
    with WavWriter(stream, RATE) as writer:
        writer.write(SAMPLES)
        writer.write(SAMPLES)
    assert len(stream.getvalue()) == 44 + 2 * (2 * len(SAMPLES) + SILENCE)
    with (
        pytest.raises(AudioError, match="cannot exceed 4 GiB"),
        WavWriter(io.BytesIO(), RATE) as writer,
    ):
        writer.write(np.zeros(len(SAMPLES) + SILENCE + 1, np.float32))


def test_the_size_limit_is_that_of_the_header():
    largest = (audio._MAX_SIZE_FIELD - audio._RIFF_OVERHEAD) // 2
    assert int.from_bytes(wav_header(RATE, largest)[4:8], "little") <= 0xFFFF_FFFF
    with pytest.raises(Exception, match="4294967295"):
        wav_header(RATE, largest + 1)


def test_unwritable_targets(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    cases = {
        tmp_path / "no" / "out.wav": FileNotFoundError,
        tmp_path / "file" / "out.wav": NotADirectoryError,
        tmp_path: IsADirectoryError,
    }
    for path, error in cases.items():
        with pytest.raises(error) as caught:
            write_all(path)
        assert str(path) in str(caught.value)
        assert ".part" not in str(caught.value)


def test_write_outside_of_the_block_is_an_error(tmp_path):
    writer = WavWriter(io.BytesIO(), RATE)
    with pytest.raises(ValueError, match="with block"):
        writer.write(SAMPLES)
    with writer:
        writer.write(SAMPLES)
    with pytest.raises(ValueError, match="with block"):
        writer.write(SAMPLES)


def test_devices_and_fifos_are_written_directly(tmp_path):
    write_all("/dev/null")
    assert Path("/dev/null").is_char_device()
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    received = []
    reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
    reader.start()
    write_all(fifo)
    reader.join(timeout=30)
    assert received == [GOLDEN["stream"].tobytes()]
    assert fifo.is_fifo()


PROGRAM = """
import sys
import numpy as np
from pocket_tts_cy.audio import WavWriter
with WavWriter(sys.argv[1], 24000) as writer:
    writer.write(np.load(sys.argv[2])["samples"])
"""


@pytest.mark.parametrize("target", ["-", "/dev/stdout"])
def test_standard_output(tmp_path, target):
    golden = Path(__file__).parent / "data" / "wav_reference.npz"
    command = [sys.executable, "-c", PROGRAM, target, str(golden)]
    piped = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60)
    assert piped.stdout == GOLDEN["stream"].tobytes()
    # Redirected into a file, the length is known in the end.
    with open(tmp_path / "redirected.wav", "wb") as file:
        subprocess.run(command, stdout=file, check=True, timeout=60)
    assert (tmp_path / "redirected.wav").read_bytes() == GOLDEN["seekable"].tobytes()
    assert len(list(tmp_path.iterdir())) == 1
