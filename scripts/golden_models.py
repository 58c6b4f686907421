"""The small random models of the parity tests: their configurations, weights and tokenizers.

Between them the models take every branch of the reference: the four flow heads, grouped-query
attention, low-rank text tables, separate decoder widths, both file layouts and every tensor type.
Used by ``make_goldens.py`` only, inside the virtual environment of the PyTorch reference.
"""

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

CORPUS = (
    "The quick brown fox jumps over the lazy dog.",
    "She said hello, and then she went home; nobody knew why.",
    "What time is it? It is time to go!",
    "Three small birds: a wren, a robin and a finch.",
    "Wait... there is something at the door.",
    "We walked along the river until the sun went down behind the hills.",
    "He doesn't know, but I think that you're right.",
    "The price is 3.14 dollars, not 12 or 50.",
    "Please bring bread, milk, cheese and six eggs.",
    "I'm fast enough to run on small machines.",
    "Is this the end? No, it is only the beginning.",
    "Good morning everyone! How are you today?",
    "A voice can be small and still be understood.",
    "Never trust a model that was not measured.",
    "Over there (behind the barn) stands an old oak.",
    "It was late, it was dark, and the road was long.",
)


@dataclasses.dataclass(frozen=True)
class GoldenModel:
    """One random model.

    Attributes
    ----------
    name : str
        Folder name.
    config : dict
        The YAML content, without the paths of the weights.
    dtype : str
        Tensor type of the file: ``"F32"``, ``"F16"``, ``"BF16"`` or ``"mixed"`` (matrices BF16,
        vectors F32).
    layout : str
        ``"bundle"`` (one file), ``"original"`` (a FlowLM and a Mimi file with the training names
        and weight-normalised convolutions) or ``"override"`` (a bundle whose Mimi part is
        replaced by a second file).
    decode_steps : tuple of int
        Sampler steps to record; the first one is used for waveforms.
    mimi_frames : int
        Number of random latents decoded by the Mimi stage (80 ms each).
    """

    name: str
    config: dict[str, Any]
    dtype: str = "F32"
    layout: str = "bundle"
    decode_steps: tuple[int, ...] = (1,)
    mimi_frames: int = 6


def seanet(dimension: int, n_filters: int, **changes: Any) -> dict[str, Any]:
    """Return a SEANet section: the released settings with `changes` applied."""
    section = {
        "dimension": dimension,
        "channels": 1,
        "n_filters": n_filters,
        "n_residual_layers": 1,
        "ratios": [6, 5, 4],
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 3,
        "dilation_base": 2,
        "pad_mode": "constant",
        "compress": 2,
    }
    return section | changes


def mimi_transformer(
    d_model: int, num_heads: int, dimension: int, context: int, **changes: Any
) -> dict[str, Any]:
    """Return a Mimi transformer section that reads and writes `dimension` channels."""
    section = {
        "d_model": d_model,
        "num_heads": num_heads,
        "num_layers": 2,
        "layer_scale": 0.3,
        "context": context,
        "dim_feedforward": 2 * d_model,
        "input_dimension": dimension,
        "output_dimensions": [dimension],
    }
    return section | changes


def mimi(outer: int, **sections: Any) -> dict[str, Any]:
    """Return a Mimi section whose latents are projected to `outer` channels."""
    return {
        "dtype": "float32",
        "sample_rate": 24000,
        "channels": 1,
        "frame_rate": 12.5,
        "quantizer": {"dimension": 32, "output_dimension": outer},
        **sections,
    }


def flow_lm(
    flow: dict[str, Any], transformer: dict[str, Any], table: dict[str, Any], **changes: Any
) -> dict[str, Any]:
    """Return a FlowLM section."""
    return {
        "dtype": "float32",
        "flow": flow,
        "transformer": {"hidden_scale": 4, "max_period": 10000, **transformer},
        "lookup_table": {"dim": transformer["d_model"], **table},
        **changes,
    }


# Gains of weight matrices by part of the name (1 elsewhere). They keep the autoregressive loop
# from being chaotic: a rounding error of one step must not grow past the bars of the tests.
GAINS = {
    "adaLN": 0.5,
    "out_eos": 1.5,
    "final_layer.linear": 0.3,
    "cond_embed": 0.7,
    "flow_lm.input_linear": 0.7,
    "out_proj": 0.7,
    "linear2": 0.7,
}

SENTENCEPIECE = {"tokenizer": "sentencepiece", "tokenizer_path": "tokenizer.model"}
JSON_TOKENIZER = {"tokenizer": "tokenizers", "tokenizer_path": "tokenizer.json"}

