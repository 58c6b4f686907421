"""The stages of the engine on a full-size English model: precision x threads."""

import numpy as np

from .common import PRECISIONS, THREADS, EnglishModel, engine, from_engine, need_threads

#: Tokens of a long text chunk.
TOKENS = 50
#: Frames per timed call.
FRAMES = 16


class FlowLM(EnglishModel):
    """The language model behind a state of 125 or 1000 positions."""

    params = (PRECISIONS, THREADS, [125, 1000])
    param_names = ("precision", "threads", "position")

    def setup(self, folder: str | None, precision: str, threads: int, position: int) -> None:
        """A stream behind a random voice."""
        need_threads(threads)
        self.engine = engine(folder, precision)
        self.stream = from_engine("FlowLMStream")(self.engine)
        rng = np.random.default_rng(0)
        shape = (2, 1, position, self.engine.n_kv_heads, self.engine.head_dim)
        self.prefix = [
            rng.standard_normal(shape, dtype=np.float32) for _ in range(self.engine.n_layers)
        ]
        self.noise = rng.standard_normal(self.engine.latent_dim, dtype=np.float32)
        self.latent = np.empty_like(self.noise)
        self.tokens = rng.integers(0, 4000, TOKENS)
        self.stream.begin(self.prefix, position, TOKENS + FRAMES)
        # The first steps touch memory and compute the constants of the flow head.
        self.stream.step(self.noise, self.latent, 1, threads)
        self.stream.begin(self.prefix, position, TOKENS + FRAMES)

    def time_flow_lm_step(
        self, folder: str | None, precision: str, threads: int, position: int
    ) -> None:
        """FRAMES steps."""
        for _ in range(FRAMES):
            self.stream.step(self.noise, self.latent, 1, threads)

    def time_prefill(self, folder: str | None, precision: str, threads: int, position: int) -> None:
        """TOKENS tokens at once."""
        self.stream.prefill_tokens(self.tokens, threads)


class Mimi(EnglishModel):
    """The decoder in the middle of an utterance, when its attention window is full.

    In the int8 and int4 modes it is the same decoder.
    """

    params = (PRECISIONS[:3], THREADS, [1, 4, FRAMES])
    param_names = ("precision", "threads", "frames per call")

    def setup(self, folder: str | None, precision: str, threads: int, per_call: int) -> None:
        """A stream that has decoded 32 frames."""
        need_threads(threads)
        self.engine = engine(folder, precision)
        self.stream = from_engine("MimiStream")(self.engine)
        rng = np.random.default_rng(0)
        self.latents = rng.standard_normal((FRAMES, self.engine.latent_dim), dtype=np.float32)
        self.audio = np.empty(FRAMES * self.engine.samples_per_frame, np.float32)
        for _ in range(2):
            self.stream.decode(self.latents, self.audio, threads)

    def time_mimi_frames(
        self, folder: str | None, precision: str, threads: int, per_call: int
    ) -> None:
        """FRAMES frames."""
        samples = self.engine.samples_per_frame
        for first in range(0, FRAMES, per_call):
            last = first + per_call
            self.stream.decode(
                self.latents[first:last], self.audio[first * samples : last * samples], threads
            )
