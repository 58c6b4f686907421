"""What the benchmarks share: models, engines, and skipping what a version does not have.

The suite is imported by every version of the package that is measured, old ones included, so the
package is only touched in ``setup``, and a benchmark of something a version lacks is skipped.

asv calls ``setup`` before every timed call; what is expensive is therefore made once per process.
"""

import functools
import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from asv_runner.benchmarks.mark import SkipNotImplemented

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE.parent.parent / "scripts"
#: Inside asv's own folder, which git ignores.
MODELS = HERE.parent / "env" / "models"

PRECISIONS = ["float32", "bfloat16", "int8", "int4"]
THREADS = [1, 2]

# Not the user's own cache of packed weights; processes started from here inherit it.
os.environ["POCKET_TTS_CY_CACHE"] = str(MODELS.parent / "packed")

# The texts are those of the working tree, whatever version is measured.
sys.path.append(str(SCRIPTS))
from benchmark_texts import TEXTS  # noqa: E402, F401


def optional(module: str, *names: str) -> list[Any]:
    """Attributes of a module of the package; skips the benchmark when one does not exist.

    Parameters
    ----------
    module : str
        Such as "_engine"; "" for the package itself.
    *names : str
        Attributes of the module.

    Returns
    -------
    list
        The attributes, in order.
    """
    full_name = f"pocket_tts_cy.{module}".rstrip(".")
    try:
        found = importlib.import_module(full_name)
        return [getattr(found, name) for name in names]
    except (ImportError, AttributeError) as error:
        raise SkipNotImplemented(f"not in this version: {error}") from None


def need_precision(name: str) -> None:
    """Skip a benchmark of a precision that this version does not have."""
    (precisions,) = optional("model", "PRECISIONS")
    if name not in precisions:
        raise SkipNotImplemented(f"not in this version: precision {name}")


def from_engine(name: str) -> Any:
    """A class of the compiled engine, through the module that sets its waiting policy if any."""
    module = "engine" if importlib.util.find_spec("pocket_tts_cy.engine") else "_engine"
    (found,) = optional(module, name)
    return found


def need_threads(count: int) -> None:
    """Skip a benchmark that wants more threads than this machine gives."""
    (usable_cpus,) = optional("threads", "usable_cpus")
    if count > usable_cpus():
        raise SkipNotImplemented(f"{count} threads need {count} processors")


def random_english_model() -> str | None:
    """Folder of a full-size English model with random bfloat16 weights, made when it is missing.

    The model never ends by itself, so a text always gives the same number of frames.

    Returns
    -------
    str or None
        None when this version cannot make one.
    """
    folder = MODELS / "english_bf16_no_eos"
    if not (folder / "config.yaml").is_file():
        command = [
            sys.executable,
            str(SCRIPTS / "make_random_model.py"),
            "--dtype=bf16",
            "--no-eos",
            "english",
            str(folder),
        ]
        if subprocess.run(command, check=False).returncode != 0:
            return None
    return str(folder)


class EnglishModel:
    """Base of benchmarks of the full-size model; ``setup`` gets its folder first."""

    def setup_cache(self) -> str | None:
        """Make the model once; asv passes the folder on."""
        return random_english_model()

    setup_cache.timeout = 600


@functools.lru_cache(maxsize=1)
def engine(folder: str | None, precision: str) -> Any:
    """The engine of a model folder."""
    if folder is None:
        raise SkipNotImplemented("this version cannot make the random model")
    (load_config,) = optional("config", "load_config")
    (load_weights,) = optional("weights", "load_weights")
    need_precision(precision)
    make_engine = from_engine("Engine")
    path = Path(folder)
    config = load_config(path / "config.yaml")
    return make_engine(config, load_weights(config, path).tensors, precision)


@functools.lru_cache(maxsize=1)
def speaker(folder: str | None, precision: str, threads: int) -> SimpleNamespace:
    """A loaded model of a folder and its random voice, as ``.model`` and ``.voice``."""
    if folder is None:
        raise SkipNotImplemented("this version cannot make the random model")
    need_precision(precision)
    (tts_model,) = optional("", "TTSModel")
    model = tts_model.load_model(
        config=Path(folder, "config.yaml"), precision=precision, num_threads=threads
    )
    voice = model.get_state_for_audio_prompt(Path(folder, "voices", "random.safetensors"))
    return SimpleNamespace(model=model, voice=voice)
