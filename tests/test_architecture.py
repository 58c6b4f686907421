"""The arrows of the design, over the sources: who may know whom.

Imports go down only. Compiled modules stand on floors below one door, ``_engine``; Python modules
on floors above it. A new module has to be given its place here.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pocket_tts_cy"
HEADERS = ROOT / "include" / "ptc"

# Lowest first; a module knows only those on floors below its own.
COMPILED = [
    {"_kernels", "_blas", "_openmp", "_arena"},
    {"_linear", "_attention"},
    {"_conv", "_transformer", "_flow_net"},
    {"_flow_lm", "_mimi"},
    {"_engine"},
]
PYTHON = [
    {"errors", "_version"},
    {
        "atomic_file",
        "config",
        "download",
        "engine",
        "noise",
        "normalize",
        "safetensors_reader",
        "threads",
    },
    {"audio", "languages", "safetensors_writer", "tokenizer"},
    {"packed_cache", "pipeline", "text", "voices", "weights"},
    {"together"},
    {"model"},
    {"info"},
    {"cli"},
    {"__init__", "__main__"},
]
MAX_BYTES = 2_000_000
VOICE = "pocket_tts_cy/voice/"


def floors(layers: list[set[str]]) -> dict[str, int]:
    return {name: number for number, names in enumerate(layers) for name in names}


def compiled_sources() -> list[Path]:
    return sorted([*PACKAGE.glob("*.pyx"), *PACKAGE.glob("*.pxd")])


def python_sources() -> list[Path]:
    return sorted(PACKAGE.glob("*.py"))


def local_cython_imports(path: Path) -> set[str]:
    """Modules of the package that a Cython source imports or cimports."""
    text = path.read_text(encoding="utf-8")
    names = re.findall(r"^\s*from\s+\.(\w+)\s+c?import\b", text, re.MULTILINE)
    names += re.findall(r"^\s*(?:from|c?import)\s+pocket_tts_cy\.(\w+)", text, re.MULTILINE)
    for several in re.findall(
        r"^\s*from\s+(?:\.|pocket_tts_cy)\s+c?import\s+(.+)$", text, re.MULTILINE
    ):
        names += re.findall(r"\w+", several)
    return set(names)


def python_imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Dotted names that a Python source imports anywhere, and whether they are of the package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, alias.name.split(".")[0] == "pocket_tts_cy"
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            local = node.level > 0 or module.split(".")[0] == "pocket_tts_cy"
            names = [module] if module not in ("", "pocket_tts_cy") else []
            yield from ((name, local) for name in names or [alias.name for alias in node.names])


def local_python_imports(path: Path) -> set[str]:
    names = {name for name, local in python_imports(path) if local}
    # "import pocket_tts_cy" itself is the floor of __init__.
    return {name.removeprefix("pocket_tts_cy.").split(".")[0] for name in names}


def mentions(pattern: str, *paths: Path) -> set[str]:
    """Names of the files whose text matches."""
    found = re.compile(pattern, re.MULTILINE)
    return {path.name for path in paths if found.search(path.read_text(encoding="utf-8"))}


def tracked_files() -> list[str]:
    """Names of the files under version control, relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [name for name in listed.stdout.decode().split("\0") if (ROOT / name).is_file()]


# -- compiled modules ------------------------------------------------------------------------------


def test_every_compiled_module_has_a_floor_and_is_built() -> None:
    names = {path.stem for path in compiled_sources()}
    assert names - set(floors(COMPILED)) == set()
    (listed,) = re.findall(r"^MODULES = \[(.*?)\]", (ROOT / "setup.py").read_text(), re.S | re.M)
    assert set(re.findall(r'"(\w+)"', listed)) == {p.stem for p in PACKAGE.glob("*.pyx")}


@pytest.mark.parametrize("path", compiled_sources(), ids=lambda path: path.name)
def test_compiled_modules_import_downwards(path: Path) -> None:
    floor = floors(COMPILED)
    imported = local_cython_imports(path) - {path.stem, "errors"}
    upward = {name for name in imported if floor.get(name, 99) >= floor[path.stem]}
    assert not upward, f"{path.name} imports {upward}, which is not below it"


def test_the_regular_expression_finds_imports() -> None:
    assert local_cython_imports(PACKAGE / "_engine.pyx") >= {"_flow_lm", "_mimi", "_kernels"}
    assert local_cython_imports(PACKAGE / "_conv.pxd") == {"_arena", "_linear"}


def test_only_kernels_names_a_header_of_ours() -> None:
    assert mentions(r"cdef extern from .*ptc/", *compiled_sources()) == {
        "_kernels.pxd",
        "_kernels.pyx",
    }


def test_only_openmp_names_its_header() -> None:
    assert mentions(r"\bomp\.h\b|cimport openmp", *compiled_sources()) == {"_openmp.pyx"}


def test_only_blas_names_scipy() -> None:
    assert mentions(r"\bscipy\b", *compiled_sources()) <= {"_blas.pyx", "_blas.pxd"}


def test_no_numpy_headers_and_no_lock_in_parallel_code() -> None:
    assert mentions(r"cimport numpy|with gil", *compiled_sources()) == set()


