"""Voice states: the keys and values that a voice prompt leaves in the FlowLM's attention.

Files interchange with the PyTorch package in both directions. A file holds, for each layer,
``transformer.layers.N.self_attn/cache``, ``.../offset`` and usually ``.../pad``. Older files have
``current_end`` instead of ``offset``: an array whose length is the offset. The oldest files hold
the prompt's embeddings (``audio_prompt``), which still have to be run through the FlowLM.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from .config import Config
from .errors import VoiceError
from .safetensors_reader import Tensor, read_safetensors
from .safetensors_writer import write_safetensors

ModelState = dict[str, dict[str, np.ndarray]]

#: Longest voice that is accepted, in positions (more than two hours of audio).
MAX_POSITIONS = 100_000

_LAYER_NAME = re.compile(r"transformer\.layers\.(0|[1-9][0-9]{0,3})\.self_attn", re.ASCII)
_PROMPT_NAME = "audio_prompt"
_FLOAT_TYPES = ("F32", "F16", "BF16")
_INTEGER_TYPES = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8")


@dataclass(frozen=True)
class AudioPrompt:
    """A voice of the oldest file kind.

    Attributes
    ----------
    embeddings : numpy.ndarray
        float32 ``[T, d_model]``: rows to run through the FlowLM to get a state.
    """

    embeddings: np.ndarray


def is_voice_state_source(source: str | os.PathLike[str]) -> bool:
    """Whether a path, URL or ``hf://`` name means a voice state rather than audio.

    Parameters
    ----------
    source : str or os.PathLike
        Name as a user gives it; a query of a URL and a revision of ``hf://`` do not count.

    Returns
    -------
    bool
        True when the name ends in ``.safetensors``.
    """
    text = os.fspath(source)
    if text.startswith(("http://", "https://")):
        text = urlsplit(text).path
    elif text.startswith("hf://"):
        text = text.rpartition("@")[0] or text
    return text.endswith(".safetensors")


def layer_name(index: int) -> str:
    """Name of a layer's entry in a model state."""
    return f"transformer.layers.{index}.self_attn"


def read_voice_state(path: str | os.PathLike[str], config: Config) -> ModelState | AudioPrompt:
    """Read a voice file and check that it fits a model.

    Parameters
    ----------
    path : str or os.PathLike
        A ``.safetensors`` voice.
    config : Config
        The model that shall speak with the voice.

    Returns
    -------
    dict or AudioPrompt
        The state (caches are views of the memory map when the file has them in float32), or the
        embeddings of a file of the oldest kind.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    VoiceError
        The file is damaged, is no voice, or was made for another model.
    """
    path = Path(path)
    tensors = read_safetensors(path, VoiceError)
    if set(tensors) == {_PROMPT_NAME}:
        return AudioPrompt(_prompt_embeddings(path, tensors[_PROMPT_NAME], config))

    state: ModelState = {}
    for key, tensor in tensors.items():
        name, slash, part = key.partition("/")
        if not slash or not _LAYER_NAME.fullmatch(name):
            raise VoiceError(
                f"{path}: {_shown(key)} is not part of a voice; expected "
                f"{layer_name(0)}/cache and the like"
            )
        entry = state.setdefault(name, {})
        kind, value = _read_part(path, key, part, tensor)
        if kind in entry:
            raise VoiceError(f"{path}: {name} has both offset and current_end")
        entry[kind] = value
    for entry in state.values():
        entry.setdefault("pad", np.zeros(1, np.int64))
    try:
        check_model_state(state, config)
    except VoiceError as error:
        raise VoiceError(f"{path}: {error}") from None
    return {layer_name(index): state[layer_name(index)] for index in range(len(state))}


