"""Each kernel on each instruction set, on one thread, at sizes of the English model.

A call takes microseconds, so each timed function makes CALLS calls, and the products run once over
COPIES_BYTES of weights: as in real use, weights come from memory and not from the cache.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .common import PRECISIONS, SkipNotImplemented, optional

INSTRUCTION_SETS = ["avx512_vnni", "avx512", "avx2", "neon_dotprod", "neon", "scalar"]
CALLS = 100
COPIES_BYTES = 64 << 20


def kernel(isa: str, name: str) -> Callable[..., Any]:
    """A kernel's test entry point, for an instruction set that this machine has."""
    isa_available, entry = optional("_kernels", "isa_available", name)
    if isa not in isa_available():
        raise SkipNotImplemented(f"this machine does not have {isa}")
    return entry


def normal(*shape: int) -> NDArray[np.float32]:
    """Repeatable float32 normals."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@functools.lru_cache(maxsize=1)
def packed_matrices(isa: str, n_out: int, n_in: int, precision: str) -> list[Callable[..., Any]]:
    """Packed copies of a matrix, together too large for the cache."""
    pack = kernel(isa, "PackedLinear")
    weights = normal(n_out, n_in)
    bits = {"float32": 32, "bfloat16": 16, "int8": 8, "int4": 4}[precision]
    if bits == 16:
        (round_bfloat16,) = optional("_kernels", "round_bfloat16")
        weights = round_bfloat16(weights.reshape(-1)).reshape(weights.shape)
    copies = math.ceil(COPIES_BYTES / (n_out * n_in * bits / 8))
    if bits < 16:
        return [pack(isa, weights, bits=bits) for _ in range(copies)]
    return [pack(isa, weights) for _ in range(copies)]


class Linear:
    """Products against packed weights: one row is a generation step, 16 a Mimi frame, 64 a text."""

    params = (INSTRUCTION_SETS, ["4096x1024", "1024x4096", "512x3584"], PRECISIONS, [1, 16, 64])
    param_names = ("isa", "outputs x inputs", "weights", "rows")

    def setup(self, isa: str, size: str, precision: str, rows: int) -> None:
        """Pack the weights."""
        n_out, n_in = map(int, size.split("x"))
        self.matrices = packed_matrices(isa, n_out, n_in, precision)
        self.x = normal(rows, n_in)

    def time_linear(self, isa: str, size: str, precision: str, rows: int) -> None:
        """One product with each copy."""
        for matrix in self.matrices:
            matrix(self.x)


class Attention:
    """One head of 64 over a cache."""

    params = (INSTRUCTION_SETS, [1, 16], [300, 1000])
    param_names = ("isa", "queries", "keys")

    def setup(self, isa: str, queries: int, keys: int) -> None:
        """Queries stand at the last positions."""
        self.attention = kernel(isa, "attention")
        self.q = normal(queries, 64)
        self.segments = [(normal(keys, 64), normal(keys, 64))]

    def time_attention(self, isa: str, queries: int, keys: int) -> None:
        """CALLS calls."""
        for _ in range(CALLS):
            self.attention(isa, self.q, self.segments, keys - len(self.q), 0.125)


class Rows:
    """Kernels on rows."""

    params = (INSTRUCTION_SETS,)
    param_names = ("isa",)

    def setup(self, isa: str) -> None:
        """Sizes of a block of four Mimi frames or 64 tokens."""
        self.layer_norm = kernel(isa, "layer_norm")
        self.rope = kernel(isa, "rope")
        self.dot_rows = kernel(isa, "dot_rows")
        self.upsample = kernel(isa, "upsample_depthwise")
        self.pcm16 = kernel(isa, "pcm16")
        self.x = normal(64, 1024)
        self.vector = normal(1024)
        self.heads = normal(64 * 16, 64)
        self.angles = normal(64)
        self.frames = normal(5, 512)
        self.stretched = normal(32, 512)
        # Overlapping rows, as the last convolution sees them: 1920 samples, three taps of 64.
        self.frame = np.lib.stride_tricks.sliding_window_view(normal(1922 * 64), 192)[::64]
        self.samples = normal(1920)

    def time_layer_norm(self, isa: str) -> None:
        """64 rows of 1024, CALLS times."""
        for _ in range(CALLS):
            self.layer_norm(isa, self.x, 1e-5, self.vector, self.vector)

    def time_rope(self, isa: str) -> None:
        """1024 heads of 64, CALLS times."""
        for _ in range(CALLS):
            self.rope(isa, self.heads, self.angles, self.angles)

    def time_last_convolution(self, isa: str) -> None:
        """1920 samples of a frame, CALLS times."""
        for _ in range(CALLS):
            self.dot_rows(isa, self.frame, self.vector[:192], 0.0)

    def time_upsample_depthwise(self, isa: str) -> None:
        """Four frames to 64 rows of 512 channels, CALLS times."""
        for _ in range(CALLS):
            self.upsample(isa, self.frames, self.stretched)

    def time_pcm16(self, isa: str) -> None:
        """1920 samples, CALLS times."""
        for _ in range(CALLS):
            self.pcm16(isa, self.samples)


class Activation:
    """Activation functions."""

    params = (INSTRUCTION_SETS, ["gelu_tanh", "silu", "elu"])
    param_names = ("isa", "function")

    def setup(self, isa: str, function: str) -> None:
        """16384 values: they fit into the second-level cache."""
        self.activate = kernel(isa, "activate")
        self.x = normal(16384)

    def time_activation(self, isa: str, function: str) -> None:
        """16384 values, CALLS times."""
        for _ in range(CALLS):
            self.activate(isa, self.x, function)