MODELS = (
    GoldenModel(
        "lsd_grouped",
        {
            "pad_with_spaces_for_short_inputs": True,
            "flow_lm": flow_lm(
                {"dim": 24, "depth": 2},
                {"d_model": 48, "num_heads": 4, "num_kv_heads": 2, "num_layers": 2},
                {"n_bins": 120, **SENTENCEPIECE},
                insert_bos_before_voice=True,
            ),
            "mimi": mimi(
                24,
                inner_dim=32,
                outer_dim=24,
                seanet=seanet(24, 4),
                transformer=mimi_transformer(24, 3, 24, context=20),
            ),
        },
        decode_steps=(1, 3),
    ),
    GoldenModel(
        "lsd_bfloat16",
        {
            "default_temperature": 0.7,
            "model_recommended_frames_after_eos": 2,
            "replace_characters": {"’": "'", "‘": "'", "–": ",", "—": ",", '"': "", "…": "."},
            "flow_lm": flow_lm(
                {"dim": 48, "depth": 3, "type": "lsd"},
                {"d_model": 64, "num_heads": 2, "num_layers": 3},
                {"n_bins": 160, **JSON_TOKENIZER},
                insert_bos_before_voice=True,
            ),
            "mimi": mimi(
                48,
                inner_dim=32,
                outer_dim=48,
                seanet=seanet(48, 6),
                transformer=mimi_transformer(48, 2, 48, context=250),
            ),
        },
        dtype="BF16",
        decode_steps=(1, 2),
        mimi_frames=18,
    ),
    GoldenModel(
        "flow_matching_float16",
        {
            "remove_semicolons": True,
            "flow_lm": flow_lm(
                {"dim": 48, "depth": 2, "type": "flow_matching"},
                {"d_model": 96, "num_heads": 8, "num_layers": 2, "dim_feedforward": 136},
                {"n_bins": 120, **SENTENCEPIECE},
            ),
            "mimi": mimi(
                32,
                outer_dim=32,
                seanet=seanet(32, 4, ratios=[8, 5, 3], last_kernel_size=7),
                transformer=mimi_transformer(32, 4, 32, context=50),
            ),
        },
        dtype="F16",
        decode_steps=(16,),
    ),
    GoldenModel(
        "drifting_deep",
        {
            "append_terminal_punctuation": False,
            "capitalize_first_letter": False,
            "flow_lm": flow_lm(
                {"dim": 36, "depth": 1, "type": "drifting"},
                {"d_model": 64, "hidden_scale": 1, "num_heads": 1, "num_layers": 4},
                {"n_bins": 160, **JSON_TOKENIZER},
                z_dim=24,
            ),
            "mimi": mimi(
                24,
                inner_dim=20,
                seanet=seanet(
                    24, 3, ratios=[5, 4, 3, 2], n_residual_layers=2, residual_kernel_size=5
                ),
                transformer=mimi_transformer(24, 3, 24, context=20),
            ),
        },
        dtype="BF16",
    ),
    GoldenModel(
        "pointwise_112",
        {
            "default_eos_threshold": -1.0,
            "flow_lm": flow_lm(
                {"dim": 48, "depth": 2, "type": "pointwise"},
                {
                    "d_model": 112,
                    "hidden_scale": 1,
                    "num_heads": 3,
                    "num_layers": 2,
                    "dim_feedforward": 96,
                    "attn_dim": 192,
                    "num_kv_heads": 1,
                },
                {"n_bins": 120, "rank": 32, **SENTENCEPIECE},
                z_dim=64,
                insert_bos_before_voice=True,
            ),
            "mimi": mimi(
                96,
                inner_dim=32,
                outer_dim=96,
                seanet=seanet(24, 2),
                transformer=mimi_transformer(24, 2, 24, context=100),
                decoder_seanet=seanet(96, 12, kernel_size=3, residual_kernel_size=3),
                decoder_transformer=mimi_transformer(
                    96, 3, 96, context=50, dim_feedforward=100, max_period=5000.0
                ),
            ),
        },
        dtype="BF16",
    ),
    GoldenModel(
        "original_names",
        {
            "flow_lm": flow_lm(
                {"dim": 32, "depth": 2, "type": "lsd"},
                {"d_model": 40, "num_heads": 4, "num_layers": 2, "attn_dim": 48},
                {"n_bins": 160, **JSON_TOKENIZER},
                insert_bos_before_voice=True,
            ),
            "mimi": mimi(
                28,
                seanet=seanet(28, 4, pad_mode="replicate", n_residual_layers=2),
                transformer=mimi_transformer(24, 3, 28, context=20),
                decoder_transformer=mimi_transformer(48, 4, 28, context=33, num_layers=1),
            ),
        },
        layout="original",
    ),
    GoldenModel(
        "mimi_override",
        {
            "flow_lm": flow_lm(
                {"dim": 12, "depth": 1, "type": "pointwise"},
                {"d_model": 24, "num_heads": 3, "num_layers": 1, "max_period": 500},
                {"n_bins": 120, **SENTENCEPIECE},
            ),
            "mimi": mimi(
                20,
                inner_dim=12,
                outer_dim=20,
                seanet=seanet(28, 3, compress=1),
                transformer=mimi_transformer(24, 3, 28, context=40, num_layers=1),
                decoder_seanet=seanet(
                    20, 5, ratios=[4, 6, 5], kernel_size=5, dilation_base=3, n_residual_layers=2
                ),
                decoder_transformer=mimi_transformer(20, 2, 20, context=17, num_layers=2),
            ),
        },
        dtype="mixed",
        layout="override",
    ),
    GoldenModel(
        "drifting_float32",
        {
            "default_temperature": 0.5,
            "flow_lm": flow_lm(
                {"dim": 24, "depth": 3, "type": "drifting"},
                {
                    "d_model": 48,
                    "hidden_scale": 2,
                    "num_heads": 2,
                    "num_kv_heads": 1,
                    "num_layers": 2,
                },
                {"n_bins": 160, "rank": 12, **JSON_TOKENIZER},
            ),
            "mimi": mimi(
                12,
                inner_dim=32,
                outer_dim=12,
                seanet=seanet(12, 2, n_residual_layers=0, ratios=[10, 12], compress=4),
                transformer=mimi_transformer(12, 1, 12, context=64),
            ),
        },
    ),
)


