"""Compare the speed and memory of this package with its PyTorch reference, on equal terms.

Both engines read the same model folder and the same voice state and speak the same texts. Each
runs in a process of its own; the runs are interleaved (A B C A B C ...), so that a slow minute
of the machine hits all of them, and a ratio is the median of the ratios within each round.
Prints a Markdown table.

Usage:
  compare_with_pytorch.py [options] [--precision=P]... [--text=NAME]... [MODEL]
  compare_with_pytorch.py -h | --help

MODEL is a folder made by ``make_random_model.py CONFIG MODEL --no-eos`` (the number of frames is
then fixed). Without it one of "english" is made in a temporary folder.

Options:
  --oracle-python=PATH  Python interpreter of a virtual environment that holds pocket-tts 4.0.1.
                        Without it this package is measured alone.
  --precision=P         Precisions of this package [default: float32 bfloat16]. With "+1thread"
                        behind it on one thread; with "+together" the chunks of a text are
                        generated together, as for a file without a seed.
  --text=NAME           Texts: short, medium, long [default: short medium long].
  --rounds=N            Interleaved rounds per text [default: 5].
  --starts=N            Fresh processes per engine, for import and load [default: 3].
  --command-runs=N      Runs of each command line tool, 0 for none [default: 3].
  --threads=N           Threads of this package; its own choice by default.
  --json=FILE           Write all single measurements too.
  -h --help             Show this text.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark_texts import SHORT, TEXTS
from docopt import docopt
from worker import Worker

from pocket_tts_cy.atomic_file import replacing_file

SCRIPTS = Path(__file__).resolve().parent
REFERENCE = "PyTorch"
SAMPLE_RATE = 24000
CONFIG = "config.yaml"
VOICE = "voices/random.safetensors"


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes
    ----------
    title : str
        What is measured, with its unit.
    key : str
        Where the measurements are kept.
    digits : int
        Decimals shown.
    more_is_better : bool
        Whether the ratio shown is ours over the reference's, else the reference's over ours.
    """

    title: str
    key: str
    digits: int
    more_is_better: bool = False


@dataclass
class Engine:
    """One column of the table: an engine, its worker process and what was measured.

    Attributes
    ----------
    title : str
        Column title.
    python : str
        Interpreter that runs the worker.
    options : dict
        Options of ``engine_worker.py``.
    command : list of str
        Command line tool that writes the short text to a file.
    figures : dict
        Measurements by key, in the order of the rounds.
    """

    title: str
    python: str
    options: dict[str, Any]
    command: list[str]
    figures: dict[str, list[float]] = field(default_factory=dict)
    worker: Worker | None = None

    def keep(self, key: str, value: float | None) -> None:
        """Append a measurement; None (not known on this system) is left out."""
        if value is not None:
            self.figures.setdefault(key, []).append(value)


def in_turn(engines: list[Engine], round_number: int) -> list[Engine]:
    """Return the engines, each round starting with another one."""
    first = round_number % len(engines)
    return engines[first:] + engines[:first]


def measure_starts(engines: list[Engine], folder: Path, rounds: int) -> None:
    """Start each engine some times; the last process of each stays for the texts."""
    for number in range(rounds):
        for engine in in_turn(engines, number):
            if engine.worker is not None:
                engine.worker.close()
            engine.worker = Worker(
                engine.title, engine.python, "engine_worker.py", engine.options, folder
            )
            figures = engine.worker.started
            engine.keep("import", figures["import_s"])
            engine.keep("load", figures["load_s"])
            engine.keep("start", figures["import_s"] + figures["load_s"])


def measure_texts(engines: list[Engine], names: list[str], rounds: int) -> None:
    """Let all engines speak each text, after one unmeasured run of the short one."""
    for engine in engines:
        assert engine.worker is not None
        engine.worker.ask(text=SHORT, seed=0, output=None)
    for name in names:
        for number in range(rounds):
            lengths = {}
            for engine in in_turn(engines, number):
                assert engine.worker is not None
                figures = engine.worker.ask(text=TEXTS[name], seed=number, output=None)
                seconds = figures["samples"] / SAMPLE_RATE
                lengths[engine.title] = figures["samples"]
                engine.keep(f"audio {name}", seconds)
                engine.keep(f"speed {name}", seconds / figures["wall_s"])
                engine.keep(f"first {name}", 1000 * figures["first_s"])
                engine.keep(f"cpu {name}", figures["cpu_s"] / seconds)
                engine.keep(f"peak {name}", figures["peak_mb"])
                engine.keep("process peak", figures["process_peak_mb"])
            if len(set(lengths.values())) > 1:
                raise SystemExit(
                    f"the engines made different numbers of samples of the {name} text: {lengths}; "
                    "use a model made with --no-eos"
                )


