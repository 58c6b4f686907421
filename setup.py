"""Build: one static library of kernels per instruction set, and the Cython extensions.

Environment:
  POCKET_TTS_CY_DEBUG=1      bounds checks in Cython, assertions and symbols in C
  POCKET_TTS_CY_COVERAGE=1   line tracing in Cython, for coverage reports
  POCKET_TTS_CY_OPENMP=0     build without OpenMP
"""

import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("POCKET_TTS_CY_DEBUG") == "1"
COVERAGE = os.environ.get("POCKET_TTS_CY_COVERAGE") == "1"
MODULES = [
    "_kernels", "_openmp", "_arena", "_linear", "_attention", "_conv", "_transformer", "_flow_net",
    "_flow_lm", "_mimi", "_engine",
]  # fmt: skip

# Contraction is off: the kernels name every fused multiply-add themselves, so that all instruction
# sets round alike.
C_FLAGS = ["-std=c11", "-ffp-contract=off", "-fno-math-errno"]
C_FLAGS += ["-O1", "-g"] if DEBUG else ["-O3", "-g0"]
ISA_FLAGS = {
    "avx512_vnni": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mavx512vnni",
        "-mavx2",
        "-mfma",
    ],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"],
    "avx2": ["-mavx2", "-mfma"],
    "neon_dotprod": ["-march=armv8.2-a+dotprod"],
    "neon": [],
    # -O3 unrolls the emulated vectors for ten seconds of compilation and no gain that matters.
    "scalar": ["-O2"],
}


def compiler_command():
    """The C compiler that setuptools will use, as a list of words."""
    import sysconfig

    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def compiles(code, flags, link=False):
    """Whether a small C program compiles (and links) with the given flags."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text(code)
        command = [*compiler_command(), *flags, str(source), "-o", str(Path(folder, "probe"))]
        if not link:
            command.append("-c")
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            return False


def instruction_sets():
    """Names of the kernel tables that this compiler can build for this machine's architecture."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        candidates = ["avx512_vnni", "avx512", "avx2"]
    elif machine in ("aarch64", "arm64"):
        candidates = ["neon_dotprod", "neon"]
    else:
        candidates = []
    return [isa for isa in candidates if compiles("int x;", ISA_FLAGS[isa])] + ["scalar"]


def openmp_flags():
    """(compile, link) flags for OpenMP, empty with one warning when the compiler has none."""
    if os.environ.get("POCKET_TTS_CY_OPENMP") == "0":
        return [], []
    code = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
    candidates = [(["-fopenmp"], ["-fopenmp"])]
    if sys.platform == "darwin":
        candidates.append((["-Xpreprocessor", "-fopenmp"], ["-lomp"]))
    for compile_flags, link_flags in candidates:
        if compiles(code, [*compile_flags, *link_flags], link=True):
            return compile_flags, link_flags
    print(
        "warning: the C compiler has no OpenMP: pocket-tts-cy will run on one thread per stage "
        "(Debian, Ubuntu: gcc has it; for clang install libomp-dev)",
        file=sys.stderr,
    )
    return [], []


isas = instruction_sets()
openmp_compile, openmp_link = openmp_flags()
kernel_headers = [str(path) for path in sorted(Path("include").rglob("*.h"))]
kernel_sources = [str(path) for path in sorted(Path("pocket_tts_cy/kernels").glob("*.c"))]
built_macros = [(f"PTC_BUILD_{isa.upper()}", "1") for isa in isas if isa != "scalar"]


def kernel_library(isa):
    """A static library with one instruction set's kernels: only its own file gets its flags."""
    return (
        f"ptc_{isa}",
        {
            "sources": [f"pocket_tts_cy/kernels/kernels_{isa}.c"],
            "obj_deps": {"": [*kernel_headers, "pocket_tts_cy/kernels/kernels.inc.c"]},
            "include_dirs": ["include"],
            "cflags": [*C_FLAGS, "-fPIC", *ISA_FLAGS[isa]],
        },
    )


baseline_library = (
    "ptc_baseline",
    {
        "sources": ["pocket_tts_cy/kernels/cpu.c", "pocket_tts_cy/kernels/pack.c"],
        "obj_deps": {"": kernel_headers},
        "include_dirs": ["include"],
        "macros": built_macros,
        "cflags": [*C_FLAGS, "-fPIC"],
    },
)


class BuildExt(build_ext):
    """build_ext that also builds the static libraries when called by itself, in place."""

    def run(self):
        self.run_command("build_clib")
        super().run()


# Functions without the GIL are traced only on request; coverage plugins need the classic tracer.
macros = [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")] if COVERAGE else []
extensions = [
    Extension(
        f"pocket_tts_cy.{name}",
        [f"pocket_tts_cy/{name}.pyx"],
        include_dirs=["include"],
        depends=[*kernel_headers, *kernel_sources],
        define_macros=macros,
        extra_compile_args=[*C_FLAGS, *openmp_compile],
        extra_link_args=openmp_link,
        # Static libraries are linked into the one module that names the kernels; cpu.c and pack.c
        # refer to the tables, so they come first.
        libraries=["ptc_baseline", *(f"ptc_{isa}" for isa in isas)] if name == "_kernels" else [],
    )
    for name in MODULES
]
setup(
    libraries=[baseline_library, *(kernel_library(isa) for isa in isas)],
    ext_modules=cythonize(
        extensions,
        language_level=3,
        compiler_directives={
            "boundscheck": DEBUG,
            "wraparound": DEBUG,
            "initializedcheck": DEBUG,
            "nonecheck": DEBUG,
            "cdivision": True,
            "embedsignature": True,
            "linetrace": COVERAGE,
            "freethreading_compatible": False,
        },
    ),
    cmdclass={"build_ext": BuildExt},
)
