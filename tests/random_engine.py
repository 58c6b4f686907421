"""Engines with small random models, for tests that need no trained weights."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from tiny_config import EMBEDDED, tiny_mapping

from pocket_tts_cy.config import Config, load_config, parse_config
from pocket_tts_cy.engine import Engine
from pocket_tts_cy.safetensors_reader import Tensor
from pocket_tts_cy.weights import expected_shapes, load_weights

LATENT = 32


def small_mapping() -> dict[str, Any]:
    """Grouped queries, two-time head, Mimi with projections, dilation and a context of 20."""
    mapping = tiny_mapping()
    mapping["flow_lm"]["flow"].update(dim=10, depth=2, type="lsd")
    mapping["flow_lm"]["z_dim"] = 14
    mimi = mapping["mimi"]
    seanet = {
        **mimi["seanet"], "dimension": 24, "n_filters": 4, "ratios": [2, 3],
        "n_residual_layers": 2, "kernel_size": 5,
    }  # fmt: skip
    transformer = {
        **mimi["transformer"], "d_model": 12, "num_heads": 2, "num_layers": 2, "context": 20,
        "dim_feedforward": 17, "input_dimension": 24, "output_dimensions": [24],
    }  # fmt: skip
    for key in ("decoder_seanet", "decoder_transformer", "inner_dim", "outer_dim"):
        mimi.pop(key)
    mimi.update(frame_rate=250, seanet=seanet, transformer=transformer)
    mimi["quantizer"]["output_dimension"] = 24
    return mapping


def replicating_mapping() -> dict[str, Any]:
    """No projections, no residual layers, replicated first columns, one-step head, no z_dim."""
    mapping = small_mapping()
    mapping["flow_lm"]["flow"].update(type="drifting")
    mapping["flow_lm"].pop("z_dim")
    mimi = mapping["mimi"]
    mimi["seanet"].update(pad_mode="replicate", n_residual_layers=0, ratios=[3, 2])
    mimi["transformer"].update(d_model=24, num_heads=3, context=33)
    return mapping


def embedded_weights() -> dict[str, Tensor]:
    """Tensors of the model in the package; its file holds bfloat16."""
    return load_weights(config_of("embedded"), EMBEDDED).tensors


def random_weights(config: Config, dtype: str) -> dict[str, Tensor]:
    """Normal values of a size that keeps activations moderate."""
    rng = np.random.default_rng(1)
    tensors = {}
    for name, shape in expected_shapes(config).items():
        values = rng.standard_normal(shape)
        if len(shape) > 1:
            fan_in = 2 * shape[0] if ".convtr." in name else math.prod(shape[1:])
            values /= math.sqrt(fan_in)
        elif name.endswith((".weight", ".alpha", ".scale", "emb_std")):
            values = 1 + 0.1 * values
        tensors[name] = Tensor.from_float32(values, dtype)
    return tensors


@functools.cache
def config_of(name: str) -> Config:
    """Configuration of ``"small"``, ``"replicating"`` or ``"embedded"``."""
    if name == "embedded":
        return load_config(EMBEDDED / "config.yaml")
    mapping = small_mapping() if name == "small" else replicating_mapping()
    return parse_config(mapping, name)


@functools.cache
def weights_of(name: str) -> dict[str, Tensor]:
    """Tensors of a model of :func:`config_of`, in bfloat16."""
    return embedded_weights() if name == "embedded" else random_weights(config_of(name), "BF16")


@functools.cache
def engine_of(name: str, precision: str = "bfloat16") -> Engine:
    """Engine of a model of :func:`config_of`."""
    return Engine(config_of(name), weights_of(name), precision)
