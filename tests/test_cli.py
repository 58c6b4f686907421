"""The command line: what it accepts, what it writes, how it fails."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest

from pocket_tts_cy import __version__, cli

# Every chunk of text ends at the first step that may end it: short, and repeatable.
BRIEF = ("--eos-threshold", "-1e9", "--frames-after-eos", "1", "--seed", "3")
BRIEF_FRAMES = 7


def run(
    *arguments: str, folder: Path, stdin: bytes = b"", **options: object
) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, with nothing downloaded and no network."""
    return subprocess.run(
        [sys.executable, "-m", "pocket_tts_cy", *arguments],
        cwd=folder,
        input=stdin,
        capture_output=True,
        timeout=120,
        env=environment(folder),
        **options,  # type: ignore[arg-type]
    )


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}


def read_wav(source: Path | bytes) -> np.ndarray:
    file = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    with wave.open(file) as wav:
        assert (wav.getnchannels(), wav.getsampwidth(), wav.getframerate()) == (1, 2, 24000)
        return np.frombuffer(wav.readframes(wav.getnframes()), dtype="<i2")


def assert_one_error(result: subprocess.CompletedProcess[bytes], words: str, status: int = 1):
    lines = result.stderr.decode().splitlines()
    assert result.returncode == status, lines
    assert lines[0].startswith("pocket-tts-cy: error: ")
    assert re.search(words, lines[0]), lines[0]
    assert len(lines) == (2 if status == cli.USAGE else 1), lines
    assert result.stdout == b""


# -- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "<text> <output>"),
        (["only a text"], "<text> <output>"),
        (["a", "b", "c"], "<text> <output>"),
        (["--voise", "x", "a", "b"], "--voise.*did you mean --voice"),
        (["--t", "1", "a", "b"], "--t may mean"),
        (["-x", "a", "b"], "-x"),
        (["-5 degrees", "b"], 'put "--" before'),
        (["a", "b", "--seed"], "--seed needs a value"),
        (["a", "b", "--seed", "1.5"], "--seed.*'1.5'"),
        (["a", "b", "--seed", "one"], "--seed.*'one'"),
        (["a", "b", "--temperature", "nan"], "--temperature.*'nan'"),
        (["a", "b", "--temperature", "-0.1"], "--temperature.*at least 0"),
        (["a", "b", "--temperature", "warm"], "--temperature.*'warm'"),
        (["a", "b", "--noise-clamp", "-1"], "--noise-clamp"),
        (["a", "b", "--eos-threshold", "inf"], "--eos-threshold"),
        (["a", "b", "--sampler-decode-steps", "0"], "--sampler-decode-steps.*at least 1"),
        (["a", "b", "--max-tokens", "0"], "--max-tokens"),
        (["a", "b", "--frames-after-eos", "-1"], "--frames-after-eos"),
        (["a", "b", "--threads", "0"], "--threads"),
        (["a", "b", "--language", "english", "--config", "x.yaml"], "not both"),
        (["a", ""], "output"),
        (["generate", "--device", "cuda"], "--device"),
        (["generate", "--text", "a", "out.wav"], "<text> <output>"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == cli.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = captured.err.splitlines()
    assert re.fullmatch(f"pocket-tts-cy: error: .*{words}.*", first), first
    assert "--help" in second


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["hi", "o.wav"], {"<text>": "hi", "<output>": "o.wav", "generate": False}),
        (["-", "-"], {"<text>": "-", "<output>": "-"}),
        (["--", "-5 degrees", "o.wav"], {"<text>": "-5 degrees"}),
        (["--", "--help", "o.wav"], {"<text>": "--help", "--help": False}),
        (["-5", "o.wav"], {"<text>": "-5"}),
        (["generate", "o.wav"], {"<text>": "generate", "generate": False}),
        (["--", "generate", "o.wav"], {"<text>": "generate", "generate": False}),
        (["generate"], {"generate": True, "--text": None, "--output-path": None}),
        (
            ["generate", "--text", "-1", "--output-path=x", "-q", "--device", "cpu"],
            {"generate": True, "--text": "-1", "--output-path": "x", "--quiet": True},
        ),
        (["generate", "--lsd-decode-steps", "2"], {"--lsd-decode-steps": "2"}),
        (["hi", "o.wav", "--eos-threshold", "-4"], {"--eos-threshold": "-4"}),
        (["--eos-threshold=-4", "hi", "o.wav"], {"--eos-threshold": "-4"}),
        (["--lang", "french", "hi", "o.wav"], {"--language": "french"}),
        (["--list-voices", "--language", "french"], {"--list-voices": True}),
    ],
)
def test_accepted_forms(arguments: list[str], expected: dict[str, object]) -> None:
    options = cli._parse(arguments)
    assert {name: options[name] for name in expected} == expected


