"""Measure what int8 and int4 weights change in a model, frame by frame, against float32.

A float32 engine speaks a text. Every other engine then gets the same voice, text and noise and,
before each frame, the latent of the float32 engine instead of its own (teacher forcing): errors of
one frame do not become those of the next, but what an engine keeps of the past is its own.
Compared are the backbone's output z, the latent and the EOS logit of each frame, and the audio
that Mimi makes of the float32 latents.

With --schemes other ways to round the backbone's weights are tried as well: the float32 engine
runs with weights that were rounded and turned back to float32, so activations are not rounded.

Usage:
  measure_quantization.py [options] MODEL
  measure_quantization.py -h | --help

MODEL is a folder with config.yaml, model.safetensors, a tokenizer and voices/NAME.safetensors.

Options:
  --text=TEXT     What is said [default: The old man told us a story about the sea.].
  --frames=N      Frames to compare; fewer when the model ends earlier [default: 60].
  --seed=N        Seed of the noise [default: 0].
  --temp=T        Temperature of the noise [default: 0.15].
  --threads=N     Threads [default: 1].
  --schemes       Also try other ways to round weights.
  --json=FILE     Write the figures.
  -h --help       Show this text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from docopt import docopt
from numpy.typing import NDArray

from pocket_tts_cy.atomic_file import replacing_file
from pocket_tts_cy.config import Config, load_config
from pocket_tts_cy.engine import Engine, FlowLMStream, MimiStream
from pocket_tts_cy.noise import NoiseSource
from pocket_tts_cy.safetensors_reader import Tensor
from pocket_tts_cy.text import chunk_text
from pocket_tts_cy.tokenizer import load_tokenizer
from pocket_tts_cy.voices import read_voice_state, state_length
from pocket_tts_cy.weights import load_weights

MAX_TOKENS = 50
MATRICES = ("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")
BOS = "flow_lm.bos_emb"
ALIGNMENT = 64
REFERENCE = "float32"
#: Rounded weights as (title, bits per weight without the row scales, function).
Scheme = tuple[str, float, Callable[[NDArray[np.float32]], NDArray[np.float32]]]


@dataclass(frozen=True)
class Task:
    """What all engines do: model, voice, text, noise."""

    config: Config
    tensors: dict[str, Tensor]
    voice: list[NDArray[np.float32]]
    voice_length: int
    token_ids: NDArray[np.int64]
    noise: list[NDArray[np.float32]]
    eos_threshold: float
    threads: int


@dataclass(frozen=True)
class Run:
    """z [n, z_dim], latents [n, latent_dim] and EOS logits [n] of the frames, and audio."""

    z: NDArray[np.float32]
    latents: NDArray[np.float32]
    logits: NDArray[np.float32]
    audio: NDArray[np.float32]


def load_task(folder: Path, arguments: dict[str, str]) -> Task:
    """Read the model and prepare voice, tokens and noise."""
    config = load_config(folder / "config.yaml")
    table = config.flow_lm.lookup_table
    tokenizer = load_tokenizer(table.n_bins, folder / table.tokenizer_path, table.tokenizer)
    state = read_voice_state(sorted((folder / "voices").glob("*.safetensors"))[0], config)
    if not isinstance(state, dict):
        raise SystemExit("the voice is an audio prompt; a voice state is needed")
    chunk = chunk_text(arguments["--text"], tokenizer, config, MAX_TOKENS)[0]
    source = NoiseSource(int(arguments["--seed"]), 32, float(arguments["--temp"]))
    source.draw()  # the text's own, which is not used
    return Task(
        config,
        load_weights(config, folder).tensors,
        [state[f"transformer.layers.{i}.self_attn"]["cache"] for i in range(len(state))],
        state_length(state),
        np.array(chunk.token_ids, np.int64),
        [source.draw().copy() for _ in range(int(arguments["--frames"]))],
        config.default_eos_threshold,
        int(arguments["--threads"]),
    )


def packed(engine: Engine) -> NDArray[np.uint8]:
    """Return the engine's packed matrices in one aligned block."""
    joined = np.concatenate([np.asarray(piece) for piece in engine.packed_matrices()])
    block = np.empty(len(joined) + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    block[start : start + len(joined)] = joined
    return block[start : start + len(joined)]


def decoded(engine: Engine, latents: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
    """Return Mimi's audio."""
    audio = np.empty(len(latents) * engine.samples_per_frame, np.float32)
    MimiStream(engine).decode(latents, audio, threads)
    return audio


def free_run(task: Task) -> Run:
    """Let the float32 engine speak until its end."""
    engine = Engine(task.config, task.tensors, REFERENCE)
    stream = FlowLMStream(engine)
    stream.begin(task.voice, task.voice_length, len(task.token_ids) + len(task.noise))
    stream.prefill_tokens(task.token_ids, task.threads)
    z, latents, logits = [], [], []
    for noise in task.noise:
        latent = np.empty(engine.latent_dim, np.float32)
        logits.append(stream.step(noise, latent, 1, task.threads))
        latents.append(latent)
        z.append(stream.last_z())
        if logits[-1] > task.eos_threshold:
            break
    return Run(
        np.array(z),
        np.array(latents),
        np.array(logits),
        decoded(engine, np.array(latents), task.threads),
    )


def forced_run(task: Task, precision: str, tensors: dict[str, Tensor], reference: Run) -> Run:
    """Let an engine make each frame after the reference's latents.

    An engine feeds its own latent back, but the first step of a stream feeds bos_emb: so each frame
    is the first step of a new stream, that continues the cache of the last, on an engine that
    shares the packed matrices and has the reference's latent for bos_emb.
    """
    engine = Engine(task.config, tensors, precision)
    matrices = packed(engine)
    audio = decoded(engine, reference.latents, task.threads)
    stream = FlowLMStream(engine)
    stream.begin(task.voice, task.voice_length, len(task.token_ids))
    stream.prefill_tokens(task.token_ids, task.threads)
    z, latents, logits = [], [], []
    for i in range(len(reference.latents)):
        if i:
            start = Tensor.from_float32(reference.latents[i - 1], "F32")
            engine = Engine(task.config, tensors | {BOS: start}, precision, matrices)
        cache, length = stream.export_cache(), stream.length
        stream = FlowLMStream(engine)
        stream.begin(cache, length, 1)
        latent = np.empty(engine.latent_dim, np.float32)
        logits.append(stream.step(task.noise[i], latent, 1, task.threads))
        latents.append(latent)
        z.append(stream.last_z())
    return Run(np.array(z), np.array(latents), np.array(logits), audio)


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of the angle between rows."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


def signal_to_noise(exact: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the power of `exact` over that of the difference, in dB; infinite when equal."""
    noise = float(((other.astype(np.float64) - exact) ** 2).sum())
    power = float((exact.astype(np.float64) ** 2).sum())
    return 10 * float(np.log10(power / noise)) if noise else float("inf")


def figures(reference: Run, run: Run) -> dict[str, float]:
    """Return what is printed of a run."""
    z, latents = cosines(reference.z, run.z), cosines(reference.latents, run.latents)
    logits = run.logits.astype(np.float64) - reference.logits
    return {
        "z mean": float(z.mean()),
        "z least": float(z.min()),
        "latent mean": float(latents.mean()),
        "latent least": float(latents.min()),
        "EOS rms": float(np.sqrt((logits**2).mean())),
        "Mimi dB": signal_to_noise(reference.audio, run.audio),
    }


def by_blocks(
    weights: NDArray[np.float32],
    size: int,
    rounded: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Apply `rounded` to blocks [n, size] of each row; size 0 is the whole row."""
    rows, n = weights.shape
    size = size or n
    padded = np.zeros((rows, -(-n // size) * size), np.float32)
    padded[:, :n] = weights
    return rounded(padded.reshape(-1, size)).reshape(rows, -1)[:, :n]


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to bfloat16."""
    return Tensor.from_float32(values, "BF16").as_float32()


def symmetric(blocks: NDArray[np.float32], limit: int, scale_type: str) -> NDArray[np.float32]:
    """Round to codes -limit..limit times a scale per block."""
    scale = np.abs(blocks).max(1, keepdims=True) / limit
    scale = bfloat16(scale) if scale_type == "BF16" else scale
    codes = np.rint(blocks / np.where(scale > 0, scale, 1))
    return np.clip(codes, -limit, limit) * scale


def asymmetric(blocks: NDArray[np.float32], tries: int) -> NDArray[np.float32]:
    """Round to codes -8..7: the value of largest magnitude becomes -8, or the best of `tries`."""
    where = np.abs(blocks).argmax(1)[:, None]
    extreme = np.take_along_axis(blocks, where, 1)
    best = np.zeros_like(blocks)
    best_error = np.full((len(blocks), 1), np.inf, np.float32)
    for step in range(tries):
        scale = bfloat16(extreme / np.float32(-8 + 0.25 * step))
        values = np.clip(np.rint(blocks / np.where(scale != 0, scale, 1)), -8, 7) * scale
        error = ((blocks - values) ** 2).sum(1, keepdims=True)
        best = np.where(error < best_error, values, best)
        best_error = np.minimum(error, best_error)
    return best


def weight_schemes() -> list[Scheme]:
    """Return ways to round weights: title, bits per weight, function."""

    def int8(size: int, scale_type: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        return lambda w: by_blocks(w, size, lambda b: symmetric(b, 127, scale_type))

    def int4(size: int, tries: int) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        return lambda w: by_blocks(w, size, lambda b: asymmetric(b, tries))

    return [
        ("8 bits, a scale per output (int8)", 8, int8(0, "F32")),
        ("8 bits, blocks of 64", 8.25, int8(64, "BF16")),
        (
            "6 bits, blocks of 32",
            6.5,
            lambda w: by_blocks(w, 32, lambda b: symmetric(b, 31, "BF16")),
        ),
        ("4 bits, blocks of 32, best of 8 scales (int4)", 4.5, int4(32, 8)),
        ("4 bits, blocks of 32, extreme is -8", 4.5, int4(32, 1)),
        (
            "4 bits, blocks of 32, codes -7..7",
            4.5,
            lambda w: by_blocks(w, 32, lambda b: symmetric(b, 7, "BF16")),
        ),
        ("4 bits, blocks of 16, best of 8 scales", 5, int4(16, 8)),
        ("4 bits, blocks of 64, best of 8 scales", 4.25, int4(64, 8)),
        ("4 bits, a scale per output, best of 8", 4, int4(0, 8)),
    ]


def rounded_weights(task: Task, scheme: Scheme) -> dict[str, Tensor]:
    """Return the tensors with the backbone's matrices rounded."""
    tensors = dict(task.tensors)
    for layer in range(task.config.flow_lm.transformer.num_layers):
        for matrix in MATRICES:
            name = f"flow_lm.transformer.layers.{layer}.{matrix}.weight"
            tensors[name] = Tensor.from_float32(scheme[2](tensors[name].as_float32()), "F32")
    return tensors


def measure(task: Task, with_schemes: bool) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield title and figures of each engine."""
    reference = free_run(task)
    yield "reference", {"frames": len(reference.z), "EOS std": float(reference.logits.std())}
    for precision in (REFERENCE, "bfloat16", "int8", "int4"):
        run = forced_run(task, precision, task.tensors, reference)
        yield precision, figures(reference, run)
    for scheme in weight_schemes() if with_schemes else []:
        run = forced_run(task, REFERENCE, rounded_weights(task, scheme), reference)
        yield f"weights only: {scheme[0]}, {scheme[1]:g} bits", figures(reference, run)


def row(title: str, found: dict[str, float]) -> str:
    """Format the figures of an engine as a line of a Markdown table."""
    mimi = "equal" if np.isinf(found["Mimi dB"]) else f"{found['Mimi dB']:.1f} dB"
    return (
        f"| {title} | {found['z mean']:.5f}, {found['z least']:.5f} "
        f"| {found['latent mean']:.5f}, {found['latent least']:.5f} "
        f"| {found['EOS rms']:.3g} | {mimi} |"
    )


def main() -> None:
    """Run the command line."""
    arguments = docopt(__doc__)
    task = load_task(Path(arguments["MODEL"]), arguments)
    results: dict[str, dict[str, float]] = {}
    for title, found in measure(task, bool(arguments["--schemes"])):
        results[title] = found
        if title == "reference":
            print(f"{found['frames']} frames; standard deviation of EOS: {found['EOS std']:.3g}\n")
            print("| | z: mean cosine, least | latent: mean cosine, least | EOS: rms | Mimi |")
            print("|---|---|---|---:|---:|")
        else:
            print(row(title, found), flush=True)
    if arguments["--json"]:
        content = {k: {n: v for n, v in f.items() if np.isfinite(v)} for k, f in results.items()}
        with replacing_file(arguments["--json"]) as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
