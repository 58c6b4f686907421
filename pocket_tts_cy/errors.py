"""Exceptions of the package.

Each class also derives from the built-in exception that the PyTorch package raises in the same
place, so code that catches ``ValueError`` or ``OSError`` keeps working.
"""


class PocketTTSError(Exception):
    """Base class of every exception that this package defines."""


class ConfigError(PocketTTSError, ValueError):
    """A model configuration has an unknown, missing or senseless entry."""


class WeightsError(PocketTTSError, ValueError):
    """A weights file is damaged or does not fit its configuration."""


class VoiceError(PocketTTSError, ValueError):
    """A voice is unknown, damaged or does not fit the model."""


class TextError(PocketTTSError, ValueError):
    """A text has nothing that can be spoken."""


class AudioError(PocketTTSError, ValueError):
    """Audio cannot be read or has no usable sound."""


class DownloadError(PocketTTSError, OSError):
    """A file could not be fetched."""


class EngineBusyError(PocketTTSError, RuntimeError):
    """A stream is already in use by another thread."""
