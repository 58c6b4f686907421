"""Facts about the released models: languages, default texts and voices, the voice catalogue."""

from __future__ import annotations

from dataclasses import dataclass

from pocket_tts_cy.config import CONFIG_DIR

EMBEDDED_LANGUAGE = "embedded"
EMBEDDED_VOICE = "heart"
DEFAULT_LANGUAGE = "english"
DEFAULT_VOICE = "alba"

MAX_TOKENS_RELEASED = 50
# The embedded model was measured to skip sentences in longer chunks (its model card).
MAX_TOKENS_EMBEDDED = 32

# Where the audio behind each predefined voice is.
VOICE_ORIGINS = {
    "cosette": "hf://kyutai/tts-voices/expresso/ex04-ex02_confused_001_channel1_499s.wav",
    "marius": "hf://kyutai/tts-voices/voice-donations/Selfie.wav",
    "javert": "hf://kyutai/tts-voices/voice-donations/Butter.wav",
    "alba": "hf://kyutai/tts-voices/alba-mackenna/casual.wav",
    "jean": "hf://kyutai/tts-voices/ears/p010/freeform_speech_01_enhanced.wav",
    "anna": "hf://kyutai/tts-voices/vctk/p228_023_enhanced.wav",
    "vera": "hf://kyutai/tts-voices/vctk/p229_023_enhanced.wav",
    "fantine": "hf://kyutai/tts-voices/vctk/p244_023_enhanced.wav",
    "charles": "hf://kyutai/tts-voices/vctk/p254_023_enhanced.wav",
    "paul": "hf://kyutai/tts-voices/vctk/p259_023_enhanced.wav",
    "eponine": "hf://kyutai/tts-voices/vctk/p262_023_enhanced.wav",
    "azelma": "hf://kyutai/tts-voices/vctk/p303_023_enhanced.wav",
    "george": "hf://kyutai/tts-voices/vctk/p315_023_enhanced.wav",
    "mary": "hf://kyutai/tts-voices/vctk/p333_023_enhanced.wav",
    "jane": "hf://kyutai/tts-voices/vctk/p339_023_enhanced.wav",
    "michael": "hf://kyutai/tts-voices/vctk/p360_023_enhanced.wav",
    "eve": "hf://kyutai/tts-voices/vctk/p361_023_enhanced.wav",
    "bill_boerst": "hf://kyutai/tts-voices/voice-zero/bill_boerst.wav",
    "peter_yearsley": "hf://kyutai/tts-voices/voice-zero/peter_yearsley.wav",
    "stuart_bell": "hf://kyutai/tts-voices/voice-zero/stuart_bell.wav",
    "caro_davy": "hf://kyutai/tts-voices/voice-zero/caro_davy.wav",
    "giovanni": "hf://kyutai/pocket-tts/common_voice_it_36520747-enhanced-v2.mp3"
    "@64ab7d24c479d736a83b8cc666c4a776fca30fda",
    "lola": "hf://kyutai/pocket-tts/common_voice_es_19762977-enhanced-v2.mp3"
    "@64ab7d24c479d736a83b8cc666c4a776fca30fda",
    "juergen": "hf://kyutai/pocket-tts/de-DE-juergen.mp3@64ab7d24c479d736a83b8cc666c4a776fca30fda",
    "rafael": "hf://kyutai/pocket-tts/g-Vi8PgmSY0-enhanced-v2.wav"
    "@64ab7d24c479d736a83b8cc666c4a776fca30fda",
    "daan": "hf://kyutai/pocket-tts/cml_tts_nl_11290_9412_000030_0001.flac"
    "@2dd944b099d06bb9edbd221fef138685711d9bf0",
    "estelle": "hf://kyutai/tts-voices/unmute-prod-website/developpeuse-3.wav"
    "@1fc7395b7e012e2bbebfca14b942a4ef62ccc899",
}

_VOICE_STATE_REPOSITORY = "hf://kyutai/pocket-tts-without-voice-cloning/languages"
_VOICE_STATE_REVISION = "a7056f505a4a8ca72d8b5fb1440071d6f1a35739"

# The key is looked for inside the language name: "german_24l" takes the entry of "german".
DEFAULT_VOICES = {
    "italian": "giovanni",
    "spanish": "lola",
    "german": "juergen",
    "portuguese": "rafael",
    "french": "estelle",
    "dutch": "daan",
}