def measure_commands(engines: list[Engine], folder: Path, runs: int, scratch: Path) -> None:
    """Run the command line tools in turn, as whole processes."""
    for number in range(runs):
        for engine in in_turn(engines, number):
            wall, cpu = run_command(engine, folder, scratch / "hyperfine.json")
            engine.keep("command", wall)
            engine.keep("command cpu", cpu)


def run_command(engine: Engine, folder: Path, report: Path) -> tuple[float, float]:
    """Run a command line tool once, under hyperfine (which writes `report`) when there is one.

    Returns
    -------
    wall, cpu : float
        Seconds.
    """
    hyperfine = shutil.which("hyperfine")
    if hyperfine is None:
        before, begin = os.times(), time.perf_counter()
        result = subprocess.run(engine.command, cwd=folder, capture_output=True, text=True)
        wall, after = time.perf_counter() - begin, os.times()
        cpu = after.children_user + after.children_system
        cpu -= before.children_user + before.children_system
    else:
        result = subprocess.run(
            [
                *(hyperfine, "--shell=none", "--runs=1", "--style=none"),
                *(f"--export-json={report}", shlex.join(engine.command)),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if result.returncode == 0:
            times = json.loads(report.read_text())["results"][0]
            wall, cpu = times["mean"], times["user"] + times["system"]
    if result.returncode != 0:
        raise SystemExit(f"{shlex.join(engine.command)} failed: {result.stderr.strip()[-500:]}")
    return wall, cpu


def make_engines(arguments: dict[str, Any], output: Path) -> list[Engine]:
    """Return the engines to compare, the reference first."""
    engines = []
    common = {"config": CONFIG, "voice": VOICE}
    oracle = arguments["--oracle-python"]
    if oracle:
        if not Path(oracle).is_file():
            raise SystemExit(f"--oracle-python: there is no interpreter {oracle}")
        # The link, not what it points to: that is what makes it a virtual environment's.
        python = str(Path(oracle).absolute())
        command = [
            *(str(Path(python).parent / "pocket-tts"), "generate", "--quiet"),
            *("--config", CONFIG, "--voice", VOICE),
            *("--text", SHORT, "--output-path", str(output)),
        ]
        engines.append(Engine(REFERENCE, python, common | {"package": "pocket_tts"}, command))
    threads = arguments["--threads"]
    for title in words(arguments["--precision"]):
        precision, _, way = title.partition("+")
        if way not in ("", "1thread", "together"):
            raise SystemExit(f"unknown way {way!r} in {title!r}; choose 1thread or together")
        options: dict[str, Any] = common | {"package": "pocket_tts_cy", "precision": precision}
        options["together"] = way == "together"
        options["threads"] = 1 if way == "1thread" else int(threads) if threads else None
        command = [
            *(sys.executable, "-m", "pocket_tts_cy", "--quiet", "--precision", precision),
            *("--config", CONFIG, "--voice", VOICE),
            *(["--threads", threads] if threads else []),
            *(SHORT, str(output)),
        ]
        engines.append(Engine(title, sys.executable, options, command))
    return engines


def words(values: list[str]) -> list[str]:
    """Split the values of a repeatable option, given one by one or in one string."""
    return [word for value in values for word in value.split()]


def rows(names: list[str]) -> list[Row]:
    """Return the lines of the table."""
    return [
        *(Row(f"times real time, {name} text", f"speed {name}", 2, True) for name in names),
        *(Row(f"first audio, {name} text (ms)", f"first {name}", 0) for name in names),
        *(Row(f"CPU s per s of audio, {name} text", f"cpu {name}", 3) for name in names),
        *(
            Row(f"peak memory while speaking, {name} text (MB)", f"peak {name}", 0)
            for name in names
        ),
        Row("peak memory of the process (MB)", "process peak", 0),
        Row("import (s)", "import", 2),
        Row("load model and voice (s)", "load", 2),
        Row("import and load (s)", "start", 2),
        Row("command line tool, short text, whole process (s)", "command", 2),
        Row("command line tool, CPU (s)", "command cpu", 2),
    ]


def ratio(row: Row, engine: Engine, reference: Engine) -> float:
    """Return how many times better `engine` is: the median of the ratios of each round."""
    pairs = zip(engine.figures[row.key], reference.figures[row.key], strict=True)
    ratios = [a / b if row.more_is_better else b / a for a, b in pairs]
    return statistics.median(ratios)


def table(engines: list[Engine], names: list[str]) -> str:
    """Format the results as a Markdown table."""
    reference = engines[0] if engines[0].title == REFERENCE else None
    titles = ["median of the rounds"]
    for engine in engines:
        titles.append(engine.title)
        if reference is not None and engine is not reference:
            titles.append("ratio")
    lines = ["| " + " | ".join(titles) + " |", "|---" + "|---:" * (len(titles) - 1) + "|"]
    for row in rows(names):
        if not all(row.key in engine.figures for engine in engines):
            continue
        cells = [row.title]
        for engine in engines:
            cells.append(f"{statistics.median(engine.figures[row.key]):.{row.digits}f}")
            if reference is not None and engine is not reference:
                cells.append(f"{ratio(row, engine, reference):.1f}x")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine() -> str:
    """Describe the machine in one line."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {usable} usable cores, {platform.system()} {platform.machine()}"


def load_average() -> str:
    """Return how busy the machine has been in the last minute, as text."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


@contextlib.contextmanager
def model_folder(given: str | None) -> Iterator[Path]:
    """Yield the model folder, made for the occasion when none is given."""
    if given is not None:
        folder = Path(given).resolve()
        for name in (CONFIG, VOICE):
            if not (folder / name).is_file():
                raise SystemExit(f"{folder} has no {name}; make it with make_random_model.py")
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="pocket-tts-benchmark-") as name:
        folder = Path(name) / "english"
        command = [sys.executable, str(SCRIPTS / "make_random_model.py"), "english", str(folder)]
        subprocess.run([*command, "--no-eos"], check=True, stdout=sys.stderr)
        yield folder


def positive(arguments: dict[str, Any], option: str, least: int) -> int:
    """Return a whole-number option."""
    value = arguments[option]
    if not value.isdecimal() or int(value) < least:
        raise SystemExit(f"{option} should be a whole number of at least {least}, not {value!r}")
    return int(value)


def main() -> None:
    """Run the command line."""
    arguments = docopt(__doc__)
    rounds = positive(arguments, "--rounds", 1)
    starts = positive(arguments, "--starts", 1)
    runs = positive(arguments, "--command-runs", 0)
    if arguments["--threads"] is not None:
        positive(arguments, "--threads", 1)
    names = words(arguments["--text"])
    for name in names:
        if name not in TEXTS:
            raise SystemExit(f"--text should be one of {', '.join(TEXTS)}, not {name!r}")
    with (
        model_folder(arguments["MODEL"]) as folder,
        tempfile.TemporaryDirectory(prefix="pocket-tts-benchmark-") as scratch,
    ):
        engines = make_engines(arguments, Path(scratch) / "speech.wav")
        before = load_average()
        try:
            measure_starts(engines, folder, starts)
            measure_texts(engines, names, rounds)
        finally:
            for engine in engines:
                if engine.worker is not None:
                    engine.worker.close()
        measure_commands(engines, folder, runs, Path(scratch))
    print(f"{machine()}; load average before {before}, after {load_average()}.")
    print(f"{rounds} rounds per text, {starts} starts, {runs} runs of the command line tools.")
    lengths = (f"{name} {engines[0].figures[f'audio {name}'][0]:.1f} s" for name in names)
    print(f"Audio: {', '.join(lengths)}.\n")
    print(table(engines, names))
    if arguments["--json"]:
        content = {"machine": machine(), "engines": {e.title: e.figures for e in engines}}
        with replacing_file(arguments["--json"]) as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
