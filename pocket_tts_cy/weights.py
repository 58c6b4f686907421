"""Weights of a model: which tensors a configuration needs, and reading them from its files.

Tensors are named as in the released bundles: ``flow_lm.*`` and ``mimi.*``. Loading is strict: a
file must hold exactly the tensors of :func:`expected_shapes`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .config import (
    Config,
    FlowConfig,
    FlowLMConfig,
    MimiTransformerConfig,
    SEANetConfig,
)
from .errors import ConfigError, DownloadError, WeightsError
from .safetensors_reader import Tensor, read_safetensors

__all__ = ["LoadedWeights", "Tensor", "expected_shapes", "load_weights", "read_safetensors"]

Shape = tuple[int, ...]

#: Width of the cosine-sine vector that a time embedder starts from.
TIME_FREQUENCIES = 256

_FLOAT_TYPES = ("F32", "F16", "BF16")
_PROBLEMS_SHOWN = 5


@dataclass(frozen=True)
class LoadedWeights:
    """Checked weights of one model.

    Attributes
    ----------
    tensors : dict of str to Tensor
        Exactly the tensors of :func:`expected_shapes`.
    has_voice_cloning : bool
        False when the file without the voice-cloning weights had to be used.
    dtype : str
        "BF16" or "F16" when all matrices of the FlowLM's transformer are stored so, else "F32".
    files : list of Path
        The files that were read.
    """

    tensors: dict[str, Tensor]
    has_voice_cloning: bool
    dtype: str
    files: list[Path]


# ------------------------------------------------------------------------------------------------
# Names and shapes


def expected_shapes(config: Config) -> dict[str, Shape]:
    """Names and shapes of all tensors that a model of this configuration has.

    Parameters
    ----------
    config : Config
        The model's configuration.

    Returns
    -------
    dict of str to tuple of int
        Shape by tensor name (``flow_lm.*`` and ``mimi.*``), encoder included.
    """
    mimi = config.mimi
    flow_lm_shapes = _flow_lm_shapes(config.flow_lm, mimi.latent_dim, mimi.inner_width)
    return {**_prefixed("flow_lm.", flow_lm_shapes), **_prefixed("mimi.", _mimi_shapes(config))}


def _prefixed(prefix: str, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    return {prefix + name: shape for name, shape in shapes.items()}


def _linear(out_features: int, in_features: int) -> dict[str, Shape]:
    """Linear layer or convolution of kernel 1 with a bias."""
    return {"weight": (out_features, in_features), "bias": (out_features,)}


def _norm(width: int) -> dict[str, Shape]:
    return {"weight": (width,), "bias": (width,)}


def _flow_lm_shapes(config: FlowLMConfig, latent_dim: int, voice_dim: int) -> dict[str, Shape]:
    d_model = config.transformer.d_model
    table = config.lookup_table

    # One row more than the vocabulary, for padding.
    shapes: dict[str, Shape] = {
        "conditioner.embed.weight": (table.n_bins + 1, table.rank or table.dim)
    }
    if table.rank is not None:
        shapes["conditioner.proj.weight"] = (table.dim, table.rank)
    shapes["bos_emb"] = (latent_dim,)
    if config.insert_bos_before_voice:
        shapes["bos_before_voice"] = (1, 1, d_model)
    shapes["emb_mean"] = (latent_dim,)
    shapes["emb_std"] = (latent_dim,)
    shapes["input_linear.weight"] = (d_model, latent_dim)
    shapes["speaker_proj_weight"] = (d_model, voice_dim)
    shapes.update(_prefixed("out_norm.", _norm(d_model)))
    if config.z_dim is not None:
        shapes["z_proj.weight"] = (config.z_dim, d_model)
    shapes.update(_prefixed("out_eos.", _linear(1, config.z_width)))

    transformer = config.transformer
    layer = _transformer_layer_shapes(
        d_model,
        q_dim=transformer.q_dim,
        kv_dim=transformer.kv_dim,
        ff_dim=transformer.ff_dim,
        layer_scale=False,
    )
    for index in range(transformer.num_layers):
        shapes.update(_prefixed(f"transformer.layers.{index}.", layer))

    head = _flow_net_shapes(config.flow, latent_dim, config.z_width)
    shapes.update(_prefixed("flow_net.", head))
    return shapes


def _transformer_layer_shapes(
    d_model: int, *, q_dim: int, kv_dim: int, ff_dim: int, layer_scale: bool
) -> dict[str, Shape]:
    shapes = {
        **_prefixed("norm1.", _norm(d_model)),
        **_prefixed("norm2.", _norm(d_model)),
        "self_attn.in_proj.weight": (q_dim + 2 * kv_dim, d_model),
        "self_attn.out_proj.weight": (d_model, q_dim),
        "linear1.weight": (ff_dim, d_model),
        "linear2.weight": (d_model, ff_dim),
    }
    if layer_scale:
        shapes["layer_scale_1.scale"] = (d_model,)
        shapes["layer_scale_2.scale"] = (d_model,)
    return shapes


def _flow_net_shapes(config: FlowConfig, latent_dim: int, z_dim: int) -> dict[str, Shape]:
    width = config.dim
    shapes: dict[str, Shape] = {}
    for index in range(config.n_times):
        embedder = {
            "freqs": (TIME_FREQUENCIES // 2,),
            **_prefixed("mlp.0.", _linear(width, TIME_FREQUENCIES)),
            **_prefixed("mlp.2.", _linear(width, width)),
            "mlp.3.alpha": (width,),
        }
        shapes.update(_prefixed(f"time_embed.{index}.", embedder))
    shapes.update(_prefixed("cond_embed.", _linear(width, z_dim)))
    shapes.update(_prefixed("input_proj.", _linear(width, latent_dim)))
    block = {
        **_prefixed("in_ln.", _norm(width)),
        **_prefixed("mlp.0.", _linear(width, width)),
        **_prefixed("mlp.2.", _linear(width, width)),
        # shift, scale and gate
        **_prefixed("adaLN_modulation.1.", _linear(3 * width, width)),
    }
    for index in range(config.depth):
        shapes.update(_prefixed(f"res_blocks.{index}.", block))
    # shift and scale
    shapes.update(_prefixed("final_layer.adaLN_modulation.1.", _linear(2 * width, width)))
    shapes.update(_prefixed("final_layer.linear.", _linear(latent_dim, width)))
    return shapes


def _mimi_shapes(config: Config) -> dict[str, Shape]:
    mimi = config.mimi
    kernel = 2 * mimi.upsample_stride
    return {
        **_prefixed("encoder.model.", _seanet_encoder_shapes(mimi.seanet)),
        **_prefixed("encoder_transformer.", _mimi_transformer_shapes(mimi.transformer)),
        "downsample.conv.conv.weight": (mimi.inner_width, mimi.seanet.dimension, kernel),
        "quantizer.output_proj.weight": (
            mimi.quantizer.output_dimension,
            mimi.quantizer.dimension,
            1,
        ),
        # Depthwise transposed convolution: one group per channel.
        "upsample.convtr.convtr.weight": (mimi.outer_width, 1, kernel),
        **_prefixed("decoder_transformer.", _mimi_transformer_shapes(config.decoder_transformer)),
        **_prefixed("decoder.model.", _seanet_decoder_shapes(config.decoder_seanet)),
    }


def _mimi_transformer_shapes(config: MimiTransformerConfig) -> dict[str, Shape]:
    d_model = config.d_model
    layer = _transformer_layer_shapes(
        d_model, q_dim=d_model, kv_dim=d_model, ff_dim=config.dim_feedforward, layer_scale=True
    )
    shapes: dict[str, Shape] = {}
    for index in range(config.num_layers):
        shapes.update(_prefixed(f"transformer.layers.{index}.", layer))
    if config.input_dimension != d_model:
        shapes["input_proj.weight"] = (d_model, config.input_dimension)
    for index, width in enumerate(config.output_dimensions):
        if width != d_model:
            shapes[f"output_projs.{index}.weight"] = (width, d_model)
    return shapes


def _conv(out_channels: int, in_channels: int, kernel: int) -> dict[str, Shape]:
    return {"conv.weight": (out_channels, in_channels, kernel), "conv.bias": (out_channels,)}


def _residual_block_shapes(config: SEANetConfig, channels: int) -> dict[str, Shape]:
    # Positions 0 and 2 are activations.
    hidden = channels // config.compress
    return {
        **_prefixed("block.1.", _conv(hidden, channels, config.residual_kernel_size)),
        **_prefixed("block.3.", _conv(channels, hidden, 1)),
    }


def _seanet_encoder_shapes(config: SEANetConfig) -> dict[str, Shape]:
    """Shapes by position in the module list; activations take a position of their own."""
    channels = config.n_filters
    shapes = _prefixed("0.", _conv(channels, config.channels, config.kernel_size))
    position = 1
    for ratio in reversed(config.ratios):
        for _ in range(config.n_residual_layers):
            shapes.update(_prefixed(f"{position}.", _residual_block_shapes(config, channels)))
            position += 1
        shapes.update(_prefixed(f"{position + 1}.", _conv(2 * channels, channels, 2 * ratio)))
        position += 2
        channels *= 2
    last = _conv(config.dimension, channels, config.last_kernel_size)
    shapes.update(_prefixed(f"{position + 1}.", last))
    return shapes


def _seanet_decoder_shapes(config: SEANetConfig) -> dict[str, Shape]:
    """Shapes by position in the module list; activations take a position of their own."""
    channels = config.n_filters * 2 ** len(config.ratios)
    shapes = _prefixed("0.", _conv(channels, config.dimension, config.kernel_size))
    position = 1
    for ratio in config.ratios:
        half = channels // 2
        shapes[f"{position + 1}.convtr.weight"] = (channels, half, 2 * ratio)
        shapes[f"{position + 1}.convtr.bias"] = (half,)
        position += 2
        for _ in range(config.n_residual_layers):
            shapes.update(_prefixed(f"{position}.", _residual_block_shapes(config, half)))
            position += 1
        channels = half
    last = _conv(config.channels, config.n_filters, config.last_kernel_size)
    shapes.update(_prefixed(f"{position + 1}.", last))
    return shapes


# ------------------------------------------------------------------------------------------------
# Files


def load_weights(config: Config, base: Path | None = None) -> LoadedWeights:
    """Read and check the weights that a configuration names.

    A bundle (``weights_path``) holds everything. ``mimi.weights_path`` replaces the bundle's
    Mimi. Without a bundle, ``flow_lm.weights_path`` and ``mimi.weights_path`` are read, in the
    bundle's names or in those of the training code. A bundle that cannot be had is replaced by
    ``weights_path_without_voice_cloning``.

    Parameters
    ----------
    config : Config
        The model's configuration.
    base : Path, optional
        Folder of the configuration file; relative names that do not exist in the working
        directory are looked for there.

    Returns
    -------
    LoadedWeights
        Tensors as views of the mapped files.

    Raises
    ------
    ConfigError
        The configuration names no weights, or only one half of them.
    WeightsError
        A file is damaged, or a tensor is missing, unexpected or of another shape.
    FileNotFoundError, DownloadError
        A file cannot be had.
    """
    flow_ref, mimi_ref = config.flow_lm.weights_path, config.mimi.weights_path
    bundle_ref = config.weights_path
    if flow_ref is not None and mimi_ref is None:
        raise ConfigError("flow_lm.weights_path is set, so mimi.weights_path has to be set too")

    files: list[Path] = []
    has_voice_cloning = True
    if bundle_ref is not None:
        path, has_voice_cloning = _resolve_bundle(config, base)
        tensors = read_safetensors(path)
        if mimi_ref is not None:
            tensors = {k: v for k, v in tensors.items() if not k.startswith("mimi.")}
    elif flow_ref is not None:
        path = _resolve(flow_ref, base)
        tensors = read_flow_lm(path)
    else:
        raise ConfigError(
            "the configuration names no weights: set weights_path, or flow_lm.weights_path and "
            "mimi.weights_path"
        )
    files.append(path)
    if mimi_ref is not None:
        path = _resolve(mimi_ref, base)
        tensors.update(read_mimi(path))
        files.append(path)

    check_tensors(tensors, expected_shapes(config), files)
    return LoadedWeights(tensors, has_voice_cloning, _storage_type(tensors), files)


def check_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Shape], files: Iterable[Path]
) -> None:
    """Compare names, shapes and types of tensors with what a model needs.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        What was read.
    expected : mapping of str to tuple of int
        What is needed, from :func:`expected_shapes`.
    files : iterable of Path
        Where the tensors came from, for the message.

    Raises
    ------
    WeightsError
        Something is missing, unexpected, of another shape or not of a float type. The message
        has the first few problems with expected and found shape.
    """
    problems = []
    for name, shape in expected.items():
        found = tensors.get(name)
        if found is None:
            problems.append(f"{name} is missing (expected {list(shape)})")
        elif found.shape != shape:
            problems.append(f"{name} has shape {list(found.shape)}, expected {list(shape)}")
        elif found.dtype not in _FLOAT_TYPES:
            problems.append(f"{name} has type {found.dtype}, expected F32, F16 or BF16")
    for name, found in tensors.items():
        if name not in expected:
            shown = name if name.isprintable() and len(name) <= 120 else ascii(name[:120])
            problems.append(f"{shown} {list(found.shape)} is not part of this model")
    if problems:
        more = len(problems) - _PROBLEMS_SHOWN
        listed = "; ".join(problems[:_PROBLEMS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        names = ", ".join(str(path) for path in files)
        raise WeightsError(f"{names}: weights do not fit the configuration: {listed}")


def _resolve(ref: str, base: Path | None) -> Path:
    from .download import resolve_path

    return resolve_path(ref, base)


def _resolve_bundle(config: Config, base: Path | None) -> tuple[Path, bool]:
    """Path of the bundle, and whether it is the one with voice cloning."""
    assert config.weights_path is not None
    fallback = config.weights_path_without_voice_cloning
    if fallback is None:
        return _resolve(config.weights_path, base), True
    try:
        return _resolve(config.weights_path, base), True
    except (DownloadError, FileNotFoundError):
        # The usual reason: the weights with voice cloning are behind a licence to be accepted.
        return _resolve(fallback, base), False


def _storage_type(tensors: Mapping[str, Tensor]) -> str:
    found = {
        tensor.dtype
        for name, tensor in tensors.items()
        if name.startswith("flow_lm.transformer.layers.") and len(tensor.shape) == 2
    }
    return found.pop() if len(found) == 1 else "F32"


# Tensors of the training code that inference does not use.
_FLOW_LM_UNUSED = re.compile(
    r"flow\.w_s_t\..*|num_ema_updates"
    r"|condition_provider\.conditioners\.(transcript_in_segment|speaker_wavs)\.learnt_padding"
)
_FLOW_LM_RENAMED = {
    "condition_provider.conditioners.transcript_in_segment.embed.weight": (
        "conditioner.embed.weight"
    ),
    "condition_provider.conditioners.speaker_wavs.output_proj.weight": "speaker_proj_weight",
    "fuser.padding_value": "bos_before_voice",
}
_MIMI_UNUSED = re.compile(
    r"model\.quantizer\.vq\..*|(model\.)?quantizer\.logvar_(proj\.weight|param)|.*_codebook.*"
    r"|.*wavlm_emb_downsample.*|wavlm_input_resample\.kernel|wavlm_proj\.weight"
)


def read_flow_lm(path: Path) -> dict[str, Tensor]:
    """Read a separate FlowLM file and give its tensors the names of the bundle.

    Parameters
    ----------
    path : Path
        A safetensors file in the names of the training code.

    Returns
    -------
    dict of str to Tensor
        ``flow_lm.*`` tensors; those that inference does not use are left out.

    Raises
    ------
    WeightsError
        The file is damaged or has two tensors for one name.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in read_safetensors(path).items():
        if _FLOW_LM_UNUSED.fullmatch(name):
            continue
        new_name = _FLOW_LM_RENAMED.get(name, name)
        new_name = new_name.replace(".self_attn.in_proj_weight", ".self_attn.in_proj.weight")
        _add(result, "flow_lm." + new_name, tensor, path)
    return result


