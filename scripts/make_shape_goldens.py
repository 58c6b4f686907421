"""Write the tensor names and shapes of the reference's models for tests/test_weights.py.

Usage:
  make_shape_goldens.py [CONFIG...]

Run with the Python of an environment that holds pocket-tts 4.0.1 (and docopt-ng). Builds every
model of the reference's config folder, plus each CONFIG (YAML), without weights on PyTorch's meta
device, and writes tests/data/state_dict_shapes.json.gz: per configuration its YAML content and the
shapes of its state dict. A last, made-up model has the branches that no released one has.
"""

import copy
import gzip
import json
from pathlib import Path
from unittest import mock

import torch
import yaml
from docopt import docopt
from pocket_tts.models import flow_lm, mimi, tts_model
from pocket_tts.modules import text_conditioner
from pocket_tts.utils.config import CONFIGS_DIR, Config

DESTINATION = Path(__file__).parent.parent / "tests" / "data" / "state_dict_shapes.json.gz"


def state_dict_shapes(config: Config) -> dict[str, list[int]]:
    """Names and shapes of the reference's state dict for one configuration."""
    with torch.device("meta"), mock.patch.object(text_conditioner, "build_tokenizer"):
        model = tts_model.TTSModel._from_pydantic_config(config, 0.3, 1, None, 0.0, None)
        model.mimi = mimi.build_mimi(config.mimi)
        # Loading weights creates this parameter in the reference.
        width = config.mimi.inner_dim or config.mimi.seanet.dimension
        model.flow_lm.speaker_proj_weight = torch.nn.Parameter(
            torch.zeros(config.flow_lm.transformer.d_model, width)
        )
    assert isinstance(model.flow_lm, flow_lm.FlowLMModel)
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def unusual_model(mapping: dict) -> dict:
    """A made-up variant: other widths inside Mimi's transformers, more residual layers."""
    mapping = copy.deepcopy(mapping)
    mapping["flow_lm"]["flow"] = {"dim": 24, "depth": 0, "type": "flow_matching"}
    mapping["flow_lm"]["insert_bos_before_voice"] = False
    codec = mapping["mimi"]
    codec["inner_dim"] = codec["outer_dim"] = None
    codec["quantizer"]["output_dimension"] = codec["decoder_seanet"]["dimension"]
    codec["seanet"].update(n_residual_layers=3, ratios=[8, 5], compress=4, last_kernel_size=5)
    codec["decoder_seanet"].update(n_residual_layers=0, ratios=[2, 4, 5], compress=1)
    codec["transformer"].update(d_model=96, num_heads=4)
    codec["decoder_transformer"].update(d_model=80, num_heads=2)
    return mapping


def main() -> None:
    """Build all models and write the golden file."""
    arguments = docopt(__doc__)
    paths = sorted(CONFIGS_DIR.glob("*.yaml")) + [Path(name) for name in arguments["CONFIG"]]
    mappings = {}
    for path in paths:
        name = path.stem if path.is_relative_to(CONFIGS_DIR) else f"{path.parent.name}/{path.stem}"
        mappings[name] = yaml.safe_load(path.read_text(encoding="utf-8"))
    mappings["unusual"] = unusual_model(mappings["english_2m_2026-10"])
    goldens = {
        name: {"config": mapping, "shapes": state_dict_shapes(Config(**mapping))}
        for name, mapping in mappings.items()
    }
    text = json.dumps(goldens, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
    # mtime 0: the same content gives the same bytes.
    DESTINATION.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    print(f"{DESTINATION.name}: {len(goldens)} models, {DESTINATION.stat().st_size} bytes")


if __name__ == "__main__":
    main()
