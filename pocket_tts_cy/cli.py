"""Speak a text on the CPU.

Usage:
  pocket-tts-cy [options] [--] <text> <output>
  pocket-tts-cy generate [--text TEXT] [--output-path FILE] [--device DEVICE] [options]
  pocket-tts-cy --list-voices [options]
  pocket-tts-cy cache [--clear]
  pocket-tts-cy --info
  pocket-tts-cy --version
  pocket-tts-cy (-h | --help)

Arguments:
  <text>    What to say; "-" reads UTF-8 from standard input. Put "--" before a text that
            begins with a dash.
  <output>  WAV file to write (16 bit, mono); "-" writes to standard output.

The model and the voice:
  --language LANGUAGE       A released model, such as english or french_24l, downloaded on first
                            use; or embedded, the small English model inside this package. By
                            default english when it has been downloaded before, else embedded.
  --config FILE             Instead of a language: the YAML file of a model (path, https:// or
                            hf://owner/repository/path[@revision]).
  --voice VOICE             Name of a voice or a .safetensors voice state (path or URL). By
                            default the model's own; a model from --config has none.
  --list-voices             Print the names of the voices (of --language) and exit.

The speech:
  --temperature X           Variance of the noise, at least 0. By default the model's own.
  --sampler-decode-steps N  Steps of the flow head per frame [default: 1].
  --noise-clamp X           Largest magnitude of the noise. By default no limit.
  --eos-threshold X         Logit above which speech ends. By default the model's own.
  --frames-after-eos N      Frames of 80 ms after the end of speech was seen. By default the
                            model's own, or a guess from the number of words.
  --max-tokens N            Longest piece of text spoken in one go. By default the model's own.
  --seed N                  Makes the speech repeatable.
  --normalize               Spell out numbers, symbols and abbreviations first. The embedded
                            model does so always.

The computation:
  --precision PRECISION     How weights are held: bfloat16, float32, int8 or int4. By default
                            bfloat16 when the file holds it, which loses nothing. int8 and int4
                            are faster and smaller, and change the speech a little.
  --threads N               Threads to use. By default all usable processors, or the
                            environment variable POCKET_TTS_CY_THREADS.
  --no-cache                Pack the weights in memory; neither use nor fill the cache on disk.
  --measure-first-chunk     Stop after the first chunk of audio and print how long it took; the
                            output holds only that chunk.

Others:
  --clear                   With "cache", which shows the packed weights kept on disk: remove them.
  -q, --quiet               No summary, progress bar or notice, only errors.
  --info                    Print version, instruction sets, threads, libraries and memory plan.
  --version                 Print the version.
  -h, --help                Print this text.

For scripts written for pocket-tts (the form that begins with "generate"):
  --text TEXT               What to say; "-" for standard input. A sample text by default.
  --output-path FILE        As <output>. By default ./tts_output.wav.
  --device DEVICE           Only cpu.
  --quantize                8-bit weights: the same as --precision int8.
  --checkpoint FILE         A training checkpoint: not available in this version.

At the end one line with duration, time and memory goes to standard error, and on a terminal a
progress bar before it when the text is long. Exit status: 0 done, 1 error, 2 wrong usage,
130 interrupted, 141 nobody reads standard output any more.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ._version import __version__
from .errors import PocketTTSError

if TYPE_CHECKING:
    import numpy as np

    from .model import TTSModel
    from .pipeline import Generation
    from .text import Chunk
    from .together import TogetherGeneration

PROGRAM = "pocket-tts-cy"

OK, ERROR, USAGE, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141

# Accepted but not advertised, as in pocket-tts.
_HIDDEN_OPTIONS = "  --lsd-decode-steps N\n"
_DEFAULT_OUTPUT = "./tts_output.wav"
# Fewer text chunks than this are over before a progress bar can be read.
_CHUNKS_FOR_PROGRESS = 4

_started = time.perf_counter()


class UsageError(Exception):
    """The command line does not make sense."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        Exit status, see the module's docstring.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _exit_on_terminate()
    try:
        return _run(arguments)
    except UsageError as error:
        _say(f"error: {error}")
        _say(f"see {PROGRAM} --help")
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return PIPE_CLOSED
    except MemoryError:
        _say("error: not enough memory")
        return ERROR
    except OSError as error:
        _say(f"error: {_os_error_text(error)}")
        return ERROR
    except (PocketTTSError, ValueError, ImportError) as error:
        _say(f"error: {error}")
        return ERROR


