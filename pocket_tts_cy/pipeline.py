"""One generation: FlowLM and Mimi as two overlapping stages.

FlowLM turns the tokens of a text chunk into latents, one 80 ms frame per step; Mimi turns latents
into samples. The first frame of a generation is decoded by the FlowLM thread itself, with all
threads of the team, because nothing else can be done before it is heard. From then on a second
thread decodes whatever is waiting while FlowLM goes on, also into the next text chunk. Both
compute without the interpreter lock.

Queues between the threads are bounded: a listener who stops pulling stops the work, not the
machine. Every wait ends when the generation is closed or its stop event is set.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from .audio import fade_in

if TYPE_CHECKING:
    from .noise import NoiseSource
    from .threads import StagePlan

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: First step at which an end of speech counts. Before speech has begun, the logit of some voices
#: crosses the threshold.
MIN_STEPS_BEFORE_EOS = 6
#: Latents that may wait for Mimi, in frames.
MAX_LATENTS_WAITING = 64
#: Audio that may wait for the listener, in frames (256 are 20 s).
MAX_AUDIO_WAITING = 256

# How often a thread that waits looks at the caller's stop event, which cannot wake it. Seconds.
_POLL = 0.05


@dataclass(frozen=True)
class SpokenChunk:
    """What FlowLM needs to know about one chunk of text.

    Attributes
    ----------
    token_ids : ndarray of int64, shape (n_tokens,)
        The tokens.
    max_frames : int
        Frames after which the chunk ends even without an end of speech.
    frames_after_eos : int
        Frames to emit from the step on at which the end of speech was seen.
    """

    token_ids: np.ndarray
    max_frames: int
    frames_after_eos: int


@dataclass(frozen=True)
class Voice:
    """Keys and values that come before the text, and what happens to those that follow.

    Attributes
    ----------
    prefix : list of ndarray of float32, shape (2, 1, >= length, kv_heads, head_dim)
        Keys and values per layer; read in place, never written.
    length : int
        Rows of `prefix` that count.
    keep : callable, optional
        Called after each text chunk with the keys and values of all rows so far, shape
        (2, 1, rows, kv_heads, head_dim) per layer; the next chunk then continues from them.
        Without it every chunk starts from `prefix`.
    """

    prefix: list[np.ndarray]
    length: int
    keep: Callable[[list[np.ndarray]], None] | None = None


@dataclass(frozen=True)
class Sampling:
    """How frames are drawn.

    Attributes
    ----------
    noise : NoiseSource
        Source of the noise that each frame starts from.
    decode_steps : int
        Steps of the flow head per frame.
    eos_threshold : float
        Logit above which speech ends.
    """

    noise: NoiseSource
    decode_steps: int
    eos_threshold: float


class FrameCount:
    """Counts the frames of a text chunk and knows when it is over.

    Parameters
    ----------
    chunk : SpokenChunk
        What is spoken.
    eos_threshold : float
        Logit above which speech ends.

    Attributes
    ----------
    frames : int
        Frames that were made and count.
    end : int or None
        The number of frames at which speech ends, once that is known.
    """

    def __init__(self, chunk: SpokenChunk, eos_threshold: float) -> None:
        self._chunk = chunk
        self._eos_threshold = eos_threshold
        self.frames = 0
        self.end: int | None = None
        self._at_once = False

    @property
    def complete(self) -> bool:
        """Whether no further frame is wanted."""
        return self.frames == self.end or self.frames >= self._chunk.max_frames

    @property
    def one_too_many(self) -> bool:
        """Whether the reference computes another frame before it finds that speech has ended.

        The noise of that frame is drawn all the same; the row is only missed by who keeps the
        state.
        """
        return self.frames == self.end and self.end < self._chunk.max_frames and not self._at_once

    def count(self, logit: float) -> bool:
        """Take note of a frame and its EOS logit; whether the frame counts."""
        if self.end is None and self.frames >= MIN_STEPS_BEFORE_EOS and logit > self._eos_threshold:
            self.end = self.frames + self._chunk.frames_after_eos
            if self.end == self.frames:
                self._at_once = True
                return False
        self.frames += 1
        return True


class StreamPool(Generic[T]):
    """Streams of an engine that are not in use at the moment.

    A stream owns large buffers; using it again is cheaper than making another.

    Parameters
    ----------
    make : callable
        Makes a stream when none is free.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._free: deque[T] = deque()

    def borrow(self) -> T:
        """A stream that nobody else uses."""
        try:
            return self._free.pop()
        except IndexError:
            return self._make()

    def give_back(self, stream: T) -> None:
        """Return a stream that is in good order."""
        self._free.append(stream)


