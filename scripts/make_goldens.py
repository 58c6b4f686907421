"""Record what the PyTorch reference computes, for the parity tests.

Run inside a virtual environment that holds ``pocket-tts==4.0.1`` and ``docopt-ng``. Small random
models (``golden_models.py``) are written with their configuration, weights, tokenizer and voice
state to ``tests/data/models/NAME``; next to them ``goldens.json`` (texts, token ids, frame counts)
and ``goldens.npz`` (arrays). The embedded model's goldens go to ``tests/data/models/embedded``;
its weights stay where they are.

Usage:
  make_goldens.py [--output=DIR] [MODEL...]
  make_goldens.py -h | --help

Options:
  --output=DIR  Folder that receives one sub-folder per model
                [default: tests/data/models].
  -h --help     Show this text.
"""

import contextlib
import copy
import itertools
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from docopt import docopt
from golden_models import MODELS, GoldenModel, random_weights, write_tokenizer, write_weights
from pocket_tts import TTSModel, export_model_state
from pocket_tts.models.text_chunking import prepare_text_prompt, split_into_best_sentences
from pocket_tts.modules.stateful_module import ModelState, increment_steps, init_states

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from golden import encode_audio, reference_audio  # noqa: E402

FREE_RUNNING_STEPS = 100
KEPT_STEPS = 4
NEVER = 1e9
ALWAYS = -1e9
MIN_FRAMES_BEFORE_EOS = 6
# Largest allowed outcome of an error of 1e-6 per step: a twentieth of the bar of the latents.
CALM = 5e-5
# Distance of every EOS logit from the threshold, relative to the largest logit: ten times the
# bar of the free-running latents, so that a passing implementation stops at the same frame.
ENOUGH_MARGIN = 0.01

CHUNK_TEXTS = (
    "Hello world.",
    "yes",
    "what is it",
    '"Really?", she asked; nobody answered…',
    "It costs 3.14 dollars. No more than that!",
    "First line\nsecond line\r\nthird line",
    "A dash – and another — here; and a semicolon, too -",
    "(He whispered: 'Come closer')",
    "Wait... what?! No!! Yes...",
    "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen: that is "
    "how far the little boy could count, and he was proud; very proud, in fact.",
    "The first sentence is here. The second one follows it. A third comes along! Does a fourth? "
    "Yes. And then the fifth sentence ends the text.",
    "élan vital — naïve café, 中文 and 🙂 too",
    "  spaces   everywhere   in  this    text  ",
    "I’m ‘quoted’ and “quoted” again",
    "ends with a comma,",
    "version 2.5.1 came out at 10.30 today, 1,000 people saw it",
)

VOICE_SEED = 11
VOICE_SAMPLES = 24000
STAGE_SEED = 123
ONE_CHUNK_TEXT = "The small birds sing."
MANY_CHUNKS_TEXT = "Good morning! Is it time to go? We walked along the river."

EMBEDDED_TEXTS = (
    ("Hello world.", 0),
    ("Good morning, how are you today?", 7),
    ("The door is open. Please come in and sit down. The tea is ready, and the bread is warm.", 42),
)


class Recorder:
    """Keeps what the flow head and the EOS head see in each FlowLM call.

    Attributes
    ----------
    z, eos_logits, noise : list of ndarray
        One entry per FlowLM call, text prefills included.
    """

    def __init__(self, model: TTSModel) -> None:
        self.z: list[np.ndarray] = []
        self.eos_logits: list[np.ndarray] = []
        self.noise: list[np.ndarray] = []
        self._handles = [
            model.flow_lm.out_eos.register_forward_hook(self._eos_called),
            model.flow_lm.flow_net.register_forward_pre_hook(self._head_called),
        ]

    def _eos_called(self, _module: Any, inputs: Any, output: torch.Tensor) -> None:
        self.z.append(inputs[0][0].numpy().copy())
        self.eos_logits.append(output[0].numpy().copy())

    def _head_called(self, _module: Any, inputs: Any) -> None:
        # The sampler calls the head several times; its first input is the noise itself.
        if len(self.noise) < len(self.z):
            self.noise.append(inputs[-1][0].numpy().copy())

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