def write_tokenizer(folder: Path, kind: str, n_bins: int) -> None:
    """Train a tokenizer of `n_bins` pieces on the small corpus and write it into `folder`."""
    if kind == "sentencepiece":
        import sentencepiece

        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS),
            model_writer=model,
            vocab_size=n_bins,
            model_type="unigram",
            # The full Unicode table would make the file 200 times larger.
            normalization_rule_name="identity",
            byte_fallback=False,
            num_threads=1,
            minloglevel=2,
        )
        (folder / SENTENCEPIECE["tokenizer_path"]).write_bytes(model.getvalue())
        return
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Metaspace(),
            tokenizers.pre_tokenizers.Punctuation(),
        ]
    )
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS,
        tokenizers.trainers.BpeTrainer(
            vocab_size=n_bins, special_tokens=["<unk>"], show_progress=False
        ),
    )
    if tokenizer.get_vocab_size() != n_bins:
        raise SystemExit(f"tokenizer has {tokenizer.get_vocab_size()} pieces, wanted {n_bins}")
    tokenizer.save(str(folder / JSON_TOKENIZER["tokenizer_path"]))


def random_tensor(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw a tensor whose scale keeps every signal of the network near one.

    Parameters
    ----------
    name : str
        Tensor name in the bundle layout.
    shape : tuple of int
        Its shape.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    ndarray of float32
    """
    normal = rng.standard_normal(shape)
    if name.endswith("alpha") or (name.endswith("weight") and ("norm" in name or "in_ln" in name)):
        return (1 + 0.1 * normal).astype(np.float32)
    if name.endswith("emb_std"):
        return (0.5 + rng.random(shape)).astype(np.float32)
    if name.endswith("layer_scale_1.scale") or name.endswith("layer_scale_2.scale"):
        return (0.3 + 0.05 * normal).astype(np.float32)
    if name.endswith("emb_mean"):
        return (0.3 * normal).astype(np.float32)
    if name.endswith((".bias", "bos_before_voice")):
        return (0.2 * normal).astype(np.float32)
    if name.endswith(("embed.weight", "bos_emb")):
        return normal.astype(np.float32)
    fan_in = math.prod(shape[1:])
    if ".convtr." in name:
        # A transposed convolution with kernel = 2 * stride: two taps meet in each output.
        fan_in = 2 * (shape[0] if shape[1] > 1 else 1)
    gain = next((gain for part, gain in GAINS.items() if part in name), 1.0)
    return (gain / math.sqrt(fan_in) * normal).astype(np.float32)


def random_weights(
    shapes: dict[str, tuple[int, ...]], buffers: dict[str, torch.Tensor], seed: int
) -> dict[str, torch.Tensor]:
    """Draw all tensors of a model; tensors named in `buffers` keep the values given there."""
    rng = np.random.default_rng(seed)
    return {
        name: buffers[name]
        if name in buffers
        else torch.from_numpy(random_tensor(name, shape, rng))
        for name, shape in shapes.items()
    }


def stored(tensors: dict[str, torch.Tensor], dtype: str) -> dict[str, torch.Tensor]:
    """Convert tensors to the type that the file shall hold."""
    kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

    def kind(tensor: torch.Tensor) -> torch.dtype:
        if dtype == "mixed":
            return torch.bfloat16 if tensor.dim() > 1 else torch.float32
        return kinds[dtype]

    return {name: tensor.to(kind(tensor)).contiguous() for name, tensor in tensors.items()}


def original_flow_lm(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename FlowLM tensors to the names of the training code, with its leftovers added."""
    conditioners = "condition_provider.conditioners"
    names = {
        "conditioner.embed.weight": f"{conditioners}.transcript_in_segment.embed.weight",
        "speaker_proj_weight": f"{conditioners}.speaker_wavs.output_proj.weight",
        "bos_before_voice": "fuser.padding_value",
    }
    renamed = {
        names.get(name, name).replace(".in_proj.weight", ".in_proj_weight"): tensor
        for name, tensor in tensors.items()
    }
    for leftover in (
        "flow.w_s_t.weight",
        "num_ema_updates",
        f"{conditioners}.transcript_in_segment.learnt_padding",
        f"{conditioners}.speaker_wavs.learnt_padding",
    ):
        renamed[leftover] = torch.ones(1)
    return renamed


def original_mimi(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename Mimi tensors to the names of the training code.

    SEANet convolutions become a weight-normalised pair (``weight_g``, ``weight_v``) whose
    product is the weight; tensors that inference does not use are added.
    """
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        is_conv = ".conv." in name or ".convtr." in name
        kind = "convtr" if ".convtr." in name else "conv"
        if is_conv:
            stem, leaf = name.rsplit(".", 1)
            original = f"{stem}.{kind}.{leaf}"
        else:
            original = name.replace(".in_proj.weight", ".in_proj_weight")
        if is_conv and leaf == "weight" and name.startswith(("encoder.", "decoder.")):
            dims = tuple(range(1, tensor.dim()))
            norm = tensor.square().sum(dims, keepdim=True).sqrt()
            # Any positive factor of v cancels in the normalisation.
            renamed[f"{original}_g"] = norm
            renamed[f"{original}_v"] = 1.7 * tensor
        elif is_conv and name.startswith(("encoder.", "decoder.")):
            renamed[original] = tensor
        else:
            renamed[f"model.{original}"] = tensor
    for leftover in (
        "model.quantizer.vq.layers.0.embedding",
        "model.quantizer.logvar_proj.weight",
        "quantizer.logvar_proj.weight",
        "quantizer.logvar_param",
        "quantizer.rvq_first._codebook.sum",
        "wavlm_proj.weight",
        "wavlm_input_resample.kernel",
        "wavlm_emb_downsample.conv.conv.weight",
    ):
        renamed[leftover] = torch.ones(2)
    return renamed


def write_weights(
    folder: Path, model: GoldenModel, tensors: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """Write the weights in the model's layout; return the configuration that names them."""

    def save(name: str, content: dict[str, torch.Tensor]) -> str:
        safetensors.torch.save_file(stored(content, model.dtype), folder / name)
        return name

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }

    config = dict(model.config)
    if model.layout == "bundle":
        config["weights_path"] = save("model.safetensors", tensors)
    elif model.layout == "original":
        config["flow_lm"] = config["flow_lm"] | {
            "weights_path": save("flow_lm.safetensors", original_flow_lm(part("flow_lm.")))
        }
        config["mimi"] = config["mimi"] | {
            "weights_path": save("mimi.safetensors", original_mimi(part("mimi.")))
        }
    else:
        real_mimi = {f"mimi.{name}": tensor for name, tensor in part("mimi.").items()}
        replaced = {name: tensor * 0.5 for name, tensor in real_mimi.items()}
        config["weights_path"] = save("model.safetensors", tensors | replaced)
        config["mimi"] = config["mimi"] | {"weights_path": save("mimi.safetensors", real_mimi)}
    return config