def _run(argv: list[str]) -> int:
    before_dashes = argv[: argv.index("--")] if "--" in argv else argv
    if "-h" in before_dashes or "--help" in before_dashes:
        _print(__doc__.strip())
        return OK
    options = _parse(argv)
    if options["--version"]:
        _print(f"{PROGRAM} {__version__}")
    elif options["--info"]:
        from .info import describe

        _print(describe())
    elif options["cache"]:
        _print(_cache_line(clear=options["--clear"]))
    elif options["--list-voices"]:
        _print("\n".join(_voice_lines(options["--language"])))
    else:
        _speak(options)
    return OK


def _cache_line(*, clear: bool) -> str:
    """What the cache of packed weights holds, or what clearing it freed."""
    from .packed_cache import cache_folder, cached_files, clear_cache

    if clear:
        return f"{clear_cache() / 1e6:.0f} MB freed in {cache_folder()}"
    files = cached_files()
    size = sum(size for _, size in files)
    return f"{len(files)} packed models, {size / 1e6:.0f} MB, in {cache_folder()}"


def _parse(argv: list[str]) -> dict[str, Any]:
    """Options and arguments by their names in the usage text."""
    from docopt import DocoptExit, docopt

    _refuse_unknown_options(argv)
    try:
        return docopt(__doc__ + "\n" + _HIDDEN_OPTIONS, argv, default_help=False)
    except DocoptExit as error:
        reason = str(error).splitlines()[0]
        if "requires argument" in reason:
            raise UsageError(reason.replace("requires argument", "needs a value")) from None
        raise UsageError(
            f'expected "{PROGRAM} [options] <text> <output>"; quote a text of several words, and '
            'put "--" before one that begins with a dash'
        ) from None


