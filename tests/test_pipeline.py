"""The two stages of a generation: order, ends, errors, back-pressure.

A closed form stands in for the compiled streams: the latent of a step is made of its noise and
the number of rows before it, and each sample is made of its latent, so every sample that the
pipeline must deliver is known in advance.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest

from pocket_tts_cy import pipeline
from pocket_tts_cy.pipeline import Generation, Sampling, SpokenChunk, StreamPool, Voice
from pocket_tts_cy.threads import StagePlan

LATENT_DIM = 4
SAMPLES = 50
SAMPLE_RATE = 2000  # a fade-in of 10 samples
MAX_GROUP = 16


class CountingNoise:
    """Draw number n is a vector of n."""

    def __init__(self) -> None:
        self.draws = count()

    def draw(self) -> np.ndarray:
        return np.full(LATENT_DIM, next(self.draws), dtype=np.float32)


class FlowLM:
    """Latent = noise + 1000 * rows; the logit is 1 at the steps of `eos`, else -1."""

    def __init__(self, eos: tuple[int, ...] = (), delay: float = 0.0, fail_at: int | None = None):
        self.eos, self.delay, self.fail_at = eos, delay, fail_at
        self.steps = 0
        self.threads: list[int] = []

    def begin(self, prefix: list[np.ndarray], prefix_length: int, capacity: int) -> None:
        self.length, self.capacity = prefix_length, prefix_length + capacity
        self.step_of_chunk = 0

    def prefill_tokens(self, token_ids: np.ndarray, num_threads: int) -> None:
        self.length += len(token_ids)
        self.threads.append(num_threads)

    def step(
        self, noise: np.ndarray, latent: np.ndarray, decode_steps: int, num_threads: int
    ) -> float:
        time.sleep(self.delay)
        if self.steps == self.fail_at:
            raise ArithmeticError("no such step")
        assert self.length < self.capacity
        latent[:] = noise + 1000 * self.length
        self.length += 1
        self.steps += 1
        self.step_of_chunk += 1
        self.threads.append(num_threads)
        return 1.0 if self.step_of_chunk - 1 in self.eos else -1.0

    def export_cache(self) -> list[np.ndarray]:
        return [np.zeros((2, 1, self.length, 1, 1), dtype=np.float32)]


class Mimi:
    """Every sample of a frame is its latent's first value plus its frame number in the chunk."""

    def __init__(self, delay: float = 0.0, fail_at: int | None = None):
        self.delay, self.fail_at = delay, fail_at
        self.calls: list[tuple[int, int]] = []
        self.frames = 0

    def reset(self) -> None:
        self.frames = 0

    def decode(self, latents: np.ndarray, audio: np.ndarray, num_threads: int) -> None:
        time.sleep(self.delay)
        if len(self.calls) == self.fail_at:
            raise ArithmeticError("no such call")
        self.calls.append((len(latents), num_threads))
        audio[:] = np.repeat(latents[:, 0] + self.frames + np.arange(len(latents)), SAMPLES)
        self.frames += len(latents)


def make(
    chunks: list[SpokenChunk],
    flow_lm: FlowLM,
    mimi: Mimi,
    num_threads: int = 2,
    stop: threading.Event | None = None,
    keep=None,
) -> Generation:
    return Generation(
        chunks,
        Voice([np.zeros((2, 1, 5, 1, 1), dtype=np.float32)], 5, keep),
        Sampling(CountingNoise(), 1, 0.0),  # type: ignore[arg-type]
        StagePlan(num_threads, MAX_GROUP),
        StreamPool(lambda: flow_lm),
        StreamPool(lambda: mimi),
        latent_dim=LATENT_DIM,
        samples_per_frame=SAMPLES,
        sample_rate=SAMPLE_RATE,
        stop=stop or threading.Event(),
    )


def chunk(tokens: int = 3, max_frames: int = 30, frames_after_eos: int = 2) -> SpokenChunk:
    return SpokenChunk(np.arange(tokens, dtype=np.int64), max_frames, frames_after_eos)


def our_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("pocket-tts-")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert not our_threads()


def expected(draw_of_first_step: int, rows: int, frames: int) -> np.ndarray:
    """Samples of one text chunk whose steps begin with that draw, after that many rows."""
    numbers = np.arange(frames)
    samples = draw_of_first_step + numbers + 1000.0 * (rows + numbers) + numbers
    audio = np.repeat(samples, SAMPLES).astype(np.float32)
    audio[:10] *= np.linspace(0, 1, 10, dtype=np.float32)
    return audio


def collect(generation: Generation) -> dict[int, np.ndarray]:
    parts: dict[int, list[np.ndarray]] = {}
    order = []
    for number, samples in generation.audio():
        parts.setdefault(number, []).append(samples)
        order.append(number)
    assert order == sorted(order)
    return {number: np.concatenate(samples) for number, samples in parts.items()}


