"""Pocket TTS inference on the CPU: text to speech through a compiled engine.

Importing the package costs nothing: each name is loaded when it is first used.

>>> from pocket_tts_cy import TTSModel
>>> model = TTSModel.load_model(language="embedded")
>>> voice = model.get_state_for_audio_prompt("heart")
>>> audio = model.generate_audio(voice, "Hello world.")
"""

from __future__ import annotations

from ._version import __version__

# True for type checkers, which know the name. Importing typing would take longer than all the rest.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from .errors import (
        AudioError,
        ConfigError,
        DownloadError,
        EngineBusyError,
        PocketTTSError,
        TextError,
        VoiceError,
        WeightsError,
    )
    from .model import TTSModel
    from .voices import export_model_state

__all__ = [
    "AudioError",
    "ConfigError",
    "DownloadError",
    "EngineBusyError",
    "PocketTTSError",
    "TTSModel",
    "TextError",
    "VoiceError",
    "WeightsError",
    "__version__",
    "export_model_state",
]

_HOMES = {"TTSModel": "model", "export_model_state": "voices"}


def __getattr__(name: str) -> object:
    """Load an exported name on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