def _read_part(path: Path, key: str, part: str, tensor: Tensor) -> tuple[str, np.ndarray]:
    """One array of a layer's state, with its present name."""
    if part == "current_end":
        if len(tensor.shape) == 0:
            raise VoiceError(f"{path}: {_shown(key)} should be an array, its length the offset")
        return "offset", np.array([tensor.shape[0]], np.int64)
    if part in ("offset", "pad"):
        if tensor.dtype not in _INTEGER_TYPES or tensor.data.size != 1:
            raise VoiceError(
                f"{path}: {_shown(key)} should be one integer, found {tensor.dtype} of shape "
                f"{list(tensor.shape)}"
            )
        # A value beyond int64 cannot be right; the clipped one is refused by the checks.
        value = min(int(tensor.data.reshape(-1)[0]), np.iinfo(np.int64).max)
        return part, np.array([value], np.int64)
    if part == "cache":
        if tensor.dtype not in _FLOAT_TYPES:
            raise VoiceError(
                f"{path}: {_shown(key)} has type {tensor.dtype}, expected F32, F16 or BF16"
            )
        return "cache", tensor.data if tensor.dtype == "F32" else tensor.as_float32()
    raise VoiceError(
        f"{path}: {_shown(key)} is not part of a voice; expected cache, offset and pad"
    )


def _prompt_embeddings(path: Path, tensor: Tensor, config: Config) -> np.ndarray:
    d_model = config.flow_lm.transformer.d_model
    shape = tensor.shape
    if tensor.dtype not in _FLOAT_TYPES:
        raise VoiceError(f"{path}: {_PROMPT_NAME} has type {tensor.dtype}, expected F32")
    if len(shape) != 3 or shape[0] != 1 or not 1 <= shape[1] <= MAX_POSITIONS:
        raise VoiceError(
            f"{path}: {_PROMPT_NAME} has shape {list(shape)}, expected [1, T, {d_model}] with T "
            f"from 1 to {MAX_POSITIONS}"
        )
    if shape[2] != d_model:
        raise VoiceError(
            f"{path}: the voice was made for another model: {_PROMPT_NAME} has rows of "
            f"{shape[2]} values, this model needs {d_model}"
        )
    embeddings = tensor.data[0] if tensor.dtype == "F32" else tensor.as_float32()[0]
    if not np.isfinite(embeddings).all():
        raise VoiceError(f"{path}: {_PROMPT_NAME} has values that are not finite")
    return embeddings


def check_model_state(
    model_state: Mapping[str, Mapping[str, np.ndarray]], config: Config, values: bool = True
) -> None:
    """Check that a state has the layers and shapes of a model.

    Parameters
    ----------
    model_state : mapping
        The state, from a file or from a caller. A cache may have rows behind the offset, of any
        content, and need not be contiguous.
    config : Config
        The model that shall use it.
    values : bool, default True
        Also check that all used cache rows are finite (reads them once).

    Raises
    ------
    VoiceError
        The state is not one of this model; the message names the entry.
    """
    transformer = config.flow_lm.transformer
    expected = [layer_name(index) for index in range(transformer.num_layers)]
    if not isinstance(model_state, Mapping) or set(model_state) != set(expected):
        raise VoiceError(_layer_mismatch(model_state, transformer.num_layers))

    length: int | None = None
    for name in expected:
        entry = model_state[name]
        offset = _checked_offset(name, entry)
        if length is None:
            length = offset
        elif offset != length:
            raise VoiceError(
                f"{name}/offset is {offset} but {expected[0]}/offset is {length}; they should be "
                "equal"
            )
        cache = entry["cache"]
        heads, head_dim = transformer.kv_heads, transformer.head_dim
        wanted = f"[2, 1, T, {heads}, {head_dim}]"
        if cache.ndim != 5 or cache.shape[:2] != (2, 1):
            raise VoiceError(f"{name}/cache has shape {list(cache.shape)}, expected {wanted}")
        if cache.shape[3:] != (heads, head_dim):
            raise VoiceError(
                f"the voice was made for another model: {name}/cache has shape "
                f"{list(cache.shape)}, this model needs {wanted}"
            )
        if cache.shape[2] < offset:
            raise VoiceError(
                f"{name}/offset is {offset} but {name}/cache has {cache.shape[2]} rows"
            )
        if values and not np.isfinite(cache[:, :, :offset]).all():
            raise VoiceError(
                f"{name}/cache has values that are not finite among its first {offset} rows"
            )