def read_mimi(path: Path) -> dict[str, Tensor]:
    """Read a separate Mimi file and give its tensors the names of the bundle.

    Parameters
    ----------
    path : Path
        A safetensors file in the names of the training code (weight norm is folded), or a
        bundle, of which only the Mimi part is taken.

    Returns
    -------
    dict of str to Tensor
        ``mimi.*`` tensors; those that inference does not use are left out.

    Raises
    ------
    WeightsError
        The file is damaged, has two tensors for one name, or half of a weight-normalised one.
    """
    tensors = read_safetensors(path)
    if any(name.startswith("mimi.") for name in tensors):
        return {name: tensor for name, tensor in tensors.items() if name.startswith("mimi.")}
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if _MIMI_UNUSED.fullmatch(name) or name.endswith(".weight_v"):
            continue
        if name.endswith(".weight_g"):
            name = name.removesuffix("_g")
            direction = tensors.get(name + "_v")
            if direction is None:
                raise WeightsError(f"{path}: {name}_g has no {name}_v next to it")
            tensor = _fold_weight_norm(path, name, direction, tensor)
        new_name = (
            name.removeprefix("model.")
            .replace(".conv.conv.", ".conv.")
            .replace(".convtr.convtr.", ".convtr.")
            .replace("in_proj_weight", "in_proj.weight")
        )
        _add(result, "mimi." + new_name, tensor, path)
    return result


def _add(result: dict[str, Tensor], name: str, tensor: Tensor, path: Path) -> None:
    if name in result:
        raise WeightsError(f"{path}: two tensors both mean {name}")
    result[name] = tensor


def _fold_weight_norm(path: Path, name: str, direction: Tensor, magnitude: Tensor) -> Tensor:
    """Weight-normalised tensor ``v * g / |v|``, the norm taken over each row ``v[i]``.

    Computed in float32 and rounded to the type of `direction`.
    """
    if direction.dtype not in _FLOAT_TYPES or magnitude.dtype not in _FLOAT_TYPES:
        raise WeightsError(f"{path}: {name}_g and {name}_v should be F32, F16 or BF16")
    expected = direction.shape[:1] + (1,) * (len(direction.shape) - 1)
    if not direction.shape or magnitude.shape != expected:
        raise WeightsError(
            f"{path}: {name}_g has shape {list(magnitude.shape)}, expected {list(expected)}"
        )
    v = direction.as_float32()
    norm = np.sqrt(np.square(v, dtype=np.float64).sum(axis=tuple(range(1, v.ndim)), keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = (magnitude.as_float32() / norm).astype(np.float32)
        folded = v * scale
    return Tensor.from_float32(folded, direction.dtype)
