"""Every stage against the PyTorch reference, on small models that cover all branches.

The goldens were recorded by ``scripts/make_goldens.py``; the bars stand in ``conftest.py``. The
largest difference per stage is printed at the end of the run.
"""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import Golden, golden_names, load_golden

from pocket_tts_cy import TTSModel
from pocket_tts_cy._engine import Engine, FlowLMStream, MimiStream, isa_active, isa_available
from pocket_tts_cy.config import Config, load_config
from pocket_tts_cy.noise import NoiseSource
from pocket_tts_cy.text import chunk_text
from pocket_tts_cy.tokenizer import load_tokenizer
from pocket_tts_cy.voices import read_voice_state, state_length
from pocket_tts_cy.weights import load_weights

NAMES = golden_names()
CASES = [
    (name, precision)
    for name in NAMES
    for precision in ("float32", "bfloat16")
    if precision == "float32" or load_golden(name).facts["dtype"] == "BF16"
]
RUNS = [
    (name, precision, run) for name, precision in CASES for run in load_golden(name).facts["runs"]
]
FREE_RUNS = [
    (name, precision, steps)
    for name, precision in CASES
    for steps in load_golden(name).facts["stages"]["decode_steps"]
]
THREADS = 1
CHILD = "POCKET_TTS_CY_PARITY_CHILD"


@functools.cache
def config_of(name: str) -> Config:
    """Configuration of a golden model."""
    return load_config(load_golden(name).config_path)


@functools.cache
def engine_of(name: str, precision: str) -> Engine:
    """Engine of a golden model."""
    weights = load_weights(config_of(name), load_golden(name).folder)
    return Engine(config_of(name), weights.tensors, precision)


@functools.cache
def model_of(name: str, precision: str) -> TTSModel:
    """The public model, running its two stages in two threads."""
    if name == "embedded":
        return TTSModel.load_model("embedded", precision=precision, num_threads=2)
    path = load_golden(name).config_path
    return TTSModel.load_model(config=path, precision=precision, num_threads=2)


def case(name: str, precision: str) -> tuple[str, str, str]:
    """Key of the parity report."""
    return name, precision, isa_active()


def layers(state: dict[str, dict[str, np.ndarray]]) -> list[np.ndarray]:
    """Cache arrays of a voice state in the order of the layers."""
    return [state[f"transformer.layers.{i}.self_attn"]["cache"] for i in range(len(state))]


def begun_stream(name: str, precision: str, capacity: int) -> FlowLMStream:
    """A stream that starts from the voice of a golden model."""
    state = read_voice_state(load_golden(name).voice_path, config_of(name))
    stream = FlowLMStream(engine_of(name, precision))
    stream.begin(layers(state), state_length(state), capacity)
    return stream


def free_run(
    golden: Golden, precision: str, decode_steps: int, n_steps: int
) -> tuple[FlowLMStream, np.ndarray, np.ndarray, np.ndarray]:
    """Speak the stage text; return stream, latents, EOS logits and z of each step."""
    stages = golden.facts["stages"]
    noise = NoiseSource(stages["seed"], 32, stages["temp"], None)
    ids = np.array(stages["token_ids"], np.int64)
    stream = begun_stream(golden.name, precision, len(ids) + n_steps)
    noise.draw()  # the reference draws one vector in the text prefill and drops it
    stream.prefill_tokens(ids, THREADS)
    latents = np.empty((n_steps, 32), np.float32)
    logits, z = [], []
    for latent in latents:
        logits.append(stream.step(noise.draw(), latent, decode_steps, THREADS))
        z.append(stream.last_z())
    return stream, latents, np.array(logits), np.array(z)


@pytest.mark.parametrize("name", NAMES)
def test_chunks_parity(name: str) -> None:
    golden, config = load_golden(name), config_of(name)
    table = config.flow_lm.lookup_table
    tokenizer = load_tokenizer(table.n_bins, golden.folder / table.tokenizer_path, table.tokenizer)
    for wanted in golden.facts["chunks"]:
        chunks = chunk_text(wanted["text"], tokenizer, config, wanted["max_tokens"])
        found = [
            {
                "text": chunk.text,
                "token_ids": list(chunk.token_ids),
                "frames_after_eos_guess": chunk.frames_after_eos_guess,
            }
            for chunk in chunks
        ]
        assert found == wanted["chunks"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["noise", "noise_wide", "noise_tight"])
def test_noise_parity(name: str, kind: str, parity: Any) -> None:
    golden = load_golden(name)
    stages, expected = golden.facts["stages"], golden.arrays[kind]
    clamp = stages.get(kind.replace("noise", "clamp"))
    noise = NoiseSource(stages["seed"], 32, stages["temp"], clamp)
    drawn = np.array([noise.draw().copy() for _ in expected])
    parity.check(case(name, "float32"), "noise", drawn, expected)


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_voice_rows_parity(name: str, precision: str, parity: Any) -> None:
    engine = engine_of(name, precision)
    rows = np.random.RandomState(3).standard_normal((5, engine.d_model)).astype(np.float32)
    stream = FlowLMStream(engine)
    empty = np.empty((2, 1, 0, engine.n_kv_heads, engine.head_dim), np.float32)
    stream.begin([empty] * engine.n_layers, 0, len(rows))
    stream.prefill_embeddings(rows, THREADS)
    expected = load_golden(name).arrays["voice_v1_kv"]
    for cache, layer in zip(stream.export_cache(), expected, strict=True):
        for found, kept in zip(cache[:, 0], layer, strict=True):
            parity.check(case(name, precision), "voice K/V", found, kept)


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_text_prefill_parity(name: str, precision: str, parity: Any) -> None:
    golden = load_golden(name)
    ids = np.array(golden.facts["stages"]["token_ids"], np.int64)
    stream = begun_stream(name, precision, len(ids))
    start = stream.length
    stream.prefill_tokens(ids, THREADS)
    assert stream.length == start + len(ids)
    for cache, layer in zip(stream.export_cache(), golden.arrays["text_kv"], strict=True):
        for found, kept in zip(cache[:, 0, start:], layer, strict=True):
            parity.check(case(name, precision), "text K/V", found, kept)


