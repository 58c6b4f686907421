"""The public interface: a model that speaks.

Names, order and defaults of the parameters follow the PyTorch package ``pocket-tts`` 4.0.1, so
that code written for it runs after changing the import. What this package adds is keyword-only.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .audio import AudioArray
from .config import CONFIG_DIR, EMBEDDED_CONFIG, Config, load_config
from .errors import TextError, VoiceError
from .languages import (
    DEFAULT_LANGUAGE,
    EMBEDDED_LANGUAGE,
    EMBEDDED_VOICE,
    VOICE_ORIGINS,
    Profile,
    model_profile,
    predefined_voice_state,
    released_languages,
)
from .pipeline import Generation, Sampling, SpokenChunk, StreamPool, Voice
from .threads import StagePlan, team_size
from .together import TogetherGeneration, Track
from .voices import (
    AudioPrompt,
    ModelState,
    check_model_state,
    is_voice_state_source,
    layer_name,
    read_voice_state,
    state_length,
)

if TYPE_CHECKING:
    from .engine import Engine
    from .text import Chunk
    from .tokenizer import Tokenizer
    from .weights import LoadedWeights

logger = logging.getLogger(__name__)

#: How the weights are held in memory while computing.
PRECISIONS = ("float32", "bfloat16", "int8", "int4")

#: Text chunks that are stepped together at most: each has keys and values of its own.
MAX_TOGETHER = 4

# A text chunk may last for as long as slow speech of its tokens takes, plus some seconds.
_TOKENS_PER_SECOND = 3.0
_EXTRA_SECONDS = 2.0


class TTSModel:
    """A text-to-speech model, ready to speak; made by :meth:`load_model`.

    One model can run any number of generations at the same time, from any threads: the weights
    are only read, and each generation has a state of its own.

    Attributes
    ----------
    config : Config
        The configuration the model was built from.
    temp : float
        Variance of the noise that frames start from. May be changed between generations, as may
        the next three.
    sampler_decode_steps : int
        Steps of the flow head per frame.
    noise_clamp : float or None
        Largest magnitude of the noise.
    eos_threshold : float
        Logit above which speech ends.
    has_voice_cloning : bool
        Whether the weights hold what is needed to make a voice from audio.
    origin : Path
        The configuration file.
    precision : str
        "float32" or "bfloat16", see :meth:`load_model`.
    num_threads : int
        Threads that one generation uses.
    """

    def __init__(
        self,
        config: Config,
        weights: LoadedWeights,
        tokenizer: Tokenizer,
        *,
        origin: Path,
        language: str | None,
        temp: float,
        sampler_decode_steps: int,
        noise_clamp: float | None,
        eos_threshold: float,
        precision: str,
        num_threads: int,
        use_cache: bool,
    ) -> None:
        from .engine import FlowLMStream, MimiStream

        self.config = config
        self.temp = temp
        self.sampler_decode_steps = sampler_decode_steps
        self.noise_clamp = noise_clamp
        self.eos_threshold = eos_threshold
        self.has_voice_cloning = weights.has_voice_cloning
        self.origin = origin
        self.num_threads = num_threads
        self._check_sampling()

        self._language = language
        self._tokenizer = tokenizer
        self._engine = _make_engine(config, weights, precision, use_cache)
        self.precision: str = self._engine.precision
        # Kept apart because old voice files need it; everything else is in the engine.
        bos = weights.tensors.get("flow_lm.bos_before_voice")
        self._bos_before_voice = None if bos is None else bos.as_float32().reshape(1, -1)
        self._flow_lms: StreamPool[Any] = StreamPool(partial(FlowLMStream, self._engine))
        self._mimis: StreamPool[Any] = StreamPool(partial(MimiStream, self._engine))

    def __repr__(self) -> str:
        name = self._language or str(self.origin)
        return f"<TTSModel {name} {self.precision}, {self.num_threads} threads>"

    # -- loading ----------------------------------------------------------------------------------

    @classmethod
    def load_model(
        cls,
        language: str | None = None,
        config: str | Path | None = None,
        temp: float | None = None,
        sampler_decode_steps: int = 1,
        noise_clamp: float | None = None,
        eos_threshold: float | None = None,
        quantize: bool = False,
        checkpoint: str | Path | None = None,
        lsd_decode_steps: int | None = None,
        *,
        precision: str | None = None,
        num_threads: int | None = None,
        use_cache: bool = True,
    ) -> TTSModel:
        """Load a model.

        Parameters
        ----------
        language : str, optional
            A released model ("english", "french_24l", ...; downloaded when it is not in the
            local cache) or "embedded", the small English model that is part of this package.
            "english" when neither `language` nor `config` is given.
        config : str or Path, optional
            Instead of a language: the YAML file of a model, as a path, ``https://`` URL or
            ``hf://owner/repository/path[@revision]``.
        temp : float, optional
            Variance of the noise, at least 0: higher is livelier and riskier. By default what
            the configuration recommends.
        sampler_decode_steps : int
            Steps of the flow head per frame, at least 1.
        noise_clamp : float, optional
            Largest magnitude of the noise; no limit by default.
        eos_threshold : float, optional
            Logit above which speech ends. By default what the configuration recommends.
        quantize : bool
            8-bit weights in the language model's transformer: another name of
            ``precision="int8"``.
        checkpoint : str or Path, optional
            A training checkpoint. Not available in this version.
        lsd_decode_steps : int, optional
            Deprecated name of `sampler_decode_steps`.
        precision : {"bfloat16", "float32", "int8", "int4"}, optional
            How the weights are held in memory. Arithmetic is float32 in the first two; "bfloat16"
            halves the memory traffic and loses nothing when the file stores bfloat16, where it is
            the default. Otherwise the default is "float32". "int8" and "int4" quantise the
            language model's transformer to 8-bit or 4-bit integers and its activations to 8 bits:
            smaller, faster, and no longer the same samples.
        num_threads : int, optional
            Threads per generation. By default the environment variable
            ``POCKET_TTS_CY_THREADS``, else all processors that this process may use.
        use_cache : bool
            Keep the packed weights of a large model on disk, so that the next start only maps
            them. The folder is ``~/.cache/pocket_tts_cy/packed`` or the environment variable
            ``POCKET_TTS_CY_CACHE``.

        Returns
        -------
        TTSModel
            Ready to speak, on the CPU.

        Raises
        ------
        FileNotFoundError
            The language or a file does not exist.
        DownloadError
            A file is not in the local cache and cannot be fetched.
        ConfigError, WeightsError
            The configuration or the weights are damaged or do not fit each other.
        ValueError
            A parameter is out of its range. Base class of the two before.
        """
        if quantize:
            if precision not in (None, "int8", "int4"):
                raise ValueError(
                    f"quantize=True and precision={precision!r} contradict each other; "
                    "leave one of them out"
                )
            precision = precision or "int8"
        if checkpoint is not None:
            raise ValueError(
                "checkpoint= (training checkpoints) is not available in this version; "
                "give the safetensors weights through config="
            )
        if precision is not None and precision not in PRECISIONS:
            raise ValueError(
                f"precision should be one of {', '.join(PRECISIONS)}, not {precision!r}"
            )
        threads = team_size(num_threads)
        if lsd_decode_steps is not None:
            logger.warning("lsd_decode_steps is deprecated, use sampler_decode_steps")
            sampler_decode_steps = lsd_decode_steps

        if config is not None and language is not None:
            raise ValueError("give either language or config, not both")
        if config is None and language is None:
            language = DEFAULT_LANGUAGE
        origin = _language_config(language) if language is not None else _config_file(config)
        model_config = load_config(origin)
        if language is None and origin.resolve() == EMBEDDED_CONFIG.resolve():
            language = EMBEDDED_LANGUAGE

        from .download import resolve_path
        from .tokenizer import load_tokenizer
        from .weights import load_weights

        logger.info("loading the model of %s", origin)
        base = origin.parent
        table = model_config.flow_lm.lookup_table
        weights = load_weights(model_config, base)
        tokenizer = load_tokenizer(
            table.n_bins, resolve_path(table.tokenizer_path, base), table.tokenizer
        )
        if precision is None:
            precision = "bfloat16" if weights.dtype == "BF16" else "float32"
        return cls(
            model_config,
            weights,
            tokenizer,
            origin=origin,
            language=language,
            temp=model_config.default_temperature if temp is None else temp,
            sampler_decode_steps=sampler_decode_steps,
            noise_clamp=noise_clamp,
            eos_threshold=(
                model_config.default_eos_threshold if eos_threshold is None else eos_threshold
            ),
            precision=precision,
            num_threads=threads,
            use_cache=use_cache,
        )

    # -- what the model is ------------------------------------------------------------------------

    @property
    def device(self) -> str:
        """Where the model computes: always "cpu"."""
        return "cpu"

    @property
    def sample_rate(self) -> int:
        """Samples per second of the audio."""
        return self.config.mimi.sample_rate

    @property
    def language(self) -> str | None:
        """Name of the released or embedded model, None for one loaded from another file."""
        return self._language

    @property
    def profile(self) -> Profile:
        """The model's own limits and defaults."""
        return model_profile(self._language, custom_model=self._language is None)

    def memory_report(self) -> list[tuple[str, int]]:
        """What the engine holds in memory.

        Returns
        -------
        list of (str, int)
            What it is, and its size in bytes.
        """
        return list(self._engine.memory_report())

    # -- voices -----------------------------------------------------------------------------------

    def get_state_for_audio_prompt(
        self, audio_conditioning: str | Path | Any, truncate: bool = False
    ) -> ModelState:
        """The state that makes the model speak with a voice.

        Parameters
        ----------
        audio_conditioning : str, Path or array
            The name of a predefined voice (released models: 27 names; embedded model: "heart"),
            or a voice state: the path, ``https://`` URL or ``hf://`` reference of a
            ``.safetensors`` file.
        truncate : bool
            Whether to use only the first 30 seconds of audio. Without effect on voice states.

        Returns
        -------
        dict of str to dict of str to ndarray
            Per layer "cache" (float32, shape (2, 1, T, kv_heads, head_dim)), "offset" and "pad"
            (int64, shape (1,)). Can be used by any number of generations.

        Raises
        ------
        FileNotFoundError
            There is no such file or voice.
        VoiceError
            The voice is damaged, belongs to another model, or is audio: making a voice from
            audio is not available in this version. A ``ValueError``.
        DownloadError
            The voice is not in the local cache and cannot be fetched.
        """
        if not isinstance(audio_conditioning, (str, Path)):
            raise VoiceError(
                "making a voice from an array of audio is not available in this version; "
                "give a .safetensors voice state or the name of a voice"
            )
        reference = self._voice_state_reference(audio_conditioning)
        from .download import resolve_path

        voice = read_voice_state(resolve_path(reference), self.config)
        if isinstance(voice, AudioPrompt):
            return self._state_from_embeddings(voice.embeddings)
        return voice

    def _voice_state_reference(self, voice: str | Path) -> str | Path:
        """Path or URL of the voice state that `voice` means."""
        if voice == EMBEDDED_VOICE and self._language == EMBEDDED_LANGUAGE:
            return EMBEDDED_CONFIG.parent / "voices" / f"{EMBEDDED_VOICE}.safetensors"
        if is_voice_state_source(voice):
            return voice
        if isinstance(voice, str) and voice in VOICE_ORIGINS:
            if self._language == EMBEDDED_LANGUAGE:
                raise VoiceError(
                    f"the voice {voice!r} belongs to the released models; the embedded model has "
                    f'"{EMBEDDED_VOICE}"'
                )
            if self._language is None:
                raise VoiceError(
                    f"the voice {voice!r} belongs to the released weights and would not work "
                    f"with {self.origin}; give a .safetensors voice state made for this model"
                )
            return predefined_voice_state(self._language, voice)
        text = str(voice)
        if not text.startswith(("https://", "http://", "hf://")) and not Path(text).exists():
            known = (
                [EMBEDDED_VOICE] if self._language == EMBEDDED_LANGUAGE else sorted(VOICE_ORIGINS)
            )
            raise FileNotFoundError(
                f"no voice and no file is called {text!r}; predefined voices: {', '.join(known)}"
            )
        raise VoiceError(
            f"{text}: making a voice from audio is not available in this version; "
            "give a .safetensors voice state or the name of a voice"
        )

    def _state_from_embeddings(self, embeddings: np.ndarray) -> ModelState:
        """Run the rows of an old voice file through FlowLM.

        Parameters
        ----------
        embeddings : ndarray of float32, shape (T, d_model)
            Projected audio frames.
        """
        rows = embeddings
        if self.config.flow_lm.insert_bos_before_voice:
            rows = np.concatenate([self._bos_before_voice, embeddings])
        engine = self._engine
        empty = np.empty((2, 1, 0, engine.n_kv_heads, engine.head_dim), dtype=np.float32)
        stream = self._flow_lms.borrow()
        stream.begin([empty] * engine.n_layers, 0, len(rows))
        stream.prefill_embeddings(np.ascontiguousarray(rows, dtype=np.float32), self.num_threads)
        caches = stream.export_cache()
        self._flow_lms.give_back(stream)
        return {
            layer_name(index): {
                "offset": np.array([len(rows)], dtype=np.int64),
                "pad": np.zeros(1, dtype=np.int64),
                "cache": cache,
            }
            for index, cache in enumerate(caches)
        }

    # -- speech -----------------------------------------------------------------------------------

    def generate_audio(
        self,
        model_state: ModelState,
        text_to_generate: str,
        max_tokens: int | None = None,
        frames_after_eos: int | None = None,
        copy_state: bool = True,
        *,
        seed: int | None = None,
        normalize: bool | None = None,
    ) -> AudioArray:
        """Speak a text and return all of it.

        Without a seed the chunks of a long text are generated together, which is faster: with one,
        each chunk's noise continues that of the chunk before, as in the reference.

        Parameters
        ----------
        model_state, text_to_generate, max_tokens, frames_after_eos, copy_state, seed, normalize
            As for :meth:`generate_audio_stream`.

        Returns
        -------
        AudioArray
            float32 samples between about -1 and 1, shape (n_samples,), at :attr:`sample_rate`. A
            NumPy array that also has the methods of a tensor that audio code commonly calls
            (``.numpy()``, ``.cpu()``, ...).

        Raises
        ------
        TextError
            The text has nothing to speak. A ``ValueError``.
        VoiceError
            The state does not fit the model. A ``ValueError``.
        """
        generation, _ = self._prepare(
            model_state,
            text_to_generate,
            max_tokens,
            frames_after_eos,
            copy_state,
            threading.Event(),
            seed=seed,
            normalize=normalize,
            together=seed is None and copy_state,
        )
        with closing(generation.audio()) as stream:
            parts = [samples for _, samples in stream]
        return np.concatenate(parts).view(AudioArray)

    def generate_audio_batch(
        self,
        items: Sequence[tuple[ModelState, str, int | None]],
        max_tokens: int | None = None,
        frames_after_eos: int | None = None,
        *,
        normalize: bool | None = None,
    ) -> list[AudioArray]:
        """Speak several texts, each in its voice, together: faster than one after the other.

        Parameters
        ----------
        items : sequence of (model_state, text, seed)
            Voice, text and seed (or None) of each.
        max_tokens, frames_after_eos, normalize
            As for :meth:`generate_audio_stream`.

        Returns
        -------
        list of AudioArray
            What :meth:`generate_audio` gives for each item and seed, float32 [n_samples].

        Raises
        ------
        TextError, VoiceError, ValueError
            As for :meth:`generate_audio`; nothing is generated then.
        """
        tracks = []
        for model_state, text, seed in items:
            chunks, after_eos = self._spoken(text, max_tokens, frames_after_eos, normalize)
            spoken = [self._spoken_chunk(chunk, after_eos) for chunk in chunks]
            tracks.append(Track(spoken, self._voice(model_state, True), self._sampling(seed)))
        if not tracks:
            return []
        owners = [index for index, track in enumerate(tracks) for _ in track.chunks]
        parts: list[list[np.ndarray]] = [[] for _ in tracks]
        with closing(self._together(tracks, threading.Event()).audio()) as stream:
            for number, samples in stream:
                parts[owners[number]].append(samples)
        return [np.concatenate(part).view(AudioArray) for part in parts]

    def generate_audio_stream(
        self,
        model_state: ModelState,
        text_to_generate: str,
        max_tokens: int | None = None,
        frames_after_eos: int | None = None,
        copy_state: bool = True,
        stop: threading.Event | None = None,
        *,
        seed: int | None = None,
        normalize: bool | None = None,
    ) -> Generator[AudioArray, None, None]:
        """Speak a text, piece by piece as it is generated.

        Parameters
        ----------
        model_state : dict
            A voice, from :meth:`get_state_for_audio_prompt`.
        text_to_generate : str
            What to say, of any length; long texts are spoken in chunks of sentences.
        max_tokens : int, optional
            Largest number of tokens in a chunk. By default the model's own limit: 50, and 32 for
            the embedded model.
        frames_after_eos : int, optional
            Frames of 80 ms to emit after the end of speech was seen. By default what the
            configuration recommends, else a guess from the number of words.
        copy_state : bool
            Whether `model_state` stays as it is and each chunk starts from it. If False, the
            entries of `model_state` are replaced, after each chunk, by ones that include what
            was said, and the next chunk continues from there.
        stop : threading.Event, optional
            Once set, nothing more is generated and the iterator ends, within the time of about
            one frame.
        seed : int, optional
            Makes the speech repeatable: the same noise as ``torch.manual_seed(seed)`` gives the
            PyTorch package. Without it every generation is different.
        normalize : bool, optional
            Whether to spell out numbers, symbols and abbreviations first. By default only for
            the embedded model, which does not know them.

        Yields
        ------
        AudioArray
            float32 samples, shape (n_samples,), of one or more whole frames. Closing the
            iterator ends the generation.

        Raises
        ------
        TextError
            The text has nothing to speak. A ``ValueError``.
        VoiceError
            The state does not fit the model. A ``ValueError``.
        ValueError
            Another parameter is out of its range.
        """
        generation, _ = self._prepare(
            model_state,
            text_to_generate,
            max_tokens,
            frames_after_eos,
            copy_state,
            stop or threading.Event(),
            seed=seed,
            normalize=normalize,
        )
        with closing(generation.audio()) as stream:
            for _, samples in stream:
                yield samples.view(AudioArray)

    def _prepare(
        self,
        model_state: ModelState,
        text: str,
        max_tokens: int | None,
        frames_after_eos: int | None,
        copy_state: bool,
        stop: threading.Event,
        *,
        seed: int | None,
        normalize: bool | None,
        together: bool = False,
    ) -> tuple[Generation | TogetherGeneration, list[Chunk]]:
        """A generation that has not begun, and the text chunks it will speak."""
        chunks, frames_after_eos = self._spoken(text, max_tokens, frames_after_eos, normalize)
        spoken = [self._spoken_chunk(chunk, frames_after_eos) for chunk in chunks]
        voice = self._voice(model_state, copy_state)
        if together and len(spoken) > 1:
            tracks = [Track([chunk], voice, self._sampling(None)) for chunk in spoken]
            return self._together(tracks, stop), chunks
        engine = self._engine
        generation = Generation(
            spoken,
            voice,
            self._sampling(seed),
            StagePlan(self.num_threads, engine.mimi_frames_max),
            self._flow_lms,
            self._mimis,
            latent_dim=engine.latent_dim,
            samples_per_frame=engine.samples_per_frame,
            sample_rate=self.sample_rate,
            stop=stop,
        )
        return generation, chunks

    def _sampling(self, seed: int | None) -> Sampling:
        """The model's sampling parameters with noise of their own."""
        from .noise import NoiseSource

        return Sampling(
            NoiseSource(seed, self._engine.latent_dim, self.temp, self.noise_clamp),
            self.sampler_decode_steps,
            # Compared with a float32 logit.
            float(np.float32(self.eos_threshold)),
        )

    def _together(self, tracks: Sequence[Track], stop: threading.Event) -> TogetherGeneration:
        """A generation of several tracks that has not begun."""
        from .engine import FlowLMBatch

        engine = self._engine
        return TogetherGeneration(
            tracks,
            FlowLMBatch(engine, min(MAX_TOGETHER, len(tracks))),
            self._flow_lms,
            self._mimis,
            num_threads=self.num_threads,
            latent_dim=engine.latent_dim,
            samples_per_frame=engine.samples_per_frame,
            sample_rate=self.sample_rate,
            stop=stop,
        )

    def _spoken(
        self,
        text: str,
        max_tokens: int | None,
        frames_after_eos: int | None,
        normalize: bool | None,
    ) -> tuple[list[Chunk], int | None]:
        """The chunks of a text, and the frames after the end of speech; parameters are checked."""
        self._check_sampling()
        profile = self.profile
        if max_tokens is None:
            max_tokens = profile.max_tokens
        _check_whole("max_tokens", max_tokens, 1)
        if frames_after_eos is None:
            frames_after_eos = self.config.model_recommended_frames_after_eos
        if frames_after_eos is not None:
            _check_whole("frames_after_eos", frames_after_eos, 0)
        chunks = self._chunks(
            text, max_tokens, profile.normalize if normalize is None else normalize
        )
        return chunks, frames_after_eos

    def _chunks(self, text: str, max_tokens: int, normalize: bool) -> list[Chunk]:
        """The text cut into pieces that the model can speak in one go."""
        from .text import chunk_text

        if not isinstance(text, str):
            raise TypeError(f"the text should be a str, not {type(text).__name__}")
        if normalize:
            from .normalize import normalize_text

            text = normalize_text(text, _language_code(self._language))
            # What is left of a text of emoji or brackets would be spoken as a strange noise.
            if not any(character.isalnum() for character in text):
                raise TextError("the text has nothing that can be spoken")
        return chunk_text(text, self._tokenizer, self.config, max_tokens)

    def _spoken_chunk(self, chunk: Chunk, frames_after_eos: int | None) -> SpokenChunk:
        token_ids = np.asarray(chunk.token_ids, dtype=np.int64)
        seconds = len(token_ids) / _TOKENS_PER_SECOND + _EXTRA_SECONDS
        return SpokenChunk(
            token_ids=token_ids,
            max_frames=math.ceil(seconds * self.config.mimi.frame_rate),
            frames_after_eos=(
                chunk.frames_after_eos_guess if frames_after_eos is None else frames_after_eos
            ),
        )

    def _voice(self, model_state: ModelState, copy_state: bool) -> Voice:
        """The rows of a state in the order of the layers."""
        # The values were checked when the voice was read; scanning them would delay the speech.
        check_model_state(model_state, self.config, values=False)
        layers = [model_state[layer_name(index)] for index in range(self._engine.n_layers)]
        prefix = [np.ascontiguousarray(layer["cache"]) for layer in layers]

        def keep(caches: list[np.ndarray]) -> None:
            # New arrays instead of new contents: other generations may be reading the old ones.
            for layer, cache in zip(layers, caches, strict=True):
                layer["cache"] = cache
                layer["offset"] = np.array([cache.shape[2]], dtype=np.int64)

        return Voice(prefix, state_length(model_state), None if copy_state else keep)

    def _check_sampling(self) -> None:
        """Raise ValueError when an attribute that the caller may change is out of its range."""
        _check_whole("sampler_decode_steps", self.sampler_decode_steps, 1)
        if not (_is_number(self.temp) and 0 <= self.temp < math.inf):
            raise ValueError(f"temp should be a number of at least 0, not {self.temp!r}")
        if self.noise_clamp is not None and not (
            _is_number(self.noise_clamp) and self.noise_clamp >= 0
        ):
            raise ValueError(
                f"noise_clamp should be a number of at least 0, not {self.noise_clamp!r}"
            )
        if not _is_number(self.eos_threshold) or math.isnan(self.eos_threshold):
            raise ValueError(f"eos_threshold should be a number, not {self.eos_threshold!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _check_whole(name: str, value: object, least: int) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:  # type: ignore[operator]
        raise ValueError(f"{name} should be a whole number of at least {least}, not {value!r}")


def _make_engine(config: Config, weights: LoadedWeights, precision: str, use_cache: bool) -> Engine:
    """Pack the weights, or map them when an earlier process has packed the same ones."""
    from . import packed_cache
    from .engine import Engine

    size = sum(tensor.data.nbytes for tensor in weights.tensors.values())
    if not use_cache or size < packed_cache.MIN_BYTES:
        return Engine(config, weights.tensors, precision)
    name = packed_cache.cache_name(weights.files, precision)
    packed = packed_cache.open_packed(name)
    if packed is None:
        engine = Engine(config, weights.tensors, precision)
        if not packed_cache.store_packed(name, engine.packed_matrices()):
            return engine
        # From here on the memory of the file serves, which other processes share.
        del engine
        packed = packed_cache.open_packed(name)
    return Engine(config, weights.tensors, precision, packed)


def _language_config(language: str) -> Path:
    """Configuration file of a released or embedded model."""
    if language == EMBEDDED_LANGUAGE:
        return EMBEDDED_CONFIG
    released = released_languages()
    if language not in released:
        known = ", ".join([EMBEDDED_LANGUAGE, *released])
        raise FileNotFoundError(f"there is no model for the language {language!r}; known: {known}")
    return CONFIG_DIR / f"{language}.yaml"


def _config_file(reference: str | Path | None) -> Path:
    """Local path of a configuration given by path or URL."""
    from .download import resolve_path

    text = str(reference)
    name = text.split("@")[0] if text.startswith("hf://") else text
    if not name.endswith((".yaml", ".yml")):
        raise ValueError(f"config should be a YAML file ending in .yaml or .yml, not {text!r}")
    path = resolve_path(text)
    if not path.is_file():
        raise FileNotFoundError(f"there is no configuration file {path}")
    return path


_LANGUAGE_CODES = {
    "french": "fr",
    "german": "de",
    "portuguese": "pt",
    "italian": "it",
    "spanish": "es",
    "dutch": "nl",
}


def _language_code(language: str | None) -> str:
    """Two-letter code of a model's language; English when nothing else is known."""
    for name, code in _LANGUAGE_CODES.items():
        if language is not None and name in language:
            return code
    return "en"