class FrameQueue(Generic[T]):
    """First-in first-out hand-over between two threads, bounded in frames.

    Parameters
    ----------
    capacity : int
        Frames that may wait. A single item may be larger.
    cancelled : callable
        Tells whether the generation was given up; then all waiting ends.
    """

    def __init__(self, capacity: int, cancelled: Callable[[], bool]) -> None:
        self._capacity = capacity
        self._cancelled = cancelled
        self._items: deque[tuple[T, int]] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self.closed = False

    def put(self, item: T, frames: int = 1) -> bool:
        """Append an item, waiting for room.

        Returns
        -------
        bool
            False when the item was not taken because the generation was given up.
        """
        with self._changed:
            while self._waiting and self._waiting + frames > self._capacity:
                if self._cancelled():
                    return False
                self._changed.wait(_POLL)
            if self._cancelled():
                return False
            self._items.append((item, frames))
            self._waiting += frames
            self._changed.notify_all()
            return True

    def take(self, limit: int = 1) -> list[T]:
        """Remove up to `limit` items: all that wait, at least one.

        Returns
        -------
        list
            Empty when nothing will come any more or the generation was given up.
        """
        with self._changed:
            while not self._items:
                if self.closed or self._cancelled():
                    return []
                self._changed.wait(_POLL)
            if self._cancelled():
                return []
            taken: list[T] = []
            while self._items and len(taken) < limit:
                item, frames = self._items.popleft()
                self._waiting -= frames
                taken.append(item)
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Say that nothing will be put any more."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Let waiting threads look at `cancelled` at once."""
        with self._changed:
            self._changed.notify_all()


@dataclass(frozen=True)
class _Frame:
    """A frame on its way to Mimi: row `index` of the latents of text chunk `chunk`."""

    chunk: int
    latents: np.ndarray
    index: int