def test_help_is_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == cli.OK
    text = capsys.readouterr().out
    assert text.strip() == (cli.__doc__ or "").strip()
    assert "lsd" not in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_version_and_help_do_not_load_numpy(argument: str, tmp_path: Path) -> None:
    code = (
        "import sys; from pocket_tts_cy.cli import main; "
        f"status = main([{argument!r}]); "
        "sys.exit(status or ('numpy' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0
    if argument == "--version":
        assert done.stdout == f"pocket-tts-cy {__version__}\n"


def test_voices_of_all_models_and_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--list-voices"]) == cli.OK
    names = capsys.readouterr().out.split()
    assert {"heart", "alba", "estelle"} < set(names)
    assert cli.main(["--list-voices", "--language", "embedded"]) == cli.OK
    assert capsys.readouterr().out == "heart\n"
    assert cli.main(["--list-voices", "--language", "french_24l"]) == cli.OK
    french = capsys.readouterr().out.splitlines()
    assert french[0] == "estelle"
    assert len(french) == len(set(french)) == 27
    assert cli.main(["--list-voices", "--language", "klingon"]) == cli.ERROR
    assert "'klingon'" in capsys.readouterr().err


def test_info_names_what_is_there(tmp_path: Path) -> None:
    result = run("--info", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    text = result.stdout.decode()
    assert re.search(rf"^pocket-tts-cy +{re.escape(__version__)}$", text, re.MULTILINE)
    available = re.search(r"^Instruction sets +(.+)$", text, re.MULTILINE)
    active = re.search(r"^In use +(\w+)$", text, re.MULTILINE)
    assert available
    assert active
    assert active[1] in available[1].split(", ")
    for name in ("Python", "NumPy", "BLAS", "OpenMP", "Threads", "Embedded model"):
        assert re.search(rf"^{name} +\S", text, re.MULTILINE), name
    assert re.search(r"^  total +[\d.]+ MiB$", text, re.MULTILINE)


# -- speech ---------------------------------------------------------------------------------------


def test_speaks_with_the_embedded_voice(tmp_path: Path) -> None:
    result = run("Hello world.", "out.wav", "--seed", "1", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    samples = read_wav(tmp_path / "out.wav")
    assert 0.5 < len(samples) / 24000 < 4
    assert np.sqrt(np.mean(np.square(samples.astype(float)))) > 300
    # 200 ms of silence at the end.
    assert not samples[-4800:].any()
    which, summary = result.stderr.decode().splitlines()
    assert "--language english" in which
    assert re.fullmatch(
        r"pocket-tts-cy: [\d.]+ s of audio in [\d.]+ s, [\d.]+ times real time, "
        r"first chunk after \d+ ms, loading [\d.]+ s, peak memory \d+ MB",
        summary,
    )
    assert [path.name for path in tmp_path.glob("*.*")] == ["out.wav"]


def test_quiet_means_silent_and_seed_means_repeatable(tmp_path: Path) -> None:
    first = run("-q", "One two.", "-", *BRIEF, folder=tmp_path)
    assert first.returncode == 0
    assert first.stderr == b""
    second = run("-q", "One two.", "b.wav", *BRIEF, folder=tmp_path)
    assert second.stdout == b""
    header = 44
    pcm = np.frombuffer(first.stdout[header:], dtype="<i2")
    assert len(pcm) == BRIEF_FRAMES * 1920 + 4800
    np.testing.assert_array_equal(pcm, read_wav(tmp_path / "b.wav"))


def test_the_form_of_pocket_tts(tmp_path: Path) -> None:
    arguments = ("generate", "--text", "One two.", "--voice", "heart", "-q", *BRIEF)
    result = run(*arguments, "--output-path", "x.wav", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(read_wav(tmp_path / "x.wav")) == BRIEF_FRAMES * 1920 + 4800
    result = run("generate", "--language", "embedded", *BRIEF, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(read_wav(tmp_path / "tts_output.wav")) > BRIEF_FRAMES * 1920


@pytest.mark.parametrize("stdin", [b"One two.", b"\xef\xbb\xbfOne two.\r\n", b"One \xff\xfe two."])
def test_text_from_standard_input(stdin: bytes, tmp_path: Path) -> None:
    result = run("-", "o.wav", "-q", *BRIEF, folder=tmp_path, stdin=stdin)
    assert result.returncode == 0, result.stderr
    direct = run("One two.", "p.wav", "-q", *BRIEF, folder=tmp_path)
    assert direct.returncode == 0
    assert (tmp_path / "o.wav").read_bytes() == (tmp_path / "p.wav").read_bytes()


def test_a_hundred_kilobytes(tmp_path: Path) -> None:
    sentence = "The quick brown fox jumps over the lazy dog, and then it sleeps. "
    text = (sentence * 1600).encode()
    assert len(text) > 100_000
    # A random model, small enough to be done in seconds.
    folder = Path(__file__).parent / "data" / "models" / "lsd_grouped"
    model = ("--config", str(folder / "config.yaml"), "--voice", str(folder / "voice.safetensors"))
    result = run("-", "o.wav", *model, *BRIEF, folder=tmp_path, stdin=text)
    assert result.returncode == 0, result.stderr
    frames, rest = divmod(len(read_wav(tmp_path / "o.wav")) - 4800, 1920)
    assert rest == 0
    assert frames % BRIEF_FRAMES == 0
    assert frames >= 1000 * BRIEF_FRAMES
    # Not a terminal, so no progress bar but the summary alone.
    assert len(result.stderr.splitlines()) == 1


def test_first_chunk_only(tmp_path: Path) -> None:
    result = run("Hello world.", "o.wav", "--measure-first-chunk", "-q", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(
        r"pocket-tts-cy: first chunk after [\d.]+ ms, \d+ ms after the start of the program\n",
        result.stderr.decode(),
    )
    assert len(read_wav(tmp_path / "o.wav")) == 1920 + 4800


@pytest.mark.parametrize("text", ["", "  \n ", "🎉🎊", "...", "\u200b"])
def test_nothing_to_say(text: str, tmp_path: Path) -> None:
    for arguments, stdin in (((text,), b""), (("-",), text.encode())):
        result = run(*arguments, "o.wav", folder=tmp_path, stdin=stdin)
        assert_one_error(result, "text")
    assert not list(tmp_path.glob("*.wav"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--language", "klingon"], "klingon"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--config", "bad.yaml"], "bad.yaml"),
        (["--config", "notes.txt"], "notes.txt"),
        (["--language", "embedded", "--voice", "alba"], "alba"),
        (["--language", "embedded", "--voice", "nobody"], "nobody"),
        (["--language", "embedded", "--voice", "bad.safetensors"], "bad.safetensors"),
        (["--language", "embedded", "--precision", "int3"], "int3"),
        (["--language", "embedded", "--quantize", "--precision", "float32"], "contradict"),
        (["--language", "embedded", "--checkpoint", "a.pt"], "not available"),
        (["--language", "embedded", "--seed", "99999999999999999999"], "seed"),
        (["--language", "french"], "embedded"),
    ],
)
def test_what_cannot_be_used_is_named(arguments: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("weights: [\n")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 40)
    (tmp_path / "o.wav").write_bytes(b"precious")
    assert_one_error(run("Hello.", "o.wav", *arguments, folder=tmp_path), words)
    assert (tmp_path / "o.wav").read_bytes() == b"precious"


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    arguments = ("Hello.", "--language", "embedded")
    assert_one_error(run(*arguments, "none/o.wav", folder=tmp_path), "none/o.wav")
    assert_one_error(run(*arguments, "folder", folder=tmp_path), "folder")
    if Path("/dev/full").exists():
        assert_one_error(run(*arguments, "/dev/full", folder=tmp_path), "/dev/full.*space")


def test_reader_of_a_pipe_that_goes_away(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pocket_tts_cy", "-", "-", "--language", "embedded", "-q"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    process.stdin.write(b"This goes on and on, sentence after sentence. " * 200)
    process.stdin.close()
    assert process.stdout.read(4) == b"RIFF"
    process.stdout.close()
    assert process.wait(timeout=60) == cli.PIPE_CLOSED
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, cli.INTERRUPTED), (signal.SIGTERM, 143)]
)
def test_interrupted_in_the_middle(number: int, status: int, tmp_path: Path) -> None:
    text = "This goes on and on, sentence after sentence. " * 2000
    process = subprocess.Popen(
        [sys.executable, "-m", "pocket_tts_cy", "-", "o.wav", "--language", "embedded", "-q"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    )
    assert process.stdin
    assert process.stderr
    process.stdin.write(text.encode())
    process.stdin.close()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".*.part")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=60) == status
    assert process.stderr.read() == b""
    process.stderr.close()
    assert not list(tmp_path.glob("*.wav"))
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.skipif(os.name != "posix", reason="terminals of POSIX")
def test_progress_bar_on_a_terminal(tmp_path: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    text = "One sentence here. Another sentence there. A third one. And a fourth one. " * 4
    process = subprocess.Popen(
        [sys.executable, "-m", "pocket_tts_cy", text, "o.wav", "--max-tokens", "12", *BRIEF],
        cwd=tmp_path,
        stdout=child,
        stderr=child,
        env=environment(tmp_path),
    )
    os.close(child)
    shown = b""
    while True:
        try:
            part = os.read(parent, 4096)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(parent)
    assert process.wait(timeout=60) == 0
    assert b"characters" in shown
    assert b"times real time" in shown.splitlines()[-1]


def test_binary_audio_is_not_poured_over_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_is_terminal", lambda stream: True)
    assert cli.main(["Hello.", "-"]) == cli.ERROR
    assert "terminal" in capsys.readouterr().err


# -- which model ----------------------------------------------------------------------------------


def test_english_is_the_default_once_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import pocket_tts_cy.download as download

    asked: list[str] = []

    def is_cached(reference: str) -> bool:
        asked.append(str(reference))
        return True

    monkeypatch.setattr(download, "is_cached", is_cached)
    assert cli._default_language(None) == "english"
    assert any("alba" in reference for reference in asked)
    assert cli._default_language("heart") == "embedded"
    monkeypatch.setattr(download, "is_cached", lambda reference: "alba" not in str(reference))
    assert cli._default_language(None) == "embedded"
    assert cli._default_language("mine.safetensors") == "english"
    monkeypatch.setattr(download, "is_cached", lambda reference: False)
    assert cli._default_language(None) == "embedded"
