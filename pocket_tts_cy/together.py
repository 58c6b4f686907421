"""Several generations stepped together: a long text, or the texts of several users.

One thread steps FlowLM for all of them at once, so that its weights, which are most of the memory
that a step reads, are read once per round instead of once per frame. Other threads decode: each
takes the text chunk with the most frames waiting and runs Mimi for it alone. There are as many
decoders as processors; FlowLM waits when it is far ahead, and then they have them all.

Audio is handed over in the order of the texts. Each generation gets exactly the samples that it
gets alone with the same noise.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .audio import fade_in
from .pipeline import FrameCount, Sampling, SpokenChunk, StreamPool, Voice, warn_about_length

#: Frames that may wait for Mimi, per generation that is under way.
MAX_FRAMES_AHEAD = 32
#: Frames that Mimi takes at once; a few, so that other chunks are not kept waiting.
MAX_FRAMES_PER_CALL = 4


@dataclass(frozen=True)
class Track:
    """Text chunks spoken one after the other, in one voice and with one stream of noise.

    Attributes
    ----------
    chunks : sequence of SpokenChunk
        What to say.
    voice : Voice
        In which voice; it keeps nothing.
    sampling : Sampling
        How frames are drawn; all tracks of a generation take the same number of decode steps.
    """

    chunks: Sequence[SpokenChunk]
    voice: Voice
    sampling: Sampling


def _nothing() -> np.ndarray:
    return np.empty((0, 0), dtype=np.float32)


@dataclass(eq=False)
class _Job:
    """One text chunk on its way from FlowLM through Mimi to the listener."""

    number: int
    track: Track
    chunk: SpokenChunk
    # Memory only while the chunk is under way: a long text has thousands of chunks.
    latents: np.ndarray = field(default_factory=_nothing)
    made: int = 0
    decoded: int = 0
    spoken: bool = False  # no further frame will be made
    decoding: bool = False
    mimi: Any = None
    audio: deque[np.ndarray] = field(default_factory=deque)

    @property
    def waiting(self) -> int:
        return self.made - self.decoded


class _Speaker:
    """A track that FlowLM is speaking: its stream, and the chunk it is at."""

    job: _Job
    progress: FrameCount

    def __init__(self, jobs: Sequence[_Job], stream: Any) -> None:
        self.stream = stream
        self._jobs = iter(jobs)

    def begin_next(self, num_threads: int) -> bool:
        """Go on to the next chunk; False when there is none."""
        job = next(self._jobs, None)
        if job is None:
            return False
        self.job = job
        track, chunk = job.track, job.chunk
        capacity = len(chunk.token_ids) + chunk.max_frames
        self.stream.begin(track.voice.prefix, track.voice.length, capacity)
        # As in a generation alone: one draw for the text, whose frame is not used.
        track.sampling.noise.draw()
        self.stream.prefill_tokens(chunk.token_ids, num_threads)
        self.progress = FrameCount(chunk, track.sampling.eos_threshold)
        return True


class TogetherGeneration:
    """Speech for several tracks, generated while it is pulled.

    Parameters
    ----------
    tracks : sequence of Track
        What to say; all with the same number of decode steps.
    batch : FlowLMBatch
        Steps the streams; its size bounds how many tracks are under way.
    flow_lms, mimis : StreamPool
        Where streams come from.
    num_threads : int
        Processors to use.
    latent_dim, samples_per_frame, sample_rate : int
        Shape of latents and audio.
    stop : threading.Event
        Ends the generation early.
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        batch: Any,
        flow_lms: StreamPool[Any],
        mimis: StreamPool[Any],
        *,
        num_threads: int,
        latent_dim: int,
        samples_per_frame: int,
        sample_rate: int,
        stop: threading.Event,
    ) -> None:
        self._batch = batch
        self._flow_lms = flow_lms
        self._mimis = mimis
        self._num_threads = num_threads
        self._latent_dim = latent_dim
        self._samples_per_frame = samples_per_frame
        self._sample_rate = sample_rate
        self._stop = stop
        self._jobs: list[_Job] = []
        self._tracks: list[list[_Job]] = []
        for track in tracks:
            jobs = [
                _Job(len(self._jobs) + index, track, chunk)
                for index, chunk in enumerate(track.chunks)
            ]
            self._tracks.append(jobs)
            self._jobs += jobs
        self._changed = threading.Condition()
        # Chunks that FlowLM has begun and Mimi has not finished.
        self._under_way: list[_Job] = []
        self._all_spoken = False
        self._first_unheard = 0
        self._closing = False
        self._error: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def audio(self) -> Generator[tuple[int, np.ndarray], None, None]:
        """Generate; to be called once. Closing the iterator ends the generation.

        Yields
        ------
        chunk : int
            Number of the text chunk, counted over all tracks.
        samples : ndarray of float32, shape (n_frames * samples_per_frame,)
            The next samples; owned by the caller. Chunks come in order.

        Raises
        ------
        Exception
            Whatever went wrong, after the audio that came before it.
        """
        self._threads = [
            threading.Thread(target=self._guarded, args=(body,), name=name, daemon=True)
            for body, name in [
                (self._run_flow_lm, "pocket-tts-flow-lm"),
                *[(self._run_mimi, f"pocket-tts-mimi-{i}") for i in range(self._num_threads)],
            ]
        ]
        for thread in self._threads:
            thread.start()
        try:
            for job in self._jobs:
                while (samples := self._next_samples(job)) is not None:
                    yield job.number, samples
                if self._stop.is_set():
                    return
                if self._error is not None:
                    raise self._error
        finally:
            self.close()

    def close(self) -> None:
        """End the generation and wait for its threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _ended(self) -> bool:
        return self._closing or self._error is not None or self._stop.is_set()

    def _wait(self) -> None:
        # Bounded, because the caller's stop event cannot wake anybody.
        self._changed.wait(0.05)

    def _next_samples(self, job: _Job) -> np.ndarray | None:
        """The next samples of a chunk; None when it is over."""
        with self._changed:
            while not job.audio:
                if (job.spoken and job.waiting == 0) or self._ended():
                    self._first_unheard = job.number + 1
                    self._changed.notify_all()
                    return None
                self._wait()
            samples = job.audio.popleft()
            self._changed.notify_all()
        return None if self._stop.is_set() else samples

    def _guarded(self, body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:
            self._error = self._error or error
        with self._changed:
            self._changed.notify_all()

    # -- FlowLM -----------------------------------------------------------------------------------

    def _run_flow_lm(self) -> None:
        """Body of the FlowLM thread."""
        pending = deque(self._tracks)
        speakers: list[_Speaker] = []
        while (pending or speakers) and not self._ended():
            self._admit(pending, speakers)
            if speakers and self._wait_for_room(speakers):
                self._step(speakers)
        for speaker in speakers:
            self._flow_lms.give_back(speaker.stream)
        with self._changed:
            self._all_spoken = True
            self._changed.notify_all()

    def _begin_next(self, speaker: _Speaker, num_threads: int) -> bool:
        """Let a speaker go on to its next chunk; False when there is none."""
        if not speaker.begin_next(num_threads):
            return False
        job = speaker.job
        job.latents = np.empty((job.chunk.max_frames, self._latent_dim), dtype=np.float32)
        with self._changed:
            self._under_way.append(job)
        return True

    def _admit(self, pending: deque[list[_Job]], speakers: list[_Speaker]) -> None:
        """Begin further tracks. The first one is alone until its first frame is heard."""
        limit = self._batch.max_streams if self._jobs[0].decoded else 1
        while pending and len(speakers) < limit and not self._ended():
            # Not too far ahead of the listener: audio is kept until its turn comes.
            if pending[0][0].number >= self._first_unheard + 2 * self._batch.max_streams:
                if not speakers:
                    with self._changed:
                        self._wait()
                return
            speaker = _Speaker(pending.popleft(), self._flow_lms.borrow())
            if self._begin_next(speaker, self._num_threads):
                speakers.append(speaker)

    def _wait_for_room(self, speakers: list[_Speaker]) -> bool:
        """Let Mimi catch up; False when the generation has ended."""
        most = MAX_FRAMES_AHEAD * len(speakers)
        if not self._jobs[0].decoded:
            most = 1
        with self._changed:
            while not self._ended() and sum(job.waiting for job in self._under_way) >= most:
                self._wait()
        return not self._ended()

    def _step(self, speakers: list[_Speaker]) -> None:
        """One frame of every speaker."""
        sampling = speakers[0].job.track.sampling
        noise = np.stack([speaker.job.track.sampling.noise.draw() for speaker in speakers])
        latents = np.empty_like(noise)
        logits = self._batch.step(
            [speaker.stream for speaker in speakers], noise, latents, sampling.decode_steps, 1
        )
        finished = []
        with self._changed:
            for speaker, latent, logit in zip(speakers, latents, logits, strict=True):
                job, progress = speaker.job, speaker.progress
                job.latents[progress.frames] = latent
                if progress.count(float(logit)):
                    job.made = progress.frames
                if progress.complete:
                    finished.append(speaker)
                    job.spoken = True
                    self._finish_if_decoded(job)
            self._changed.notify_all()
        for speaker in finished:
            if speaker.progress.one_too_many:
                speaker.job.track.sampling.noise.draw()
            if speaker.progress.end is None:
                warn_about_length(speaker.job.number, speaker.job.chunk)
            if not self._begin_next(speaker, 1):
                speakers.remove(speaker)
                self._flow_lms.give_back(speaker.stream)

    # -- Mimi -------------------------------------------------------------------------------------

    def _run_mimi(self) -> None:
        """Body of a decoding thread."""
        while (job := self._take_job()) is not None:
            first = job.decoded
            last = min(job.made, first + MAX_FRAMES_PER_CALL)
            if job.mimi is None:
                job.mimi = self._mimis.borrow()
                job.mimi.reset()
            samples = np.empty((last - first) * self._samples_per_frame, dtype=np.float32)
            job.mimi.decode(job.latents[first:last], samples, 1)
            if first == 0:
                # A fresh decoder begins with a small step, heard as a click.
                fade_in(samples, self._sample_rate)
            with self._changed:
                job.audio.append(samples)
                job.decoded = last
                job.decoding = False
                self._finish_if_decoded(job)
                self._changed.notify_all()

    def _finish_if_decoded(self, job: _Job) -> None:
        """Let go of what a chunk needed, when all of it is decoded."""
        if job.spoken and not job.decoding and job.waiting == 0:
            self._under_way.remove(job)
            job.latents = _nothing()
            if job.mimi is not None:
                self._mimis.give_back(job.mimi)
                job.mimi = None

    def _take_job(self) -> _Job | None:
        """The chunk that most needs decoding; None when there will be no more."""
        with self._changed:
            while not self._ended():
                ready = [job for job in self._under_way if job.waiting and not job.decoding]
                if not ready and self._all_spoken:
                    return None
                if ready:
                    # What is heard next goes first, then whatever has the most frames waiting.
                    job = max(
                        ready, key=lambda job: (job.number == self._first_unheard, job.waiting)
                    )
                    job.decoding = True
                    return job
                self._wait()
        return None
