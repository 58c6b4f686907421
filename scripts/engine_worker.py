"""One engine in a process of its own, that speaks on request; the partner of other scripts.

The only argument is a JSON object: ``package`` ("pocket_tts", the PyTorch reference, or
"pocket_tts_cy"), ``config``, ``voice``, and for this package ``precision``, ``threads`` and
``together``. The first line on standard output tells how long import and load took; then each
JSON line on standard input, ``{"text": ..., "seed": ..., "output": WAV or null}``, is spoken and
answered by one JSON line of figures. Needs nothing but the engine, so it runs in any virtual
environment.
"""

import json
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROCESS = Path("/proc/self")


def memory_mb(key: str) -> float | None:
    """Return a value of ``/proc/self/status`` in MB (10^6 bytes), None where there is no such."""
    try:
        lines = (PROCESS / "status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(key)), None)


def forget_peak_memory() -> bool:
    """Make the kernel count the peak of the resident memory from now on."""
    try:
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def load_reference(options: dict[str, Any]) -> Callable[[str, int], Iterator[Any]]:
    """Load the PyTorch package; return a function that streams audio."""
    from pocket_tts import TTSModel

    yield_time("import_s")
    import torch

    model = TTSModel.load_model(config=options["config"])
    voice = model.get_state_for_audio_prompt(options["voice"])

    def speak(text: str, seed: int) -> Iterator[Any]:
        torch.manual_seed(seed)
        return model.generate_audio_stream(voice, text)

    return speak


def load_this_package(options: dict[str, Any]) -> Callable[[str, int], Iterator[Any]]:
    """Load this package; return a function that streams audio."""
    from pocket_tts_cy import TTSModel

    yield_time("import_s")
    model = TTSModel.load_model(
        config=options["config"], precision=options["precision"], num_threads=options["threads"]
    )
    voice = model.get_state_for_audio_prompt(options["voice"])
    if options.get("together"):
        # Without a seed the chunks of a text are stepped together; all audio comes at the end.
        return lambda text, _: iter([model.generate_audio(voice, text)])
    return lambda text, seed: model.generate_audio_stream(voice, text, seed=seed)


FIGURES: dict[str, float | None] = {}
STARTED = time.perf_counter()


def yield_time(name: str) -> None:
    """Keep the seconds since the last call under `name`."""
    global STARTED
    now = time.perf_counter()
    FIGURES[name] = now - STARTED
    STARTED = now


def write_wav(path: str, chunks: list[Any]) -> None:
    """Write chunks of float samples at 24 kHz to a 16-bit WAV file."""
    import numpy as np

    samples = np.concatenate([chunk.numpy() for chunk in chunks]).clip(-1, 1)
    with wave.open(path, "wb") as file:
        file.setparams((1, 2, 24000, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def measure(
    speak: Callable[[str, int], Iterator[Any]], text: str, seed: int, output: str | None
) -> dict[str, Any]:
    """Speak a text, write it to `output` if that is given, and return the figures.

    Returns
    -------
    dict
        ``samples``; ``wall_s``, ``cpu_s`` (all threads), ``first_s`` (until the first audio is
        in the caller's hands); ``peak_mb`` of this generation, ``process_peak_mb`` since start.
    """
    process_peak = memory_mb("VmHWM:")
    is_fresh = forget_peak_memory()
    cpu, begin = time.process_time(), time.perf_counter()
    first, samples = 0.0, 0
    kept = []
    for chunk in speak(text, seed):
        first = first or time.perf_counter() - begin
        samples += len(chunk)
        if output is not None:
            kept.append(chunk)
    wall = time.perf_counter() - begin
    cpu = time.process_time() - cpu
    peak = memory_mb("VmHWM:")
    if output is not None:
        write_wav(output, kept)
    if process_peak is not None and peak is not None:
        FIGURES["process_peak_mb"] = max(process_peak, peak, FIGURES.get("process_peak_mb") or 0.0)
    return {
        "samples": samples,
        "wall_s": wall,
        "cpu_s": cpu,
        "first_s": first,
        "peak_mb": peak if is_fresh else None,
        "process_peak_mb": FIGURES.get("process_peak_mb"),
    }


def main() -> None:
    """Load, then answer requests until standard input ends."""
    answers = sys.stdout
    # Whatever an engine prints must not get between the answers.
    sys.stdout = sys.stderr

    options = json.loads(sys.argv[1])
    loaders = {"pocket_tts": load_reference, "pocket_tts_cy": load_this_package}
    speak = loaders[options["package"]](options)
    yield_time("load_s")
    print(json.dumps(FIGURES), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(measure(speak, **request)), file=answers, flush=True)


if __name__ == "__main__":
    main()