class Generation:
    """Speech for a list of text chunks, generated while it is pulled.

    Parameters
    ----------
    chunks : sequence of SpokenChunk
        What to say.
    voice : Voice
        In which voice.
    sampling : Sampling
        How frames are drawn.
    plan : StagePlan
        How the stages share the threads.
    flow_lms, mimis : StreamPool
        Where streams come from; borrowed for the time of the generation.
    latent_dim : int
        Width of a latent.
    samples_per_frame : int
        Samples of one frame.
    sample_rate : int
        Samples per second.
    stop : threading.Event
        Ends the generation early.
    """

    def __init__(
        self,
        chunks: Sequence[SpokenChunk],
        voice: Voice,
        sampling: Sampling,
        plan: StagePlan,
        flow_lms: StreamPool[Any],
        mimis: StreamPool[Any],
        *,
        latent_dim: int,
        samples_per_frame: int,
        sample_rate: int,
        stop: threading.Event,
    ) -> None:
        self._chunks = chunks
        self._voice = voice
        self._sampling = sampling
        self._plan = plan
        self._flow_lms = flow_lms
        self._mimis = mimis
        self._latent_dim = latent_dim
        self._samples_per_frame = samples_per_frame
        self._sample_rate = sample_rate
        self._stop = stop

        self._closing = False
        self._error: BaseException | None = None
        self._latents: FrameQueue[_Frame] = FrameQueue(MAX_LATENTS_WAITING, self._ended)
        self._audio: FrameQueue[tuple[int, np.ndarray]] = FrameQueue(
            MAX_AUDIO_WAITING, self._cancelled
        )
        self._flow_lm: Any = None
        self._mimi: Any = None
        self._flow_lm_thread: threading.Thread | None = None
        self._mimi_thread: threading.Thread | None = None
        # State of the Mimi stage, touched by the FlowLM thread until the Mimi thread is started.
        self._decoding_chunk = -1
        self._frames_decoded = 0

    def audio(self) -> Generator[tuple[int, np.ndarray], None, None]:
        """Generate; to be called once.

        Closing the iterator, or dropping it, ends the generation and waits for its threads.

        Yields
        ------
        chunk : int
            Number of the text chunk.
        samples : ndarray of float32, shape (n_frames * samples_per_frame,)
            The next samples; owned by the caller.

        Raises
        ------
        Exception
            Whatever went wrong in one of the stages, after the audio that came before it.
        """
        self._start()
        try:
            while not self._stop.is_set():
                taken = self._audio.take()
                if not taken:
                    break
                if self._stop.is_set():
                    return
                yield taken[0]
            if self._error is not None and not self._stop.is_set():
                raise self._error
        finally:
            self.close()

    def close(self) -> None:
        """End the generation and wait for its threads; at most for one step of a stage."""
        self._closing = True
        self._latents.wake()
        self._audio.wake()
        # FlowLM first: it is the one that starts the Mimi thread.
        for name in ("_flow_lm_thread", "_mimi_thread"):
            thread = getattr(self, name)
            if thread is threading.current_thread():
                # The garbage collector closes an abandoned iterator on any thread, this time on
                # one of ours, which will see `_closing` next.
                return
            if thread is not None:
                thread.join()
        if self._error is None and self._flow_lm is not None:
            self._flow_lms.give_back(self._flow_lm)
            self._mimis.give_back(self._mimi)
        self._flow_lm = self._mimi = None
        _live.discard(self)

    # -- common -----------------------------------------------------------------------------------

    def _cancelled(self) -> bool:
        """Whether nobody wants the audio any more."""
        return self._closing or self._stop.is_set()

    def _ended(self) -> bool:
        """Whether no further frame is to be made."""
        return self._error is not None or self._cancelled()

    def _start(self) -> None:
        self._flow_lm = self._flow_lms.borrow()
        self._mimi = self._mimis.borrow()
        _live.add(self)
        self._flow_lm_thread = threading.Thread(
            target=self._run_flow_lm, name="pocket-tts-flow-lm", daemon=True
        )
        self._flow_lm_thread.start()

    # -- FlowLM -----------------------------------------------------------------------------------

    def _run_flow_lm(self) -> None:
        """Body of the FlowLM thread."""
        try:
            prefix, length = self._voice.prefix, self._voice.length
            for number, chunk in enumerate(self._chunks):
                if self._ended():
                    break
                started = time.monotonic()
                capacity = len(chunk.token_ids) + chunk.max_frames
                self._flow_lm.begin(prefix, length, capacity)
                frames = self._speak(number, chunk)
                if self._voice.keep is not None:
                    prefix, length = self._flow_lm.export_cache(), self._flow_lm.length
                    self._voice.keep(prefix)
                logger.info(
                    "text chunk %d of %d: %d tokens, %d frames in %.0f ms",
                    number + 1,
                    len(self._chunks),
                    len(chunk.token_ids),
                    frames,
                    1000 * (time.monotonic() - started),
                )
        except BaseException as error:
            self._error = self._error or error
        finally:
            self._latents.close()
            if self._mimi_thread is None:
                self._audio.close()

    def _speak(self, number: int, chunk: SpokenChunk) -> int:
        """Generate the frames of one text chunk; returns how many there are."""
        noise = self._sampling.noise
        # PyTorch's stream of random numbers has one draw for the text, whose frame is not used.
        noise.draw()
        self._flow_lm.prefill_tokens(chunk.token_ids, self._flow_lm_threads())
        latents = np.empty((chunk.max_frames, self._latent_dim), dtype=np.float32)
        progress = FrameCount(chunk, self._sampling.eos_threshold)
        pending = 0
        while not progress.complete and not self._ended():
            if progress.count(self._step(latents[progress.frames])):
                pending = self._pass_on(number, latents, progress.frames, pending + 1)
        frames = progress.frames
        if progress.one_too_many:
            if self._voice.keep is None:
                noise.draw()
            else:
                self._step(latents[frames])
        if progress.end is None and progress.complete:
            warn_about_length(number, chunk)
        if pending:
            self._decode(number, latents, frames - pending, frames, self._plan.alone)
        return frames

    def _step(self, latent: np.ndarray) -> float:
        sampling = self._sampling
        return self._flow_lm.step(
            sampling.noise.draw(),
            latent,
            sampling.decode_steps,
            self._flow_lm_threads(),
        )

    def _flow_lm_threads(self) -> int:
        return self._plan.alone if self._mimi_thread is None else self._plan.flow_lm

    def _pass_on(self, number: int, latents: np.ndarray, end: int, pending: int) -> int:
        """Bring the last `pending` frames before `end` to Mimi, or let them wait for more.

        Returns
        -------
        int
            Frames that still wait for this thread to decode them.
        """
        if self._mimi_thread is not None:
            self._latents.put(_Frame(number, latents, end - 1))
            return 0
        if pending < self._plan.group(self._frames_decoded):
            return pending
        self._decode(number, latents, end - pending, end, self._plan.alone)
        if self._plan.overlap:
            self._mimi_thread = threading.Thread(
                target=self._run_mimi, name="pocket-tts-mimi", daemon=True
            )
            self._mimi_thread.start()
        return 0

    # -- Mimi -------------------------------------------------------------------------------------

    def _run_mimi(self) -> None:
        """Body of the Mimi thread."""
        try:
            while frames := self._latents.take(self._plan.max_group):
                threads = self._plan.alone if self._latents.closed else self._plan.mimi
                for number, group in groupby(frames, key=lambda frame: frame.chunk):
                    run = list(group)
                    first, last = run[0].index, run[-1].index
                    self._decode(number, run[0].latents, first, last + 1, threads)
        except BaseException as error:
            self._error = self._error or error
            self._latents.wake()
        finally:
            self._audio.close()

    def _decode(
        self, number: int, latents: np.ndarray, first: int, last: int, threads: int
    ) -> None:
        """Decode the frames `first` to `last` of a text chunk and hand the samples over."""
        if self._ended():
            return
        starts = number != self._decoding_chunk
        if starts:
            self._mimi.reset()
            self._decoding_chunk = number
        count = last - first
        samples = np.empty(count * self._samples_per_frame, dtype=np.float32)
        self._mimi.decode(latents[first:last], samples, threads)
        if starts:
            # A fresh decoder begins with a small step, heard as a click.
            fade_in(samples, self._sample_rate)
        self._frames_decoded += count
        self._audio.put((number, samples), count)


def warn_about_length(number: int, chunk: SpokenChunk) -> None:
    """Log that a text chunk did not end by itself."""
    logger.warning(
        "text chunk %d reached its longest length of %d frames without an end of speech; its "
        "audio is probably wrong",
        number + 1,
        chunk.max_frames,
    )


_live: weakref.WeakSet[Generation] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """End generations that are still alive when the interpreter exits.

    Their threads are daemons, so that an iterator somebody forgot does not keep the process
    alive; but they must not compute while libraries are being torn down.
    """
    for generation in list(_live):
        generation.close()
