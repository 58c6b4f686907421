"""The frame loop allocates nothing, and speaking for long does not grow the process."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from random_engine import LATENT, engine_of

from pocket_tts_cy.engine import FlowLMStream, MimiStream

STEPS = 500
COUNTER = Path(__file__).parent / "c" / "count_malloc.c"
# What a few Python objects may hold on to; one float of memory per step would be 2,000.
TINY = 1024


class MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of the GNU C library."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


def malloc_info() -> Callable[[], MallocInfo]:
    """The C library's ``mallinfo2``; skips where it has none (musl, macOS, glibc < 2.33)."""
    try:
        function = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        pytest.skip("the C library has no mallinfo2")
    function.restype = MallocInfo
    return function


@pytest.fixture
def allocated() -> Iterator[Callable[[], int]]:
    """Bytes that the process has allocated through malloc, in the main heap and in maps."""
    info = malloc_info()

    def measure() -> int:
        now = info()
        return now.uordblks + now.hblkhd

    gc.collect()
    gc.disable()
    yield measure
    gc.enable()


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


class Speaker:
    """Both streams of a model in the steady state of a frame loop."""

    def __init__(self, name: str, threads: int) -> None:
        engine = engine_of(name)
        self.threads = threads
        self.flow_lm, self.mimi = FlowLMStream(engine), MimiStream(engine)
        self.flow_lm.begin([], 0, 2 * STEPS + 40)
        self.flow_lm.prefill_tokens(np.arange(16), threads)
        self.noise = np.random.default_rng(1).standard_normal(LATENT, np.float32)
        self.latents = np.zeros((4, LATENT), np.float32)
        self.audio = np.zeros(4 * engine.samples_per_frame, np.float32)

    def speak(self, frames: int) -> None:
        for _ in range(frames // 4):
            for latent in self.latents:
                self.flow_lm.step(self.noise, latent, 1, self.threads)
            self.mimi.decode(self.latents, self.audio, self.threads)


@pytest.mark.parametrize("name", ["small", "embedded"])
@pytest.mark.parametrize(("threads", "steps"), [(1, STEPS), (2, 100)])
def test_frame_loop_keeps_nothing(
    name: str, threads: int, steps: int, allocated: Callable[[], int]
) -> None:
    speaker = Speaker(name, threads)
    speaker.speak(20)  # the team of threads and the table of time embeddings
    before = allocated()
    speaker.speak(steps)
    assert allocated() - before < TINY


def large_allocations() -> int:
    """Number of large allocations in 500 steps of this process, counted by the preloaded library.

    Runs in the process that `test_frame_loop_allocates_nothing` starts.
    """
    counter = ctypes.CDLL(None).count_malloc_large
    counter.restype = ctypes.c_long
    before_all = counter()
    speaker = Speaker("embedded", 1)
    assert counter() > before_all
    speaker.speak(20)
    gc.disable()
    before = counter()
    speaker.speak(STEPS)
    return counter() - before


def test_frame_loop_allocates_nothing(tmp_path: Path) -> None:
    """Not even what is freed again: every call of malloc is seen."""
    compiler = shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and gcc to put a counter in front of malloc")
    library = tmp_path / "count_malloc.so"
    command = [compiler, "-O1", "-shared", "-fPIC", str(COUNTER), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    result = subprocess.run(
        [sys.executable, "-c", "import test_memory; print(test_memory.large_allocations())"],
        cwd=Path(__file__).parent,
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["0"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_resident_memory_does_not_grow() -> None:
    """Once the pages of the key/value cache have been touched nothing is added."""
    speaker = Speaker("embedded", 1)
    speaker.speak(STEPS)
    speaker.flow_lm.begin([], 0, 2 * STEPS + 40)
    speaker.mimi.reset()
    gc.collect()
    before = resident_bytes()
    speaker.speak(STEPS)
    assert resident_bytes() - before <= 16 * resource.getpagesize()


def test_streams_begun_again_keep_their_memory(allocated: Callable[[], int]) -> None:
    speaker = Speaker("small", 1)
    voice = speaker.flow_lm.export_cache()

    def one_text(capacity: int) -> None:
        speaker.flow_lm.begin(voice, 16, capacity)
        speaker.flow_lm.prefill_tokens(np.arange(16), 1)
        speaker.mimi.reset()
        speaker.speak(8)

    one_text(60)
    before = allocated()
    for capacity in [30, 60, 24, 47] * 50:
        one_text(capacity)
    assert allocated() - before < TINY


def test_streams_give_their_memory_back(allocated: Callable[[], int]) -> None:
    def one_speaker() -> None:
        Speaker("embedded", 1).speak(4)

    one_speaker()
    before = allocated()
    for _ in range(5):
        one_speaker()
    assert allocated() - before < 10 * TINY


def test_a_failed_begin_leaks_nothing(allocated: Callable[[], int]) -> None:
    engine = engine_of("small")
    stream = FlowLMStream(engine)
    wrong = [np.zeros((2, 1, 3, 9, 9), np.float32)] * engine.n_layers

    def fail() -> None:
        with pytest.raises(ValueError, match="layer 0"):
            stream.begin(wrong, 3, 10)

    fail()
    before = allocated()
    for _ in range(50):
        fail()
    assert allocated() - before < 10 * TINY
