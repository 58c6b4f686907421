"""The model inside the package: complete, quick to load, and it speaks."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import pocket_tts_cy
from pocket_tts_cy import TTSModel
from pocket_tts_cy.errors import TextError, VoiceError
from pocket_tts_cy.model import PRECISIONS

VOICE_FOLDER = Path(pocket_tts_cy.__file__).parent / "voice"


@pytest.fixture(scope="module")
def model() -> TTSModel:
    return TTSModel.load_model(language="embedded")


def test_importing_the_package_loads_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); import pocket_tts_cy; "
        "print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert set(loaded.split()) <= {
        "pocket_tts_cy",
        "pocket_tts_cy._version",
        "__future__",
        "typing",
    }


def test_exported_names() -> None:
    for name in pocket_tts_cy.__all__:
        assert getattr(pocket_tts_cy, name) is not None
    assert set(pocket_tts_cy.__all__) <= set(dir(pocket_tts_cy))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = pocket_tts_cy.nonsense


@pytest.mark.parametrize("name", ["LICENSE", "MODEL_CARD.md", "config.yaml", "tokenizer.json"])
def test_licence_and_card_come_with_the_weights(name: str) -> None:
    assert (VOICE_FOLDER / name).stat().st_size > 1000


def test_what_the_model_says_about_itself(model: TTSModel) -> None:
    assert model.language == "embedded"
    assert model.device == "cpu"
    assert model.sample_rate == 24000
    assert model.has_voice_cloning
    assert model.precision == "bfloat16"  # the file is
    assert (model.temp, model.eos_threshold) == (0.15, 0.0)
    assert (model.sampler_decode_steps, model.noise_clamp) == (1, None)
    assert model.origin == VOICE_FOLDER / "config.yaml"
    assert (model.profile.max_tokens, model.profile.default_voice) == (32, "heart")
    assert "embedded" in repr(model)
    weights = dict(model.memory_report())
    assert 9e6 < sum(weights.values()) < 100e6


@pytest.mark.parametrize("precision", PRECISIONS)
def test_speaks(precision: str) -> None:
    model = TTSModel.load_model(language="embedded", precision=precision)
    assert model.precision == precision
    voice = model.get_state_for_audio_prompt("heart")
    audio = model.generate_audio(voice, "Hello world, how are you today?", seed=5)
    assert audio.dtype == np.float32
    assert audio.ndim == 1
    assert len(audio) % 1920 == 0
    assert 1.0 < len(audio) / model.sample_rate < 5.0
    assert np.isfinite(audio).all()
    assert 0.01 < np.sqrt(np.mean(np.square(audio))) < 0.5
    assert np.abs(audio).max() < 1.5
    # Speech has its energy below 8 kHz.
    power = np.abs(np.fft.rfft(audio)) ** 2
    limit = len(power) * 8000 // 12000
    assert power[:limit].sum() > 0.8 * power.sum()


def test_numbers_are_spelled_out(model: TTSModel) -> None:
    written, spoken = (
        [chunk.text for chunk in model._chunks(text, 32, True)]
        for text in ("I have 3 apples.", "I have three apples.")
    )
    assert written == spoken
    # Its tokenizer cannot even show digits.
    assert model._chunks("I have 3 apples.", 32, False)[0].text == "I have apples."


def test_chunks_keep_to_the_limit_of_the_model(model: TTSModel) -> None:
    text = "This is a sentence of several words. " * 12
    voice = model.get_state_for_audio_prompt("heart")
    stop = threading.Event()
    limited = model._prepare(voice, text, None, None, True, stop, seed=1, normalize=None)[1]
    assert len(limited) > 2
    assert all(len(chunk.token_ids) <= 32 for chunk in limited)
    longer = model._prepare(voice, text, 64, None, True, stop, seed=1, normalize=None)[1]
    assert len(longer) < len(limited)


@pytest.mark.parametrize("text", ["", "   ", "🎉", "(...)"])
def test_nothing_to_say(model: TTSModel, text: str) -> None:
    voice = model.get_state_for_audio_prompt("heart")
    with pytest.raises(TextError):
        model.generate_audio(voice, text)
    with pytest.raises(TextError):
        next(iter(model.generate_audio_stream(voice, text)))


def test_voices_of_other_models_are_refused(model: TTSModel) -> None:
    with pytest.raises(VoiceError, match="alba"):
        model.get_state_for_audio_prompt("alba")
    with pytest.raises(FileNotFoundError, match="nobody"):
        model.get_state_for_audio_prompt("nobody")


def test_given_by_its_configuration_it_is_the_same_model(tmp_path: Path) -> None:
    model = TTSModel.load_model(config=VOICE_FOLDER / "config.yaml")
    assert model.language == "embedded"
    assert model.profile.max_tokens == 32