@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_frames_noise_and_fade_of_several_chunks(num_threads: int) -> None:
    chunks = [chunk(3), chunk(4), chunk(5)]
    audio = collect(make(chunks, FlowLM(eos=(9,)), Mimi(), num_threads))
    # 9 + 2 frames each. Draws: one for the text, one per step, one for the step too many.
    for number, tokens in enumerate((3, 4, 5)):
        first_draw = number * (1 + 11 + 1) + 1
        np.testing.assert_array_equal(audio[number], expected(first_draw, 5 + tokens, 11))


@pytest.mark.parametrize(
    ("eos", "frames_after_eos", "frames"),
    [
        ((0, 3, 5), 2, 30),  # too early to count; the cap ends it
        ((5, 6), 2, 8),  # the sixth step is the first that counts
        ((7, 8, 9), 3, 10),  # only the first counts
        ((10,), 0, 10),  # the frame of the end itself is dropped
        ((28,), 2, 30),  # cap and end at the same frame
        ((29,), 5, 30),
        ((), 1, 30),
    ],
)
@pytest.mark.parametrize("num_threads", [1, 2])
def test_end_of_speech(
    eos: tuple[int, ...], frames_after_eos: int, frames: int, num_threads: int
) -> None:
    spoken = chunk(frames_after_eos=frames_after_eos)
    flow_lm = FlowLM(eos)
    audio = collect(make([spoken, spoken], flow_lm, Mimi(), num_threads))
    assert len(audio[0]) == frames * SAMPLES
    # The dropped step uses up a draw exactly when it comes before the cap.
    first_draw = 1 + frames + (1 if frames < 30 else 0) + 1
    np.testing.assert_array_equal(audio[1], expected(first_draw, 5 + 3, frames))


def test_cap_without_an_end_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    collect(make([chunk()], FlowLM(), Mimi()))
    assert "without an end of speech" in caplog.text
    caplog.clear()
    collect(make([chunk()], FlowLM(eos=(12,)), Mimi()))
    assert "without" not in caplog.text


def test_kept_state_has_the_dropped_row_too() -> None:
    lengths: list[int] = []
    spoken = [chunk(3), chunk(4, max_frames=8)]
    flow_lm = FlowLM(eos=(7,))
    audio = collect(
        make(spoken, flow_lm, Mimi(), keep=lambda caches: lengths.append(caches[0].shape[2]))
    )
    # First chunk: 3 tokens, 9 frames, 1 dropped. Second: 4 tokens and the cap of 8.
    assert lengths == [5 + 3 + 10, 5 + 13 + 4 + 8]
    np.testing.assert_array_equal(audio[1], expected(1 + 10 + 1, 18 + 4, 8))


def test_threads_of_the_stages() -> None:
    flow_lm, mimi = FlowLM(), Mimi()
    collect(make([chunk()], flow_lm, mimi, num_threads=4))
    # Text and first frame with all, then one less for FlowLM and one for Mimi.
    assert flow_lm.threads[:2] == [4, 4]
    assert set(flow_lm.threads[2:]) == {3}
    assert mimi.calls[0] == (1, 4)
    assert {threads for _, threads in mimi.calls[1:]} <= {1, 4}


def test_one_thread_takes_turns() -> None:
    flow_lm, mimi = FlowLM(), Mimi()
    generation = make([chunk()], flow_lm, mimi, num_threads=1)
    collect(generation)
    assert [frames for frames, _ in mimi.calls] == [1, 1, 2, 4, 8, 14]


def test_waiting_latents_are_decoded_together() -> None:
    mimi = Mimi(delay=0.02)
    collect(make([chunk(max_frames=60)], FlowLM(), mimi))
    frames = [frames for frames, _ in mimi.calls]
    assert frames[0] == 1
    assert sum(frames) == 60
    assert max(frames) == MAX_GROUP


def test_flow_lm_goes_on_with_the_next_chunk_while_mimi_is_busy() -> None:
    flow_lm, mimi = FlowLM(eos=(8,)), Mimi(delay=0.2)
    stream = make([chunk(), chunk(), chunk()], flow_lm, mimi).audio()
    next(stream)
    deadline = time.monotonic() + 5
    # All 3 * 10 steps; the dropped ones are not computed.
    while flow_lm.steps < 30 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert sum(frames for frames, _ in mimi.calls) < 30
    stream.close()