# -- C ---------------------------------------------------------------------------------------------


def c_sources() -> list[Path]:
    return sorted([*HEADERS.rglob("*.h"), *(PACKAGE / "kernels").glob("*.c")])


@pytest.mark.parametrize("path", c_sources(), ids=lambda path: path.name)
def test_c_file_begins_with_what_it_is(path: Path) -> None:
    block = re.match(r"/\*(.*?)\*/", path.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    assert len(block[1].split()) >= 4


def test_headers_are_guarded() -> None:
    for path in HEADERS.rglob("*.h"):
        guard = "_".join(["PTC", *path.relative_to(HEADERS).with_suffix("").parts]).upper() + "_H"
        text = path.read_text(encoding="utf-8")
        assert f"#ifndef {guard}\n#define {guard}\n" in text
        assert text.endswith(f"#endif /* {guard} */\n")


def test_only_the_vector_headers_know_instructions() -> None:
    known = {path.name for path in (HEADERS / "simd").glob("*.h")}
    words = r"immintrin|arm_neon|\b_mm\d*_|\bv[a-z0-9]+q_(f|s|u)\d|__m(128|256|512)|float32x4"
    assert mentions(words, *c_sources()) <= known - {"scalar.h"}


def test_only_config_knows_compilers() -> None:
    assert mentions(r"_MSC_VER|__GNUC__|__clang__", *c_sources()) == {"config.h"}


def test_kernels_do_not_allocate() -> None:
    assert mentions(r"\b(malloc|calloc|realloc|aligned_alloc|free)\s*\(", *c_sources()) == set()


# -- Python ----------------------------------------------------------------------------------------


def test_every_python_module_has_a_floor() -> None:
    assert {path.stem for path in python_sources()} - set(floors(PYTHON)) == set()


@pytest.mark.parametrize("path", python_sources(), ids=lambda path: path.name)
def test_python_modules_import_downwards(path: Path) -> None:
    floor = floors(PYTHON)
    imported = local_python_imports(path)
    compiled = {name for name in imported if name in floors(COMPILED)}
    assert compiled <= {"_engine"}, f"{path.name} imports {compiled}: only _engine is for Python"
    upward = {name for name in imported - compiled if floor.get(name, 99) >= floor[path.stem]}
    assert not upward, f"{path.name} imports {upward}, which is not below it"


def test_one_module_loads_the_engine() -> None:
    """It sets how OpenMP waits, which has to happen before."""
    users = {path.stem for path in python_sources() if "_engine" in local_python_imports(path)}
    assert users == {"engine"}


@pytest.mark.parametrize("folder", ["pocket_tts_cy", "tests", "scripts", "benchmarks_asv"])
def test_what_nothing_imports(folder: str) -> None:
    """The reference runs in scripts only; options are docopt's; nothing is unpickled."""
    banned = {"argparse", "dill", "joblib", "marshal", "shelve"}
    if folder in ("pocket_tts_cy", "tests"):
        banned |= {"torch", "pocket_tts"}
    if folder != "tests":  # one of them tests that audio can be pickled
        banned |= {"pickle"}
    for path in sorted((ROOT / folder).rglob("*.py")):
        found = {name.split(".")[0] for name, _ in python_imports(path)} & banned
        assert not found, f"{path.relative_to(ROOT)} imports {found}"
    for path in compiled_sources():
        assert not re.search(r"\b(torch|argparse|pickle)\b", path.read_text(encoding="utf-8"))


def test_heavy_modules_are_imported_where_they_are_used() -> None:
    """Not at the top of a module: the command line has to start at once."""
    heavy = {"scipy", "tokenizers", "sentencepiece", "num2words", "huggingface_hub", "tqdm"}
    heavy |= {"soundfile", "yaml", "docopt", "safetensors", "threadpoolctl"}
    for path in python_sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            found = {name.split(".")[0] for name in names} & heavy
            assert not found, f"{path.name} imports {found} at its top"


@pytest.mark.parametrize("folder", ["pocket_tts_cy", "tests", "scripts"])
def test_every_module_says_what_it_is(folder: str) -> None:
    for path in sorted((ROOT / folder).glob("*.py")):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path.name
    for path in PACKAGE.glob("*.pyx"):
        assert path.read_text(encoding="utf-8").startswith('"""'), path.name


# -- what is in the repository ---------------------------------------------------------------------


def test_no_generated_file_is_tracked() -> None:
    generated = re.compile(r"pocket_tts_cy/[^/]+\.(c|cpp|html)$|\.(so|o|a|pyc|pyd)$|^(build|dist)/")
    assert [name for name in tracked_files() if generated.search(name)] == []


def test_no_large_file_is_tracked() -> None:
    large = {
        name: size
        for name in tracked_files()
        if not name.startswith(VOICE) and (size := (ROOT / name).stat().st_size) > MAX_BYTES
    }
    assert large == {}


def test_every_stub_belongs_to_a_compiled_module() -> None:
    stubs = {path.stem for path in PACKAGE.glob("*.pyi")}
    assert "_engine" in stubs
    assert stubs <= {path.stem for path in PACKAGE.glob("*.pyx")}