@contextlib.contextmanager
def recording(model: TTSModel) -> Iterator[Recorder]:
    """Record the calls of `model` inside a ``with`` block."""
    recorder = Recorder(model)
    try:
        yield recorder
    finally:
        recorder.close()


@contextlib.contextmanager
def settings(model: TTSModel, **values: Any) -> Iterator[None]:
    """Set attributes of `model` inside a ``with`` block."""
    before = {name: getattr(model, name) for name in values}
    for name, value in values.items():
        setattr(model, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(model, name, value)


def build_model(folder: Path, spec: GoldenModel, seed: int) -> TTSModel:
    """Write a random model into `folder` (the working directory) and load it."""
    table = spec.config["flow_lm"]["lookup_table"]
    write_tokenizer(folder, table["tokenizer"], table["n_bins"])
    write_config(folder, spec.config)
    empty = TTSModel.load_model(config="config.yaml")
    buffers = {name: value for name, value in empty.state_dict().items() if "freqs" in name}
    shapes = {name: tuple(value.shape) for name, value in empty.state_dict().items()}
    tensors = random_weights(shapes, buffers, seed)
    empty.load_state_dict(tensors)
    level_last_convolution(empty, tensors)
    calm_feedback(empty, tensors, spec.decode_steps)
    write_config(folder, write_weights(folder, spec, tensors))
    return TTSModel.load_model(config="config.yaml")


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write ``config.yaml``."""
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    (folder / "config.yaml").write_text(text, encoding="utf-8")


def level_last_convolution(model: TTSModel, tensors: dict[str, torch.Tensor]) -> None:
    """Scale the last decoder convolution so that random latents decode to an RMS of 0.15."""
    audio = decode(model, random_latents(10), frames_per_call=10)
    last = max(
        (name for name in tensors if name.startswith("mimi.decoder.model.")),
        key=lambda name: int(name.split(".")[3]),
    ).rsplit(".", 1)[0]
    for leaf in ("weight", "bias"):
        tensors[f"{last}.{leaf}"] = tensors[f"{last}.{leaf}"] * (0.15 / float(audio.std()))


def calm_feedback(
    model: TTSModel, tensors: dict[str, torch.Tensor], decode_steps: tuple[int, ...]
) -> None:
    """Lower the weights of the feedback until small errors no longer grow in the loop.

    A trained loop forgets rounding errors; a random one can be chaotic, and then no two
    implementations agree after 100 frames.
    """
    feedback = ("flow_lm.input_linear.weight", "flow_lm.flow_net.final_layer.linear.weight")
    for _ in range(20):
        model.load_state_dict(tensors)
        growth = 0.0
        voice = reference_voice(model)
        ids = chunks_of(model, ONE_CHUNK_TEXT, 50)[0]["token_ids"]
        for steps, seed in itertools.product(decode_steps, (STAGE_SEED, 1, 2)):
            with settings(model, sampler_decode_steps=steps):
                growth = max(growth, error_growth(model, voice, ids, seed, FREE_RUNNING_STEPS))
        if growth < CALM / 4:
            return
        for name in feedback:
            tensors[name] = 0.85 * tensors[name]
    raise SystemExit(f"the loop stays chaotic: an error of 1e-6 per step grows to {growth:.1e}")


def random_latents(n_frames: int) -> torch.Tensor:
    """Return standard normal latents, float32 [n_frames, 32]."""
    latents = np.random.RandomState(5).standard_normal((n_frames, 32)).astype(np.float32)
    return torch.from_numpy(latents)


@torch.no_grad()
def decode(model: TTSModel, latents: torch.Tensor, frames_per_call: int) -> np.ndarray:
    """Decode normalised latents [n, 32] with a fresh Mimi state, some frames per call."""
    steps = int(model.mimi.encoder_frame_rate / model.mimi.frame_rate)
    state = init_states(model.mimi, batch_size=1, sequence_length=steps * len(latents))
    audio = []
    for part in latents.split(frames_per_call):
        normal = (part * model.flow_lm.emb_std + model.flow_lm.emb_mean)[None]
        audio.append(model.mimi.decode_from_latent(normal, state)[0, 0])
        increment_steps(model.mimi, state, increment=steps * len(part))
    return torch.cat(audio).numpy()


def kv_rows(state: ModelState, start: int) -> np.ndarray:
    """Stack the K/V rows from `start` on, float32 [layers, 2, rows, kv_heads, head_dim]."""
    caches = [module["cache"][:, 0] for module in state.values()]
    length = int(next(iter(state.values()))["offset"][0])
    return torch.stack([cache[:, start:length] for cache in caches]).numpy()


def chunks_of(model: TTSModel, text: str, max_tokens: int) -> list[dict[str, Any]]:
    """Return text, token ids and frames-after-EOS guess of each chunk of `text`."""
    options = (
        model.pad_with_spaces_for_short_inputs,
        model.remove_semicolons,
        model.append_terminal_punctuation,
        model.capitalize_first_letter,
        model.replace_characters,
    )
    tokenizer = model.flow_lm.conditioner.tokenizer
    chunks = []
    for chunk in split_into_best_sentences(tokenizer, text, max_tokens, *options):
        prepared, guess = prepare_text_prompt(chunk, *options)
        ids = model.flow_lm.conditioner.prepare(prepared)[0].tolist()
        chunks.append({"text": prepared, "token_ids": ids, "frames_after_eos_guess": guess + 2})
    return chunks


@torch.no_grad()
def free_run(
    model: TTSModel,
    voice: ModelState,
    token_ids: list[int],
    seed: int,
    n_steps: int,
    disturbance: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Prefill a text and generate `n_steps` latents, whatever the EOS head says.

    Parameters
    ----------
    model : TTSModel
        The reference.
    voice : ModelState
        State to start from; it is not changed.
    token_ids : list of int
        Tokens of the text.
    seed : int
        Given to ``torch.manual_seed`` right before the prefill.
    n_steps : int
        Number of latents.
    disturbance : float
        Relative random error put on each latent that is fed back.

    Returns
    -------
    latents : ndarray of float32, shape (n_steps, 32)
    kv : ndarray of float32, shape (layers, 2, len(token_ids), kv_heads, head_dim)
        Rows that the text has added to the state.
    """
    state = copy.deepcopy(voice)
    start = model._flow_lm_current_end(state)
    model._expand_kv_cache(state, sequence_length=start + len(token_ids) + n_steps)
    errors = np.random.RandomState(1)
    torch.manual_seed(seed)
    model._run_flow_lm_and_increment_step(state, text_tokens=torch.tensor([token_ids]))
    kv = kv_rows(state, start)
    latent = torch.full((1, 1, model.flow_lm.ldim), float("nan"))
    latents = []
    for _ in range(n_steps):
        latent, _ = model._run_flow_lm_and_increment_step(state, backbone_input_latents=latent)
        latents.append(latent[0, 0].numpy().copy())
        noise = errors.standard_normal(latent.shape).astype(np.float32)
        latent = latent * (1 + disturbance * torch.from_numpy(noise))
    return np.stack(latents), kv


def error_growth(
    model: TTSModel, voice: ModelState, token_ids: list[int], seed: int, n_steps: int
) -> float:
    """Return what a relative error of 1e-6 put on each latent becomes in the loop."""
    latents, _ = free_run(model, voice, token_ids, seed, n_steps)
    disturbed, _ = free_run(model, voice, token_ids, seed, n_steps, disturbance=1e-6)
    return float(np.abs(disturbed - latents).max() / np.abs(latents).max())


def reference_voice(model: TTSModel) -> ModelState:
    """Encode the reference audio into a voice state."""
    audio = torch.from_numpy(reference_audio(VOICE_SEED, VOICE_SAMPLES))[None]
    return model.get_state_for_audio_prompt(audio)


def voice_from_embeddings(model: TTSModel, rows: torch.Tensor) -> ModelState:
    """Run embedding rows [T, d_model] through FlowLM, starting from nothing."""
    state = init_states(model.flow_lm, batch_size=1, sequence_length=len(rows))
    with torch.no_grad():
        model._run_flow_lm_and_increment_step(state, audio_conditioning=rows[None])
    return state


def generate(
    model: TTSModel, voice: ModelState, run: dict[str, Any]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Generate the audio of one run and describe it.

    Parameters
    ----------
    model : TTSModel
        The reference.
    voice : ModelState
        Voice state.
    run : dict
        ``text``, ``seed`` and optional ``max_tokens``, ``frames_after_eos``, ``eos_threshold``,
        ``noise_clamp``, ``temp``, ``sampler_decode_steps``.

    Returns
    -------
    audio : ndarray of float32
    description : dict
        The run with all values filled in, the frame count and EOS step of each chunk, and the
        distance of the nearest EOS logit from the threshold relative to the largest logit.
    """
    run = {
        "max_tokens": 50,
        "frames_after_eos": None,
        "eos_threshold": model.eos_threshold,
        "noise_clamp": model.noise_clamp,
        "temp": model.temp,
        "sampler_decode_steps": model.sampler_decode_steps,
        **run,
    }
    on_model = ("eos_threshold", "noise_clamp", "temp", "sampler_decode_steps")
    bounds: list[int] = []
    frames: list[int] = []
    samples_per_frame = model.mimi.frame_size
    one_chunk = model._generate_audio_stream_short_text

    with settings(model, **{name: run[name] for name in on_model}), recording(model) as recorder:

        def counted(*args: Any, **kwargs: Any) -> Iterator[torch.Tensor]:
            bounds.append(len(recorder.eos_logits))
            frames.append(0)
            for audio in one_chunk(*args, **kwargs):
                frames[-1] += audio.shape[-1] // samples_per_frame
                yield audio

        with settings(model, _generate_audio_stream_short_text=counted):
            torch.manual_seed(run["seed"])
            audio = model.generate_audio(
                voice,
                run["text"],
                max_tokens=run["max_tokens"],
                frames_after_eos=run["frames_after_eos"],
            )
    eos_steps: list[int | None] = []
    margin = float("inf")
    largest = max(abs(float(logit[0])) for logit in recorder.eos_logits)
    for first, end in zip(bounds, [*bounds[1:], len(recorder.eos_logits)], strict=True):
        # The first call of a chunk is the text prefill, whose EOS logit nobody reads.
        logits = np.concatenate(recorder.eos_logits[first + 1 : end])
        over = np.flatnonzero(logits > run["eos_threshold"])
        eos_steps.append(next((int(i) for i in over if i >= MIN_FRAMES_BEFORE_EOS), None))
        margin = min(margin, float(np.abs(logits - run["eos_threshold"]).min()) / largest)
    return audio.numpy(), {**run, "frames": frames, "eos_steps": eos_steps, "eos_margin": margin}


def eos_thresholds(logits: np.ndarray) -> list[float]:
    """Choose thresholds that fire at different steps, each far from every logit.

    Parameters
    ----------
    logits : ndarray of float32, shape (steps,)
        EOS logits of a free run.

    Returns
    -------
    list of float
        Thresholds halfway between two neighbouring sorted logits: one per distinct EOS step
        that can be had with a margin, earliest step first.
    """
    levels = np.sort(logits)
    found: dict[int, tuple[float, float]] = {}
    for low, high in itertools.pairwise(levels):
        threshold = float((low + high) / 2)
        over = [i for i in np.flatnonzero(logits > threshold) if i >= MIN_FRAMES_BEFORE_EOS]
        if over:
            step = int(over[0])
            found[step] = max(found.get(step, (0.0, 0.0)), (float(high - low), threshold))
    scale = float(np.abs(logits).max())
    return [found[step][1] for step in sorted(found) if found[step][0] > 2 * ENOUGH_MARGIN * scale]


def best_run(
    model: TTSModel, voice: ModelState, run: dict[str, Any], n_frames: tuple[int, int]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Generate with an EOS threshold that fires with a margin and needs few frames."""
    candidates = []
    for threshold in np.quantile(probe_logits(model, voice, run), np.linspace(0.3, 0.98, 18)):
        audio, description = generate(model, voice, run | {"eos_threshold": float(threshold)})
        longest = max(description["frames"])
        if n_frames[0] <= longest <= n_frames[1] and None not in description["eos_steps"]:
            margin = min(description["eos_margin"], ENOUGH_MARGIN)
            candidates.append(((margin, -sum(description["frames"])), description, audio))
    if not candidates:
        raise SystemExit(f"no EOS threshold gives {n_frames} frames for {run['text']!r}")
    _, description, audio = max(candidates, key=lambda candidate: candidate[0])
    return audio, description


def probe_logits(model: TTSModel, voice: ModelState, run: dict[str, Any]) -> np.ndarray:
    """Return the EOS logits of 24 free-running steps on the first chunk of the run's text."""
    ids = chunks_of(model, run["text"], run.get("max_tokens", 50))[0]["token_ids"]
    with recording(model) as recorder:
        free_run(model, voice, ids, run["seed"], 24)
    return np.concatenate(recorder.eos_logits[1:])


class Goldens:
    """Collects arrays and facts of one model and writes them."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self.facts: dict[str, Any] = {"made_with": f"pocket-tts 4.0.1, torch {torch.__version__}"}

    def add_run(self, name: str, audio: np.ndarray | None, description: dict[str, Any]) -> None:
        """Keep a run; its audio is stored as int16 with a scale (error 1.6e-5 of the peak)."""
        self.facts.setdefault("runs", {})[name] = description
        if audio is not None:
            self.arrays[f"run_{name}"], self.facts["runs"][name]["scale"] = encode_audio(audio)

    def write(self, folder: Path) -> None:
        """Write ``goldens.json`` and ``goldens.npz``."""
        text = json.dumps(self.facts, indent=1, ensure_ascii=False)
        # One line per list of numbers instead of one line per number.
        text = re.sub(r"\[[\s\d,]+\]", lambda found: " ".join(found[0].split()), text)
        (folder / "goldens.json").write_text(text + "\n", encoding="utf-8")
        np.savez_compressed(folder / "goldens.npz", **self.arrays)


def record_chunks(goldens: Goldens, model: TTSModel, limits: tuple[int, ...]) -> None:
    """Record chunk texts and token ids of the text collection."""
    goldens.facts["chunks"] = [
        {"text": text, "max_tokens": limit, "chunks": chunks_of(model, text, limit)}
        for limit in limits
        for text in CHUNK_TEXTS
    ]


def record_stages(
    goldens: Goldens,
    model: TTSModel,
    voice: ModelState,
    text: str,
    seed: int,
    decode_steps: tuple[int, ...],
    n_steps: int = FREE_RUNNING_STEPS,
) -> None:
    """Record prefill, first steps and free-running latents of `text`."""
    chunk = chunks_of(model, text, 50)[0]
    stages = {"text": chunk["text"], "token_ids": chunk["token_ids"], "seed": seed}
    stages |= {"temp": model.temp, "decode_steps": list(decode_steps), "error_growth": {}}
    for steps in decode_steps:
        with settings(model, sampler_decode_steps=steps):
            with recording(model) as recorder:
                latents, kv = free_run(model, voice, chunk["token_ids"], seed, n_steps)
            growth = error_growth(model, voice, chunk["token_ids"], seed, n_steps)
        if growth > CALM:
            raise SystemExit(f"chaotic loop: an error of 1e-6 per step grows to {growth:.1e}")
        stages["error_growth"][str(steps)] = growth
        goldens.arrays[f"latents_{steps}"] = latents
        goldens.arrays[f"eos_logits_{steps}"] = np.concatenate(recorder.eos_logits[1:])
        goldens.arrays[f"z_{steps}"] = np.stack(recorder.z[1 : 1 + KEPT_STEPS])
    goldens.arrays["text_kv"] = kv
    goldens.arrays["noise"] = np.stack(recorder.noise[: 1 + KEPT_STEPS])
    # A wide and a tight clamp: PyTorch samples them in two different ways.
    for name, clamp in (("wide", 1.5 * model.temp**0.5), ("tight", 0.2 * model.temp**0.5)):
        with settings(model, noise_clamp=clamp), recording(model) as recorder:
            free_run(model, voice, chunk["token_ids"], seed, KEPT_STEPS)
        goldens.arrays[f"noise_{name}"] = np.stack(recorder.noise)
        stages[f"clamp_{name}"] = clamp
    goldens.facts["stages"] = stages


def record_mimi(goldens: Goldens, model: TTSModel, n_frames: int) -> None:
    """Record the decoding of random latents, one frame per call, and check all at once."""
    latents = random_latents(n_frames)
    one_by_one = decode(model, latents, frames_per_call=1)
    at_once = decode(model, latents, frames_per_call=n_frames)
    difference = float(np.abs(one_by_one - at_once).max() / np.abs(one_by_one).max())
    if difference > 3e-6:
        raise SystemExit(f"the reference depends on the split of the frames: {difference}")
    goldens.arrays["mimi_latents"] = latents.numpy()
    goldens.arrays["mimi_audio"] = one_by_one
    goldens.facts["mimi_split_difference"] = difference


def record_random_model(folder: Path, spec: GoldenModel, seed: int) -> None:
    """Build one random model and write everything about it into `folder`."""
    folder.mkdir(parents=True)
    goldens = Goldens()
    with contextlib.chdir(folder):
        model = build_model(folder, spec, seed)
        model.max_decoder_frames_per_call = 1
        model.sampler_decode_steps = spec.decode_steps[0]

        voice = reference_voice(model)
        export_model_state(voice, "voice.safetensors")
        goldens.facts["voice"] = {"audio_seed": VOICE_SEED, "audio_samples": VOICE_SAMPLES}

        rows = torch.from_numpy(
            np.random.RandomState(3).standard_normal((5, model.flow_lm.dim)).astype(np.float32)
        )
        safetensors.torch.save_file({"audio_prompt": rows[None]}, "voice_v1.safetensors")
        goldens.arrays["voice_v1_kv"] = kv_rows(voice_from_embeddings(model, rows), 0)

        goldens.facts["dtype"] = spec.dtype
        record_chunks(goldens, model, (20,))
        record_stages(goldens, model, voice, ONE_CHUNK_TEXT, STAGE_SEED, spec.decode_steps)
        record_mimi(goldens, model, spec.mimi_frames)
        record_runs(goldens, model, voice)
    goldens.write(folder)
    print_summary(folder, goldens)


def record_runs(goldens: Goldens, model: TTSModel, voice: ModelState) -> None:
    """Record whole generations: waveforms, and frame counts at many EOS thresholds."""
    one = {"text": ONE_CHUNK_TEXT, "seed": STAGE_SEED}
    limits = [n for n in range(8, 21) if len(chunks_of(model, MANY_CHUNKS_TEXT, n)) == 3]
    many = {"text": MANY_CHUNKS_TEXT, "seed": 7, "max_tokens": limits[-1]}
    goldens.add_run("one_chunk", *best_run(model, voice, one, (12, 24)))
    goldens.add_run("many_chunks", *best_run(model, voice, many, (8, 24)))
    clamped = {"text": ONE_CHUNK_TEXT, "seed": 9, "noise_clamp": model.temp**0.5}
    goldens.add_run("noise_clamp", *best_run(model, voice, clamped, (8, 24)))

    thresholds = eos_thresholds(goldens.arrays[f"eos_logits_{model.sampler_decode_steps}"])
    chosen = thresholds if len(thresholds) < 5 else [*thresholds[:3], *thresholds[-2:]]
    for i, threshold in enumerate(chosen):
        run = one | {"eos_threshold": threshold, "frames_after_eos": i}
        goldens.add_run(f"eos_{i}", None, generate(model, voice, run)[1])
    short = {"text": "Yes.", "seed": 3}
    goldens.add_run("capped", None, generate(model, voice, short | {"eos_threshold": NEVER})[1])
    goldens.add_run("at_once", None, generate(model, voice, short | {"eos_threshold": ALWAYS})[1])


def record_embedded(folder: Path) -> None:
    """Record the goldens of the embedded model."""
    folder.mkdir(parents=True)
    goldens = Goldens()
    with contextlib.chdir(ROOT / "pocket_tts_cy" / "voice"):
        model = TTSModel.load_model(config="config.yaml")
        model.max_decoder_frames_per_call = 1
        voice = model.get_state_for_audio_prompt("voices/heart.safetensors")
        goldens.facts["dtype"] = "BF16"
        rows = torch.from_numpy(
            np.random.RandomState(3).standard_normal((5, model.flow_lm.dim)).astype(np.float32)
        )
        goldens.arrays["voice_v1_kv"] = kv_rows(voice_from_embeddings(model, rows), 0)
        record_chunks(goldens, model, (50, 32))
        # A trained loop is not made for steps past the end of the sentence: stop there.
        record_stages(goldens, model, voice, EMBEDDED_TEXTS[1][0], STAGE_SEED, (1,), n_steps=20)
        record_mimi(goldens, model, 6)
        for i, (text, seed) in enumerate(EMBEDDED_TEXTS):
            run = {"text": text, "seed": seed, "max_tokens": 32}
            goldens.add_run(f"text_{i}", *generate(model, voice, run))
    goldens.write(folder)
    print_summary(folder, goldens)


def print_summary(folder: Path, goldens: Goldens) -> None:
    """Print sizes and the figures that tell whether the goldens are sane."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    stages = goldens.facts["stages"]
    print(f"{folder.name}: {size / 1e6:.2f} MB")
    for path in sorted(folder.iterdir()):
        print(f"    {path.name}: {path.stat().st_size / 1e3:.0f} kB")
    for steps in stages["decode_steps"]:
        latents = goldens.arrays[f"latents_{steps}"]
        logits = goldens.arrays[f"eos_logits_{steps}"]
        print(
            f"  steps {steps}: latents rms {latents.std():.2f}, EOS logits "
            f"{logits.min():.2f} .. {logits.max():.2f}, an error of 1e-6 per step grows to "
            f"{stages['error_growth'][str(steps)]:.1e}"
        )
    print(f"  Mimi split difference {goldens.facts['mimi_split_difference']:.1e}")
    for name, run in goldens.facts["runs"].items():
        print(
            f"  {name}: frames {run['frames']}, EOS steps {run['eos_steps']}, "
            f"margin {run['eos_margin']:.1e}"
        )


def main() -> None:
    """Run the command line."""
    arguments = docopt(__doc__)
    logging.getLogger("pocket_tts").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    output = Path(arguments["--output"]).resolve()
    wanted = arguments["MODEL"] or [*(spec.name for spec in MODELS), "embedded"]
    specs = {spec.name: (i, spec) for i, spec in enumerate(MODELS)}
    for name in wanted:
        if name not in specs and name != "embedded":
            raise SystemExit(f"unknown model {name!r}; known: {', '.join([*specs, 'embedded'])}")
        folder = output / name
        unfinished = output / f".{name}.{os.getpid()}"
        if name == "embedded":
            record_embedded(unfinished)
        else:
            seed, spec = specs[name]
            record_random_model(unfinished, spec, 1000 + seed)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)


if __name__ == "__main__":
    main()
