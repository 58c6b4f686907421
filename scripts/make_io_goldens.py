"""Write the reference's files for tests/test_weights.py, test_voices.py and test_audio.py.

Usage:
  make_io_goldens.py

Run with the Python of an environment that holds pocket-tts 4.0.1 (and docopt-ng). Writes
tests/data/voice_reference.safetensors (the exported state of a tiny transformer with two unused
cache rows), tests/data/voice_reference_used.npz (its used rows), tests/data/wav_reference.npz
(samples, and the bytes written for a seekable and an unseekable target), and
tests/data/training_{flow_lm,mimi}.safetensors (tiny files in the names of the training code) with
tests/data/training_renamed.npz (what the reference makes of them).
"""

import io
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from docopt import docopt
from pocket_tts.data.audio import StreamingWAVWriter
from pocket_tts.models.model_state import export_model_state
from pocket_tts.modules.stateful_module import StatefulModule, increment_steps, init_states
from pocket_tts.modules.transformer import StreamingTransformer
from pocket_tts.utils.weights_loading import get_flow_lm_state_dict, get_mimi_state_dict

DATA = Path(__file__).parent.parent / "tests" / "data"
ROWS, USED = 7, 5


class Pipe(io.BytesIO):
    """A target that cannot seek."""

    def seekable(self) -> bool:
        """Say so."""
        return False


class Wrapper(torch.nn.Module):
    """Gives the layers the names that they have inside the FlowLM."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = StreamingTransformer(
            d_model=12, num_heads=4, num_layers=2, dim_feedforward=16, attn_dim=24, num_kv_heads=2
        )
        for name, module in self.named_modules():
            if isinstance(module, StatefulModule):
                module._module_absolute_name = name


@torch.no_grad()
def write_voice() -> None:
    """Run a few rows through a tiny transformer and export its state."""
    torch.manual_seed(1)
    model = Wrapper()
    state = init_states(model, batch_size=1, sequence_length=ROWS)
    model.transformer(torch.randn(1, USED, 12), state)
    increment_steps(model, state, USED)
    export_model_state(state, DATA / "voice_reference.safetensors")
    used = {name: entry["cache"][:, :, :USED].numpy() for name, entry in state.items()}
    np.savez_compressed(DATA / "voice_reference_used.npz", **used)


def wav_bytes(target: io.BytesIO, chunks: list[torch.Tensor]) -> np.ndarray:
    """Everything that the reference writes for some chunks, silence included."""
    writer = StreamingWAVWriter(target, 24000)
    writer.write_header(24000)
    for chunk in chunks:
        writer.write_pcm_data(chunk)
    writer.finalize()
    return np.frombuffer(target.getvalue(), np.uint8)


def write_wav() -> None:
    """Write edge values and noise to both kinds of targets."""
    torch.manual_seed(2)
    edges = [0.0, -0.0, 1.0, -1.0, 1.5, -1.5, float("inf"), -float("inf"), 1e-30, 0.99999994]
    near = [k / 32767 + d for k in (-32767, -3, -1, 0, 1, 2, 32766) for d in (-1e-6, 0.0, 1e-6)]
    samples = torch.cat([torch.tensor(edges + near), torch.randn(300)])
    chunks = list(samples.split([100, 1, 230]))
    np.savez_compressed(
        DATA / "wav_reference.npz",
        samples=samples.numpy(),
        seekable=wav_bytes(io.BytesIO(), chunks),
        stream=wav_bytes(Pipe(), chunks),
    )


def training_tensors() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Tiny tensors under every kind of name that the two kinds of training files have."""
    speaker = "condition_provider.conditioners.speaker_wavs."
    text = "condition_provider.conditioners.transcript_in_segment."
    flow_lm = {
        "flow.w_s_t.0": torch.ones(1),
        "num_ema_updates": torch.ones(1, dtype=torch.int64),
        text + "learnt_padding": torch.ones(2),
        speaker + "learnt_padding": torch.ones(2),
        text + "embed.weight": torch.randn(3, 2),
        speaker + "output_proj.weight": torch.randn(2, 2),
        "fuser.padding_value": torch.randn(1, 1, 2),
        "transformer.layers.0.self_attn.in_proj_weight": torch.randn(6, 2),
        "transformer.layers.0.self_attn.out_proj.weight": torch.randn(2, 2).bfloat16(),
        "out_norm.bias": torch.randn(2).half(),
    }
    mimi = {
        "model.quantizer.vq.layers.0.embed": torch.ones(1),
        "quantizer.logvar_proj.weight": torch.ones(1),
        "model.quantizer.logvar_proj.weight": torch.ones(1),
        "quantizer.logvar_param": torch.ones(1),
        "some._codebook.embed": torch.ones(1),
        "wavlm_emb_downsample.conv.conv.weight": torch.ones(1),
        "wavlm_input_resample.kernel": torch.ones(1),
        "wavlm_proj.weight": torch.ones(1),
        "model.encoder.model.3.conv.conv.weight": torch.randn(2, 2, 3),
        "model.encoder.model.3.conv.conv.bias": torch.randn(2),
        "encoder.model.0.conv.conv.weight_g": torch.rand(4, 1, 1) + 0.5,
        "encoder.model.0.conv.conv.weight_v": torch.randn(4, 3, 5),
        "decoder.model.2.convtr.convtr.weight_g": (torch.rand(4, 1, 1) + 0.5).bfloat16(),
        "decoder.model.2.convtr.convtr.weight_v": torch.randn(4, 2, 6).bfloat16(),
        "decoder.model.2.convtr.convtr.bias": torch.randn(2).bfloat16(),
        "decoder.model.5.conv.conv.weight_g": (torch.rand(4, 1, 1) + 0.5).half(),
        "decoder.model.5.conv.conv.weight_v": torch.randn(4, 2, 6).half(),
        "downsample.conv.conv.conv.weight": torch.randn(2, 2, 4),
        "upsample.convtr.convtr.convtr.weight": torch.randn(2, 1, 4),
        "model.decoder_transformer.transformer.layers.0.self_attn.in_proj_weight": torch.randn(
            6, 2
        ),
        "quantizer.output_proj.weight": torch.randn(2, 2, 1),
    }
    return flow_lm, mimi


def write_training_files() -> None:
    """Write training files and what the reference loads from them, as float32."""
    torch.manual_seed(3)
    renamed = {}
    readers = {"flow_lm": get_flow_lm_state_dict, "mimi": get_mimi_state_dict}
    for (part, reader), tensors in zip(readers.items(), training_tensors(), strict=True):
        path = DATA / f"training_{part}.safetensors"
        path.write_bytes(safetensors.torch.save(tensors))
        for name, tensor in reader(path).items():
            renamed[f"{part}.{name}"] = tensor.float().numpy()
    np.savez_compressed(DATA / "training_renamed.npz", **renamed)


def main() -> None:
    """Write all files."""
    docopt(__doc__)
    write_voice()
    write_wav()
    write_training_files()


if __name__ == "__main__":
    main()