def _layer_mismatch(model_state: object, num_layers: int) -> str:
    if not isinstance(model_state, Mapping) or not model_state:
        return f"not a voice state: expected a mapping with {num_layers} layers"
    for name in model_state:
        if not isinstance(name, str) or not _LAYER_NAME.fullmatch(name):
            return f"{_shown(name)} is not part of a voice; expected {layer_name(0)} and the like"
    if len(model_state) != num_layers:
        return (
            f"the voice was made for another model: it has {len(model_state)} layers, this model "
            f"has {num_layers}"
        )
    missing = next(i for i in range(num_layers) if layer_name(i) not in model_state)
    return f"{layer_name(missing)} is missing from the voice"


def _checked_offset(name: str, entry: object) -> int:
    """Offset of a layer's state whose arrays have the right types."""
    if not isinstance(entry, Mapping):
        raise VoiceError(f"{name} should be a mapping with cache and offset")
    for part in ("cache", "offset"):
        if part not in entry:
            raise VoiceError(f"{name}/{part} is missing from the voice")
        if not isinstance(entry[part], np.ndarray):
            raise VoiceError(
                f"{name}/{part} should be a NumPy array, found {type(entry[part]).__name__}"
            )
    if entry["cache"].dtype != np.float32:
        raise VoiceError(f"{name}/cache has type {entry['cache'].dtype}, expected float32")
    offset = _single_integer(name + "/offset", entry["offset"])
    if not 0 <= offset <= MAX_POSITIONS:
        raise VoiceError(f"{name}/offset is {offset}, expected 0 to {MAX_POSITIONS}")
    if "pad" in entry and _single_integer(name + "/pad", entry["pad"]) != 0:
        raise VoiceError(f"{name}/pad should be 0: states of a batch are not supported")
    return offset


def _single_integer(name: str, array: object) -> int:
    if not isinstance(array, np.ndarray) or array.size != 1 or array.dtype.kind not in "iu":
        raise VoiceError(f"{name} should be one integer")
    return int(array.reshape(-1)[0])


def state_length(model_state: Mapping[str, Mapping[str, np.ndarray]]) -> int:
    """Number of used positions of a state.

    Parameters
    ----------
    model_state : mapping
        A state that :func:`check_model_state` accepts.

    Returns
    -------
    int
        The offset, which all layers share.
    """
    return _single_integer("offset", next(iter(model_state.values()))["offset"])


def export_model_state(
    model_state: Mapping[str, Mapping[str, np.ndarray]], dest: str | os.PathLike[str]
) -> None:
    """Write a state to a voice file, which this package and the PyTorch one read.

    Only the used cache rows are written. The file appears under its name when it is complete.

    Parameters
    ----------
    model_state : mapping
        A state from ``get_state_for_audio_prompt``.
    dest : str or os.PathLike
        The file to write or replace.

    Raises
    ------
    VoiceError
        `model_state` is not a state.
    OSError
        The file cannot be written.
    """
    if not isinstance(model_state, Mapping) or not model_state:
        raise VoiceError("not a voice state: expected a mapping with a model's layers")
    tensors: dict[str, Tensor] = {}
    for name, entry in model_state.items():
        if not isinstance(name, str) or not _LAYER_NAME.fullmatch(name):
            raise VoiceError(
                f"{_shown(name)} is not part of a voice; expected {layer_name(0)} and the like"
            )
        offset = _checked_offset(name, entry)
        cache = entry["cache"]
        if cache.ndim != 5 or cache.shape[2] < offset:
            raise VoiceError(
                f"{name}/cache has shape {list(cache.shape)}, expected [2, 1, T, heads, width] "
                f"with at least {offset} rows"
            )
        used = cache[:, :, :offset]
        tensors[f"{name}/cache"] = Tensor("F32", used.shape, used)
        tensors[f"{name}/offset"] = Tensor("I64", (1,), np.array([offset], np.int64))
        tensors[f"{name}/pad"] = Tensor("I64", (1,), np.zeros(1, np.int64))
    layout = {key: (tensor.dtype, tensor.shape) for key, tensor in tensors.items()}
    write_safetensors(dest, layout, tensors.__getitem__)


def _shown(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 120 else text[:120] + "..."
