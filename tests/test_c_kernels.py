"""The kernels in C alone: under sanitizers here, and for 64-bit ARM in an emulator.

``c/kernel_driver.c`` compares every kernel with plain double code and prints a hash of its results
per instruction set; all vector instruction sets have to agree, on any machine.
"""

from __future__ import annotations

import ast
import platform
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DRIVER = Path(__file__).parent / "c" / "kernel_driver.c"
SOURCES = ROOT / "pocket_tts_cy" / "kernels"
# As in setup.py: no contraction, so that all instruction sets round alike.
FLAGS = ["-std=c11", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
KERNELS = {
    "linear_f32", "linear_bf16", "quantize_rows", "linear_i8", "linear_i4", "linear_i16",
    "dot_rows", "layer_norm", "activation", "rope", "attention", "upsample_depthwise", "pcm16",
}  # fmt: skip

Results = dict[str, dict[str, tuple[str, float]]]


def run(command: list[str], timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def build(folder: Path, compiler: list[str], isas: dict[str, list[str]], extra: list[str]) -> Path:
    """Compile the driver with a table for each instruction set, each with its own flags."""
    include = ["-I", str(ROOT / "include")]
    macros = [f"-DPTC_BUILD_{isa.upper()}" for isa in isas]
    jobs = {isa: [str(SOURCES / f"kernels_{isa}.c"), *flags] for isa, flags in isas.items()}
    jobs["scalar"] = [str(SOURCES / "kernels_scalar.c")]
    jobs["cpu"] = [str(SOURCES / "cpu.c"), *macros]
    jobs["pack"] = [str(SOURCES / "pack.c")]
    jobs["driver"] = [str(DRIVER)]
    objects = []
    for name, arguments in jobs.items():
        objects.append(str(folder / f"{name}.o"))
        command = [*compiler, *FLAGS, *extra, *include, "-c", *arguments, "-o", objects[-1]]
        compiled = run(command)
        assert compiled.returncode == 0, compiled.stderr
    program = folder / "kernel_driver"
    linked = run([*compiler, *extra, *objects, "-lm", "-o", str(program)])
    assert linked.returncode == 0, linked.stderr
    return program


def results(command: list[str]) -> Results:
    """Hash and worst error by instruction set and kernel."""
    done = run(command)
    assert done.returncode == 0, done.stderr
    found: Results = {}
    for line in done.stdout.splitlines():
        isa, kernel, digest, worst = line.split()
        found.setdefault(isa, {})[kernel] = (digest, float(worst))
    for isa, kernels in found.items():
        assert set(kernels) == KERNELS, isa
        assert all(0 < worst <= 1 or name == "pcm16" for name, (_, worst) in kernels.items())
    return found


def assert_same_bits(one: Results, other: Results) -> None:
    """All vector instruction sets of two runs agree, and so do the two scalar ones."""
    vector = {f"{i} {name}": r for i, run in enumerate((one, other)) for name, r in run.items()}
    scalar = {name: vector.pop(name) for name in ("0 scalar", "1 scalar")}
    for family in (vector, scalar):
        for kernel in KERNELS:
            hashes = {name: kernels[kernel][0] for name, kernels in family.items()}
            assert len(set(hashes.values())) == 1, f"{kernel}: {hashes}"


def native_compiler() -> list[str]:
    command = shlex.split(sysconfig.get_config_var("CC") or "cc")
    if shutil.which(command[0]) is None:
        command = ["cc"]
    if shutil.which(command[0]) is None:
        pytest.skip("no C compiler")
    return command[:1]


def tables(prefix: str) -> dict[str, list[str]]:
    """Instruction sets of one architecture with their compiler flags, as setup.py has them."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (flags,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ISA_FLAGS"
    )
    found = {isa: options for isa, options in flags.items() if isa.startswith(prefix)}
    assert found
    return found


def native_tables() -> dict[str, list[str]]:
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return tables("avx")
    return tables("neon") if machine in ("aarch64", "arm64") else {}


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("native")
    return results([str(build(folder, native_compiler(), native_tables(), ["-O2"]))])


def test_kernels_keep_their_bounds_here(native: Results) -> None:
    assert "scalar" in native
    assert_same_bits(native, native)


def test_kernels_under_sanitizers(tmp_path: Path, native: Results) -> None:
    """No read or write out of bounds, no undefined behaviour, and the same bits unoptimised."""
    compiler = native_compiler()
    probe = tmp_path / "probe.c"
    probe.write_text("int main(void) { return 0; }\n", encoding="ascii")
    program = tmp_path / "probe"
    linked = run([*compiler, *SANITIZERS, str(probe), "-o", str(program)])
    if linked.returncode != 0 or run([str(program)]).returncode != 0:
        pytest.skip("the compiler has no address and undefined-behaviour sanitizers")
    checked = build(tmp_path, compiler, native_tables(), ["-O0", *SANITIZERS])
    assert_same_bits(results([str(checked)]), native)


def test_kernels_with_another_compiler(tmp_path: Path, native: Results) -> None:
    if shutil.which("clang") is None or "clang" in native_compiler()[0]:
        pytest.skip("needs clang next to another compiler")
    other = build(tmp_path, ["clang"], native_tables(), ["-O2"])
    assert_same_bits(results([str(other)]), native)


def test_kernels_on_arm(tmp_path: Path, native: Results) -> None:
    compiler, emulator = "aarch64-linux-gnu-gcc", shutil.which("qemu-aarch64-static")
    if shutil.which(compiler) is None or emulator is None:
        pytest.skip(
            "needs aarch64-linux-gnu-gcc and qemu-aarch64-static (Debian: gcc-aarch64-linux-gnu, "
            "libc6-dev-arm64-cross, qemu-user-static)"
        )
    program = build(tmp_path, [compiler], tables("neon"), ["-O2", "-static"])
    found = results([emulator, str(program)])
    assert {"neon", "neon_dotprod"} <= set(found)
    assert_same_bits(found, native)