@pytest.mark.parametrize(("name", "precision", "steps"), FREE_RUNS)
def test_first_steps_parity(name: str, precision: str, steps: int, parity: Any) -> None:
    golden = load_golden(name)
    expected_z = golden.arrays[f"z_{steps}"]
    logits = golden.arrays[f"eos_logits_{steps}"]
    _, latents, found_logits, z = free_run(golden, precision, steps, len(expected_z))
    key = case(name, precision)
    parity.check(key, "z", z, expected_z)
    # A single logit may lie near zero: the scale is that of the whole run.
    scale = np.abs(logits).max()
    parity.check(key, "EOS logit", [found_logits[0] / scale, 1.0], [float(logits[0]) / scale, 1.0])
    parity.check(key, "1st latent", latents[0], golden.arrays[f"latents_{steps}"][0])


@pytest.mark.parametrize(("name", "precision", "steps"), FREE_RUNS)
def test_free_running_latents_parity(name: str, precision: str, steps: int, parity: Any) -> None:
    golden = load_golden(name)
    expected = golden.arrays[f"latents_{steps}"]
    logits = golden.arrays[f"eos_logits_{steps}"]
    _, latents, found_logits, _ = free_run(golden, precision, steps, len(expected))
    parity.check(case(name, precision), "latents", latents, expected)
    parity.check(case(name, precision), "latents", found_logits, logits)


@pytest.mark.parametrize("frames", [(1,), (16,), (3, 1, 2)])
@pytest.mark.parametrize(("name", "precision"), CASES)
def test_mimi_parity(name: str, precision: str, frames: tuple[int, ...], parity: Any) -> None:
    golden, engine = load_golden(name), engine_of(name, precision)
    latents = golden.arrays["mimi_latents"]
    audio = np.empty(len(latents) * engine.samples_per_frame, np.float32)
    stream = MimiStream(engine)
    # Frames of another decoding must leave nothing behind.
    stream.decode(latents[:2].copy(), audio[: 2 * engine.samples_per_frame], THREADS)
    stream.reset()
    done = 0
    while done < len(latents):
        for n in frames:
            part = latents[done : done + n]
            samples = audio[done * engine.samples_per_frame :][: len(part) * 1920]
            if len(part):
                stream.decode(np.ascontiguousarray(part), samples, THREADS)
            done += len(part)
    parity.check(case(name, precision), "Mimi", audio, golden.arrays["mimi_audio"])


@pytest.mark.parametrize(
    ("name", "precision"),
    # The reference no longer reads these files; with a row put before the voice there is
    # nothing to compare with.
    [
        pair
        for pair in CASES
        if not load_golden(pair[0]).config["flow_lm"].get("insert_bos_before_voice")
    ],
)
def test_oldest_voice_file_parity(name: str, precision: str, parity: Any) -> None:
    golden = load_golden(name)
    model = model_of(name, precision)
    state = model.get_state_for_audio_prompt(golden.folder / "voice_v1.safetensors")
    for cache, layer in zip(layers(state), golden.arrays["voice_v1_kv"], strict=True):
        for found, kept in zip(cache[:, 0], layer, strict=True):
            parity.check(case(name, precision), "voice K/V", found, kept)


@pytest.mark.parametrize(("name", "precision", "run"), RUNS)
def test_generated_audio_parity(name: str, precision: str, run: str, parity: Any) -> None:
    golden, model = load_golden(name), model_of(name, precision)
    wanted = golden.facts["runs"][run]
    model.temp = wanted["temp"]
    model.eos_threshold = wanted["eos_threshold"]
    model.noise_clamp = wanted["noise_clamp"]
    model.sampler_decode_steps = wanted["sampler_decode_steps"]
    audio = model.generate_audio(
        model.get_state_for_audio_prompt(golden.voice_path),
        wanted["text"],
        max_tokens=wanted["max_tokens"],
        frames_after_eos=wanted["frames_after_eos"],
        seed=wanted["seed"],
    )
    assert len(audio) == 1920 * sum(wanted["frames"])
    expected = golden.audio(run)
    if expected is not None:
        parity.check(case(name, precision), "waveform", np.asarray(audio), expected)


if CHILD not in os.environ:

    @pytest.mark.parametrize("isa", [isa for isa in isa_available() if isa != isa_active()])
    def test_parity_on_other_isa(isa: str, tmp_path: Path, parity: Any) -> None:
        """All of the above again, on each other instruction set that this machine can run."""
        report = tmp_path / "parity.json"
        result = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", __file__, "-q", "-p", "no:cacheprovider"),
                *("--parity-report", str(report)),
            ],
            env=os.environ | {"POCKET_TTS_CY_ISA": isa, CHILD: "1"},
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if report.exists():
            parity.read(report)
        assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
        assert {key[2] for key in parity.differences} >= {isa}
