"""From text to samples with a full-size English model of random weights: precision x threads."""

import time

from .common import PRECISIONS, TEXTS, THREADS, EnglishModel, need_threads, speaker

RUNS = 3


class Speech(EnglishModel):
    """Speaking with a model that is loaded and warm."""

    params = (PRECISIONS, THREADS)
    param_names = ("precision", "threads")
    timeout = 600

    def setup(self, folder: str | None, precision: str, threads: int) -> None:
        """Load the model and speak once."""
        need_threads(threads)
        self.speaker = speaker(folder, precision, threads)
        self._first_chunk_seconds()

    def _first_chunk_seconds(self) -> float:
        start = time.perf_counter()
        stream = self.speaker.model.generate_audio_stream(
            self.speaker.voice, TEXTS["short"], seed=0, normalize=False
        )
        next(stream)
        seconds = time.perf_counter() - start
        stream.close()
        return seconds

    def _real_time_factor(self) -> float:
        start = time.perf_counter()
        audio = self.speaker.model.generate_audio(
            self.speaker.voice, TEXTS["medium"], seed=0, normalize=False
        )
        seconds = time.perf_counter() - start
        return seconds * self.speaker.model.sample_rate / len(audio)

    def track_real_time_factor(self, folder: str | None, precision: str, threads: int) -> float:
        """Seconds of work per second of audio, the best of RUNS."""
        return min(self._real_time_factor() for _ in range(RUNS))

    def track_first_chunk_ms(self, folder: str | None, precision: str, threads: int) -> float:
        """From the call to the first samples, the best of RUNS."""
        return 1000 * min(self._first_chunk_seconds() for _ in range(RUNS))

    track_real_time_factor.unit = "s per s of audio"
    track_first_chunk_ms.unit = "ms"


class Memory(EnglishModel):
    """Largest resident size of a process that loads a model and speaks."""

    params = (PRECISIONS,)
    param_names = ("precision",)
    timeout = 600

    def peakmem_generate(self, folder: str | None, precision: str) -> None:
        """Load and speak."""
        spoken = speaker(folder, precision, 1)
        spoken.model.generate_audio(spoken.voice, TEXTS["medium"], seed=0, normalize=False)