DEFAULT_TEXTS = {
    "english": (
        "Hello world. I am Kyutai's Pocket TTS. "
        "I'm fast enough to run on small CPUs. "
        "I hope you'll like me."
    ),
    "french": (
        "Bonjour le monde. Je suis le TTS de poche de Kyutai. "
        "Je suis assez rapide pour fonctionner sur de petits CPU. "
        "J'espère que vous m'aimerez."
    ),
    "german": (
        "Hallo Welt. Ich bin Pocket TTS von Kyutai. "
        "Ich bin schnell genug, um auch auf kleinen CPUs zu laufen. "
        "Ich hoffe, ich gefalle dir."
    ),
    "portuguese": (
        "Olá mundo. Eu sou o Pocket TTS da Kyutai. "
        "Sou rápido o suficiente para rodar em CPUs pequenas. "
        "Espero que você goste de mim."
    ),
    "italian": (
        "Ciao mondo. Sono il Pocket TTS di Kyutai. "
        "Sono abbastanza veloce da funzionare su piccole CPU. "
        "Spero che ti piacerò."
    ),
    "dutch": (
        "Hallo wereld. Ik ben Pocket TTS van Kyutai. "
        "Ik ben snel genoeg om op kleine CPU's te draaien. "
        "Ik hoop dat je me leuk vindt."
    ),
    "spanish": (
        "Hola mundo. Soy el Pocket TTS de Kyutai. "
        "Soy lo suficientemente rápido para funcionar en pequeñas CPU. "
        "Espero que te guste."
    ),
    "embedded": "Hello world. I am a small voice that lives inside this package.",
}


@dataclass(frozen=True)
class Profile:
    """How a model wants to be used.

    Attributes
    ----------
    max_tokens : int
        Largest number of tokens in one chunk of text.
    normalize : bool
        Whether numbers, symbols and abbreviations are spelled out first.
    default_voice : str
        Name of the voice to use when none is chosen.
    default_text : str
        A text to speak when none is given.
    predefined_voices : bool
        Whether the 27 predefined voices exist for this model.
    """

    max_tokens: int
    normalize: bool
    default_voice: str
    default_text: str
    predefined_voices: bool


def released_languages() -> list[str]:
    """Names of the released models (the YAML files of the package), sorted."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml"))


def default_text(language: str | None) -> str:
    """The demonstration text of a language; English for an unknown one or None."""
    for key, text in DEFAULT_TEXTS.items():
        if language is not None and key in language:
            return text
    return DEFAULT_TEXTS[DEFAULT_LANGUAGE]


def default_voice(language: str | None, custom_model: bool = False) -> str:
    """The voice to use when none is chosen.

    Parameters
    ----------
    language : str or None
        Name of a released language or "embedded".
    custom_model : bool
        True for a model given by its own configuration. Predefined voice states belong to released
        weights, so such a model gets the audio file behind the default voice instead.

    Returns
    -------
    str
        The name of a voice, or the ``hf://`` reference of an audio file.
    """
    if custom_model:
        return VOICE_ORIGINS[DEFAULT_VOICE]
    if language == EMBEDDED_LANGUAGE:
        return EMBEDDED_VOICE
    for key, voice in DEFAULT_VOICES.items():
        if language is not None and key in language:
            return voice
    return DEFAULT_VOICE


def predefined_voice_state(language: str, name: str) -> str:
    """The ``hf://`` reference of the state of a predefined voice for a released language.

    Raises
    ------
    KeyError
        ``name`` is not in the catalogue :data:`VOICE_ORIGINS`.
    """
    if name not in VOICE_ORIGINS:
        raise KeyError(name)
    path = f"{language}/embeddings/{name}.safetensors"
    return f"{_VOICE_STATE_REPOSITORY}/{path}@{_VOICE_STATE_REVISION}"


def model_profile(language: str | None, custom_model: bool = False) -> Profile:
    """How the model of a language wants to be used.

    Parameters
    ----------
    language : str or None
        Name of a released language, "embedded", or None.
    custom_model : bool
        True for a model given by its own configuration.

    Returns
    -------
    Profile
        The embedded model has its own limits; every other one has those of the released models.
    """
    embedded = language == EMBEDDED_LANGUAGE and not custom_model
    return Profile(
        max_tokens=MAX_TOKENS_EMBEDDED if embedded else MAX_TOKENS_RELEASED,
        normalize=embedded,
        default_voice=default_voice(language, custom_model),
        default_text=default_text(language),
        predefined_voices=not embedded and not custom_model,
    )
