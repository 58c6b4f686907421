"""Facts about the released models, against the figures of the PyTorch package 4.0.1."""

import re

import pytest

from pocket_tts_cy import languages
from pocket_tts_cy.config import CONFIG_DIR

RELEASED = {
    *(f"{name}{size}" for name in ("dutch", "french", "german") for size in ("", "_24l")),
    *(f"{name}{size}" for name in ("italian", "portuguese", "spanish") for size in ("", "_24l")),
    *(f"english_{size}{refl}_2026-10" for size in ("18m", "7m", "2m") for refl in ("", "_refl")),
    *(f"english_2026-{date}" for date in ("01", "04", "04_24l", "09", "09_2", "09_24l", "10")),
    "english",
    "english_drifting_26-09",
}


def test_the_27_released_languages_are_there():
    assert set(languages.released_languages()) == RELEASED
    assert len(RELEASED) == 6 * 2 + 6 + 7 + 2 == 27
    assert languages.DEFAULT_LANGUAGE in RELEASED


def test_catalogue_has_27_wellformed_voices():
    assert len(languages.VOICE_ORIGINS) == 27
    for name, origin in languages.VOICE_ORIGINS.items():
        assert re.fullmatch(r"[a-z_]+", name)
        assert re.fullmatch(
            r"hf://kyutai/[a-z-]+/[\w./-]+\.(wav|mp3|flac)(@[0-9a-f]{40})?", origin
        ), origin


@pytest.mark.parametrize(
    ("language", "voice"),
    [
        ("english", "alba"),
        ("english_2m_2026-10", "alba"),
        (None, "alba"),
        ("klingon", "alba"),
        ("german_24l", "juergen"),
        ("french", "estelle"),
        ("italian", "giovanni"),
        ("spanish_24l", "lola"),
        ("portuguese", "rafael"),
        ("dutch", "daan"),
        ("embedded", "heart"),
    ],
)
def test_default_voice(language, voice):
    assert languages.default_voice(language) == voice


def test_custom_model_gets_the_audio_behind_the_default_voice():
    assert languages.default_voice("german", custom_model=True) == languages.VOICE_ORIGINS["alba"]


def test_default_texts_follow_the_language_prefix():
    assert languages.default_text("german_24l").startswith("Hallo Welt.")
    assert languages.default_text(None) == languages.DEFAULT_TEXTS["english"]
    assert languages.default_text("klingon") == languages.DEFAULT_TEXTS["english"]
    assert languages.default_text("embedded") == languages.DEFAULT_TEXTS["embedded"]


def test_predefined_voice_state_reference():
    assert languages.predefined_voice_state("english", "alba") == (
        "hf://kyutai/pocket-tts-without-voice-cloning/languages/english/embeddings/"
        "alba.safetensors@a7056f505a4a8ca72d8b5fb1440071d6f1a35739"
    )
    with pytest.raises(KeyError, match="nobody"):
        languages.predefined_voice_state("english", "nobody")


def test_profiles():
    embedded = languages.model_profile("embedded")
    assert (embedded.max_tokens, embedded.normalize, embedded.default_voice) == (32, True, "heart")
    assert not embedded.predefined_voices
    for language in languages.released_languages():
        profile = languages.model_profile(language)
        assert (profile.max_tokens, profile.normalize) == (50, False)
        assert profile.predefined_voices
        assert profile.default_voice in languages.VOICE_ORIGINS
    custom = languages.model_profile(None, custom_model=True)
    assert (custom.max_tokens, custom.predefined_voices) == (50, False)
    assert (CONFIG_DIR / "english.yaml").is_file()