def _refuse_unknown_options(argv: list[str]) -> None:
    """Name the first option that does not exist; docopt only says that something is wrong."""
    described = re.findall(
        r"^  (?:(-\w), )?(--[\w-]+)( [A-Z]+)?", __doc__ + "\n" + _HIDDEN_OPTIONS, re.MULTILINE
    )
    takes_value = {name: bool(value) for _, name, value in described}
    takes_value.update({short: bool(value) for short, _, value in described if short})
    rest = iter(argv)
    for argument in rest:
        if argument == "--":
            return
        if not argument.startswith("-") or argument == "-" or _is_number(argument):
            continue
        name, equals, _ = argument.partition("=")
        matches = [name] if name in takes_value else [k for k in takes_value if k.startswith(name)]
        if name == "-" or not matches:
            import difflib

            close = difflib.get_close_matches(name, takes_value, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            if " " in name:
                hint = '; put "--" before a text that begins with a dash'
            raise UsageError(f"there is no option {name}{hint}")
        if len(matches) > 1:
            raise UsageError(f"{name} may mean {' or '.join(matches)}")
        if takes_value[matches[0]] and not equals:
            next(rest, None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# -- speaking -------------------------------------------------------------------------------------


def _speak(options: dict[str, Any]) -> None:
    """Everything from the options to the finished file."""
    quiet = options["--quiet"]
    _configure_logging(quiet)
    settings = _load_settings(options)
    max_tokens = _whole(options, "--max-tokens", 1)
    frames_after_eos = _whole(options, "--frames-after-eos", 0)
    seed = _whole(options, "--seed", None)
    output = options["<output>"]
    if options["generate"]:
        output = options["--output-path"] or _DEFAULT_OUTPUT
    _check_output(output)
    text = _text(options)
    if text is not None:
        text = _speakable(text)

    if settings["language"] is None and settings["config"] is None:
        settings["language"] = _default_language(options["--voice"])
        if settings["language"] == "embedded" and not quiet:
            _say(
                "speaking with the small model inside this package; "
                "--language english downloads the larger one"
            )
    from .languages import default_text
    from .model import TTSModel

    model = TTSModel.load_model(**settings)
    if options["--voice"] is None and model.language is None:
        raise ValueError(
            "a model from --config has no voice of its own; give one with --voice "
            "(a .safetensors voice state made for this model)"
        )
    voice = model.get_state_for_audio_prompt(options["--voice"] or model.profile.default_voice)
    loaded = time.perf_counter()
    import threading

    generation, chunks = model._prepare(
        voice,
        default_text(settings["language"]) if text is None else text,
        max_tokens,
        frames_after_eos,
        True,
        threading.Event(),
        seed=seed,
        together=seed is None and output != "-",
        # Without the option the model decides.
        normalize=True if options["--normalize"] else None,
    )
    only_first = options["--measure-first-chunk"]
    show_progress = not quiet and not only_first and len(chunks) >= _CHUNKS_FOR_PROGRESS
    samples, first_chunk = _write(
        generation, chunks, model, output, only_first, show_progress and _is_terminal(sys.stderr)
    )
    finished = time.perf_counter()
    if only_first:
        _say(
            f"first chunk after {1000 * (first_chunk - loaded):.1f} ms, "
            f"{1000 * (first_chunk - _started):.0f} ms after the start of the program"
        )
    elif not quiet:
        _say(
            _summary(
                seconds=samples / model.sample_rate,
                load=loaded - _started,
                first_chunk=first_chunk - loaded,
                wall=finished - loaded,
            )
        )


def _load_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of TTSModel.load_model that the command line gives."""
    device = options["--device"]
    if device not in (None, "cpu"):
        raise UsageError(f"--device can only be cpu, not {device!r}")
    if options["--language"] is not None and options["--config"] is not None:
        raise UsageError("give either --language or --config, not both")
    settings: dict[str, Any] = {
        "language": options["--language"],
        "config": options["--config"],
        "temp": _real(options, "--temperature", 0.0),
        "sampler_decode_steps": _whole(options, "--sampler-decode-steps", 1),
        "noise_clamp": _real(options, "--noise-clamp", 0.0),
        "eos_threshold": _real(options, "--eos-threshold", None),
        "quantize": options["--quantize"],
        "checkpoint": options["--checkpoint"],
        "precision": options["--precision"],
        "use_cache": not options["--no-cache"],
        "num_threads": _whole(options, "--threads", 1),
    }
    steps = _whole(options, "--lsd-decode-steps", 1)
    if steps is not None:
        settings["lsd_decode_steps"] = steps
    return settings


def _whole(options: dict[str, Any], name: str, least: int | None) -> int | None:
    """A whole number, or None when the option was not given."""
    text = options[name]
    if text is None:
        return None
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", text) or (least is not None and int(text) < least):
        bound = "" if least is None else f" of at least {least}"
        raise UsageError(f"{name} should be a whole number{bound}, not {text!r}")
    return int(text)


def _real(options: dict[str, Any], name: str, least: float | None) -> float | None:
    """A finite number, or None when the option was not given."""
    text = options[name]
    if text is None:
        return None
    value = float(text) if _is_number(text) else math.nan
    if not math.isfinite(value) or (least is not None and value < least):
        bound = "" if least is None else f" of at least {least:g}"
        raise UsageError(f"{name} should be a number{bound}, not {text!r}")
    return value


def _text(options: dict[str, Any]) -> str | None:
    """The text as given, from standard input for "-"; None when the form allows to leave it out."""
    text = options["--text"] if options["generate"] else options["<text>"]
    if text != "-":
        return text
    if sys.stdin is None:
        raise ValueError("the text is to come from standard input, which is closed")
    # With "utf-8-sig" a byte order mark is not part of the text.
    return sys.stdin.buffer.read().decode("utf-8-sig", "replace")


def _speakable(text: str) -> str:
    """The text without what cannot be characters; ValueError when nothing is left to say."""
    # Bytes of an argument that are not UTF-8 arrive as lone surrogates.
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    text = text.replace("\ufffd", " ")
    if not text.strip():
        raise ValueError("the text is empty")
    if not any(character.isalnum() for character in text):
        raise ValueError("the text has nothing that can be spoken")
    return text


def _check_output(output: str) -> None:
    """Find out before the work begins that the output cannot be written."""
    if output == "-":
        if sys.stdout is None:
            raise ValueError("standard output is closed")
        if _is_terminal(sys.stdout):
            raise ValueError("standard output is a terminal; redirect it to a file or a player")
        return
    if not output:
        raise UsageError("the name of the output file is empty")
    folder = Path(output).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{output}: there is no folder {folder}")
    if Path(output).is_dir():
        raise IsADirectoryError(f"{output} is a folder; give the name of a file")
    if not os.access(Path(output) if Path(output).exists() else folder, os.W_OK):
        raise PermissionError(f"{output}: no permission to write there")


def _default_language(voice: str | None) -> str:
    """The model to use when none was chosen: english if nothing has to be downloaded for it."""
    from .config import CONFIG_DIR, load_config
    from .download import is_cached
    from .languages import (
        DEFAULT_LANGUAGE,
        EMBEDDED_LANGUAGE,
        EMBEDDED_VOICE,
        VOICE_ORIGINS,
        default_voice,
        predefined_voice_state,
    )

    if voice == EMBEDDED_VOICE:
        return EMBEDDED_LANGUAGE
    config = load_config(CONFIG_DIR / f"{DEFAULT_LANGUAGE}.yaml")
    weights = (config.weights_path, config.weights_path_without_voice_cloning)
    needed = [config.flow_lm.lookup_table.tokenizer_path]
    if voice is None or voice in VOICE_ORIGINS:
        name = voice or default_voice(DEFAULT_LANGUAGE)
        needed.append(predefined_voice_state(DEFAULT_LANGUAGE, name))
    complete = any(path is not None and is_cached(path) for path in weights)
    if complete and all(is_cached(path) for path in needed):
        return DEFAULT_LANGUAGE
    return EMBEDDED_LANGUAGE


def _write(
    generation: Generation | TogetherGeneration,
    chunks: list[Chunk],
    model: TTSModel,
    output: str,
    only_first: bool,
    show_progress: bool,
) -> tuple[int, float]:
    """Write the speech; returns the number of samples and the time of the first of them."""
    from .audio import WavWriter

    with closing(generation.audio()) as audio:
        # Nothing is written before there is something to write.
        _, first = next(audio)
        first_chunk = time.perf_counter()
        samples = len(first)
        with _naming(output), WavWriter(output, model.sample_rate) as writer:
            writer.write(first)
            _flush_stdout(output)
            if only_first:
                return samples, first_chunk
            rest = _with_progress(audio, chunks) if show_progress else audio
            for _, part in rest:
                writer.write(part)
                _flush_stdout(output)
                samples += len(part)
    return samples, first_chunk


@contextmanager
def _naming(output: str) -> Iterator[None]:
    """Let an error of writing, such as a full disk, say which file it was."""
    try:
        yield
    except OSError as error:
        if error.filename is None and output != "-":
            error.filename = output
        raise


def _with_progress(
    audio: Iterator[tuple[int, np.ndarray]], chunks: list[Chunk]
) -> Iterator[tuple[int, np.ndarray]]:
    """Pass audio through while a bar on standard error counts the characters that were spoken."""
    from tqdm import tqdm

    lengths = [len(chunk.text) for chunk in chunks]
    spoken = 0
    with tqdm(total=sum(lengths), unit=" characters", leave=False, file=sys.stderr) as bar:
        for number, part in audio:
            yield number, part
            bar.update(sum(lengths[spoken:number]))
            spoken = number


def _flush_stdout(output: str) -> None:
    """A player that reads the pipe gets each chunk at once."""
    if output == "-":
        sys.stdout.buffer.flush()


def _summary(*, seconds: float, load: float, first_chunk: float, wall: float) -> str:
    """The line at the end."""
    memory = _peak_memory()
    parts = [
        f"{seconds:.2f} s of audio in {wall:.2f} s",
        f"{seconds / wall:.1f} times real time",
        f"first chunk after {1000 * first_chunk:.0f} ms",
        f"loading {load:.2f} s",
    ]
    if memory is not None:
        parts.append(f"peak memory {memory / 1e6:.0f} MB")
    return ", ".join(parts)


def _peak_memory() -> int | None:
    """Largest resident size of this process so far in bytes, None where nobody tells."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# -- other commands -------------------------------------------------------------------------------


def _voice_lines(language: str | None) -> list[str]:
    """Names of the voices: of one model, one a line; or of all."""
    from .languages import (
        EMBEDDED_LANGUAGE,
        EMBEDDED_VOICE,
        VOICE_ORIGINS,
        default_voice,
        released_languages,
    )

    released = released_languages()
    if language == EMBEDDED_LANGUAGE:
        return [EMBEDDED_VOICE]
    if language is not None:
        if language not in released:
            known = ", ".join([EMBEDDED_LANGUAGE, *released])
            raise ValueError(f"there is no model for the language {language!r}; known: {known}")
        first = default_voice(language)
        return [first, *(name for name in sorted(VOICE_ORIGINS) if name != first)]
    return [
        "embedded model:",
        f"  {EMBEDDED_VOICE}",
        "released models:",
        *(f"  {name}" for name in sorted(VOICE_ORIGINS)),
    ]


# -- the process ----------------------------------------------------------------------------------


def _say(line: str) -> None:
    """One line for the person, on standard error."""
    if sys.stderr is not None:
        print(f"{PROGRAM}: {' '.join(line.split())}", file=sys.stderr)


def _print(text: str) -> None:
    """The result of a command, on standard output."""
    if sys.stdout is not None:
        print(text, flush=True)


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


def _configure_logging(quiet: bool) -> None:
    """Show warnings of the package as lines of this program."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{PROGRAM}: %(levelname)s: %(message)s"))
    logging.addLevelName(logging.WARNING, "warning")
    logging.addLevelName(logging.ERROR, "error")
    package = logging.getLogger(__package__)
    package.handlers = [handler]
    package.propagate = False
    package.setLevel(logging.ERROR if quiet else logging.WARNING)


def _exit_on_terminate() -> None:
    """Let a polite kill run the clean-up: no temporary file stays behind."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        return

    def leave(number: int, frame: object) -> NoReturn:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def _discard_stdout() -> None:
    """Let the interpreter flush what is left of standard output into nothing."""
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
    except (OSError, ValueError):
        pass


def _os_error_text(error: OSError) -> str:
    """A message without the error's number."""
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
