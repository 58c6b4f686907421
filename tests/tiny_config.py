"""A small model configuration for tests that need no trained weights."""

from pathlib import Path
from typing import Any

import yaml

import pocket_tts_cy
from pocket_tts_cy.config import Config, parse_config

EMBEDDED = Path(pocket_tts_cy.__file__).parent / "voice"


def tiny_mapping() -> dict[str, Any]:
    """The embedded model's configuration with a transformer of two narrow layers."""
    mapping = yaml.safe_load((EMBEDDED / "config.yaml").read_text(encoding="utf-8"))
    flow_lm = mapping["flow_lm"]
    flow_lm["transformer"].update(
        d_model=12, num_heads=4, num_kv_heads=2, attn_dim=24, num_layers=2, dim_feedforward=16
    )
    flow_lm["flow"].update(dim=8, depth=1)
    flow_lm["lookup_table"].update(dim=12, n_bins=16)
    return mapping


def tiny_config() -> Config:
    """The checked configuration of :func:`tiny_mapping`."""
    return parse_config(tiny_mapping(), "tiny")