def test_a_listener_who_does_not_pull_stops_the_work() -> None:
    flow_lm = FlowLM()
    stream = make([chunk(max_frames=2000)], flow_lm, Mimi()).audio()
    next(stream)
    deadline = time.monotonic() + 5
    steps = -1
    while steps != flow_lm.steps and time.monotonic() < deadline:
        steps = flow_lm.steps
        time.sleep(0.1)
    room = pipeline.MAX_LATENTS_WAITING + pipeline.MAX_AUDIO_WAITING + 2 * MAX_GROUP
    assert steps <= room + 2
    # And whoever pulls again gets everything.
    assert 1 + sum(len(samples) // SAMPLES for _, samples in stream) == 2000


@pytest.mark.parametrize("num_threads", [1, 2])
def test_audio_belongs_to_the_listener(num_threads: int) -> None:
    parts = []
    for _, samples in make([chunk()], FlowLM(), Mimi(), num_threads).audio():
        parts.append((samples, samples.copy()))
    for samples, at_delivery in parts:
        np.testing.assert_array_equal(samples, at_delivery)
        assert samples.flags.writeable


@pytest.mark.parametrize("num_threads", [1, 2])
def test_stop_ends_within_a_frame(num_threads: int) -> None:
    stop = threading.Event()
    flow_lm = FlowLM(delay=0.005)
    stream = make([chunk(max_frames=1000)], flow_lm, Mimi(), num_threads, stop=stop).audio()
    next(stream)
    stop.set()
    steps = flow_lm.steps
    assert list(stream) == []
    assert flow_lm.steps <= steps + 1
    assert not our_threads()


def test_stop_without_a_listener_ends_the_threads() -> None:
    stop = threading.Event()
    stream = make([chunk(max_frames=5000)], FlowLM(), Mimi(), stop=stop).audio()
    next(stream)
    time.sleep(0.2)
    assert our_threads()  # waiting for room
    stop.set()
    for thread in our_threads():
        thread.join(timeout=2)
    assert not our_threads()
    assert list(stream) == []


def test_stop_that_is_set_before_the_start() -> None:
    stop = threading.Event()
    stop.set()
    flow_lm = FlowLM()
    assert list(make([chunk()], flow_lm, Mimi(), stop=stop).audio()) == []
    assert flow_lm.steps == 0


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("way", ["close", "drop", "cycle", "throw"])
def test_an_abandoned_iterator_leaves_no_thread(way: str, num_threads: int) -> None:
    stream = make([chunk(max_frames=5000)], FlowLM(), Mimi(), num_threads).audio()
    next(stream)
    assert our_threads()
    if way == "close":
        stream.close()
    elif way == "drop":
        del stream
    elif way == "throw":
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt())
    else:
        ring: list[object] = [stream]
        ring.append(ring)
        del ring, stream
        gc.collect()
    assert not our_threads()


def test_keyboard_interrupt_in_the_listener_leaves_no_thread() -> None:
    def listen() -> None:
        for _ in make([chunk(max_frames=5000)], FlowLM(), Mimi()).audio():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        listen()
    assert not our_threads()


@pytest.mark.parametrize("num_threads", [1, 2])
def test_error_in_flow_lm_reaches_the_listener(num_threads: int) -> None:
    generation = make([chunk()], FlowLM(fail_at=12), Mimi(), num_threads)
    heard: list[np.ndarray] = []
    with pytest.raises(ArithmeticError, match="no such step"):
        heard.extend(samples for _, samples in generation.audio())
    assert 1 <= sum(map(len, heard)) // SAMPLES <= 12


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("call", [0, 1, 2])
def test_error_in_mimi_reaches_the_listener(call: int, num_threads: int) -> None:
    # FlowLM would be blocked by the full queue if it were not told.
    generation = make([chunk(max_frames=5000)], FlowLM(), Mimi(fail_at=call), num_threads)
    with pytest.raises(ArithmeticError, match="no such call"):
        collect(generation)


def test_streams_are_used_again_unless_something_went_wrong() -> None:
    flow_lms: StreamPool[FlowLM] = StreamPool(lambda: FlowLM(eos=(7,)))
    first = flow_lms.borrow()
    second = flow_lms.borrow()
    assert first is not second
    flow_lms.give_back(first)
    assert flow_lms.borrow() is first

    flow_lm = FlowLM(fail_at=3)
    broken = make([chunk()], flow_lm, Mimi())
    with pytest.raises(ArithmeticError):
        collect(broken)
    assert not broken._flow_lms._free
    good = make([chunk()], FlowLM(eos=(7,)), Mimi())
    collect(good)
    assert len(good._flow_lms._free) == len(good._mimis._free) == 1


def test_a_process_with_a_forgotten_iterator_exits() -> None:
    import subprocess
    import sys
    from pathlib import Path

    code = (
        "import test_pipeline as t\n"
        "stream = t.make([t.chunk(max_frames=5000)], t.FlowLM(delay=0.001), t.Mimi()).audio()\n"
        "next(stream)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
