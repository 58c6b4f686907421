"""Access to the goldens: what the PyTorch reference computed for the models in ``data/models``.

``scripts/make_goldens.py`` writes them and shares the functions of this module that need NumPy
only. A golden model is a folder with ``config.yaml`` and weights, ``goldens.json`` (texts, token
ids, frame counts) and ``goldens.npz`` (arrays).
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

MODELS = Path(__file__).parent / "data" / "models"
EMBEDDED = Path(__file__).parent.parent / "pocket_tts_cy" / "voice"


def reference_audio(seed: int, n_samples: int) -> np.ndarray:
    """Return a voice-like test signal at 24 kHz: a gliding buzz in noise, with soft ends.

    Parameters
    ----------
    seed : int
        Seed of the noise.
    n_samples : int
        Length in samples.

    Returns
    -------
    ndarray of float32, shape (n_samples,)
        Peak below 0.5.
    """
    time = np.arange(n_samples) / 24000
    noise = np.random.RandomState(seed).standard_normal(n_samples)
    phase = 2 * np.pi * (130 * time + 20 * np.sin(3 * time))
    buzz = sum(np.sin(k * phase) / k for k in range(1, 12))
    envelope = np.sin(np.pi * time / time[-1]) ** 0.5
    return (envelope * (0.1 * buzz + 0.02 * noise)).astype(np.float32)


def encode_audio(audio: np.ndarray) -> tuple[np.ndarray, float]:
    """Round audio to int16 relative to its peak; return the integers and the value of one."""
    scale = float(np.abs(audio).max()) / 32767
    return np.round(audio / scale).astype(np.int16), scale


def relative_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return max |actual - expected| / max |expected|; infinite when shapes differ or on NaN."""
    actual = np.asarray(actual, dtype=np.float64)
    expected = np.asarray(expected, dtype=np.float64)
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return float("inf")
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@dataclasses.dataclass(frozen=True)
class Golden:
    """One golden model.

    Attributes
    ----------
    name : str
        Folder name; ``"embedded"`` is the model shipped with the package.
    facts : dict
        Content of ``goldens.json``.
    arrays : dict of str to ndarray
        Content of ``goldens.npz``.
    """

    name: str
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def folder(self) -> Path:
        """Folder of the configuration and the weights."""
        return EMBEDDED if self.name == "embedded" else MODELS / self.name

    @property
    def config_path(self) -> Path:
        """Path of the YAML configuration."""
        return self.folder / "config.yaml"

    @property
    def config(self) -> dict[str, Any]:
        """The YAML configuration as it is written."""
        return yaml.safe_load(self.config_path.read_text(encoding="utf-8"))

    @property
    def voice_path(self) -> Path:
        """Path of the voice state that the reference used."""
        if self.name == "embedded":
            return self.folder / "voices" / "heart.safetensors"
        return self.folder / "voice.safetensors"

    def audio(self, run: str) -> np.ndarray | None:
        """Return the waveform of a run, float32, or None when only its length was kept."""
        samples = self.arrays.get(f"run_{run}")
        if samples is None:
            return None
        return samples.astype(np.float32) * np.float32(self.facts["runs"][run]["scale"])


def golden_names() -> list[str]:
    """Return the names of all golden models."""
    return sorted(path.parent.name for path in MODELS.glob("*/goldens.json"))


@functools.cache
def load_golden(name: str) -> Golden:
    """Read the goldens of one model."""
    folder = MODELS / name
    facts = json.loads((folder / "goldens.json").read_text(encoding="utf-8"))
    with np.load(folder / "goldens.npz", allow_pickle=False) as arrays:
        return Golden(name, facts, {key: arrays[key] for key in arrays.files})
