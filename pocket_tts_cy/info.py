"""What this installation can do on this machine: ``pocket-tts-cy --info``."""

from __future__ import annotations

import os
import platform

from ._version import __version__
from .threads import THREADS_VARIABLE, team_size, usable_cpus


def describe() -> str:
    """Version, instruction sets, threads, libraries and the memory plan of the embedded model.

    Returns
    -------
    str
        Lines of text without a final newline.

    Raises
    ------
    ImportError
        The compiled engine cannot be loaded; the message says why.
    """
    import numpy

    from .engine import isa_active, isa_available, max_threads, openmp_enabled
    from .model import TTSModel
    from .packed_cache import cache_folder, cached_files

    openmp = f"on, up to {max_threads()} threads" if openmp_enabled() else "off: one thread only"
    variable = os.environ.get(THREADS_VARIABLE)
    setting = "" if variable is None else f" ({THREADS_VARIABLE}={variable})"
    model = TTSModel.load_model(language="embedded")
    report = model.memory_report()
    packed = sum(size for _, size in cached_files())
    lines = [
        ("pocket-tts-cy", __version__),
        ("Python", f"{platform.python_version()} ({platform.python_implementation()})"),
        ("Platform", f"{platform.system()} {platform.machine()}"),
        ("NumPy", numpy.__version__),
        ("BLAS", _scipy_blas()),
        ("Instruction sets", ", ".join(isa_available())),
        ("In use", isa_active()),
        ("OpenMP", openmp),
        ("Threads", f"{team_size()} of {usable_cpus()} usable processors{setting}"),
        ("Packed weights", f"{packed / 1e6:.0f} MB in {cache_folder()}"),
        ("Embedded model", f"{model.precision}, memory plan:"),
    ]
    width = max(len(name) for name, _ in lines)
    text = [f"{name:<{width}}  {value}" for name, value in lines]
    what_width = max(len(what) for what, _ in report)
    for what, size in [*report, ("total", sum(size for _, size in report))]:
        text.append(f"  {what:<{max(what_width, 5)}}  {_bytes(size):>10}")
    return "\n".join(text)


def _bytes(size: int) -> str:
    """A size for people."""
    if size < 1024:
        return f"{size} B"
    if size < 1024**2:
        return f"{size / 1024:.1f} KiB"
    return f"{size / 1024**2:.1f} MiB"


def _scipy_blas() -> str:
    """Name and version of the BLAS that SciPy was built with."""
    import scipy

    build = scipy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{build.get('name', 'unknown')} {build.get('version', '')} (SciPy {scipy.__version__})"
