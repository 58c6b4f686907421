from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ACTIVATIONS: dict[str, int]

def isa_built() -> list[str]: ...
def isa_available() -> list[str]: ...
def isa_active() -> str: ...
def linear(
    isa: str,
    x: NDArray[np.float32],
    weights: NDArray[np.float32] | NDArray[np.uint16],
    *,
    bias: NDArray[np.float32] | None = None,
    scale: NDArray[np.float32] | None = None,
    residual: NDArray[np.float32] | None = None,
    activation: str = "identity",
    final_activation: str = "identity",
) -> NDArray[np.float32]: ...
def quantize_rows(
    isa: str, x: NDArray[np.float32]
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int32]]: ...
def quantize_int16(
    isa: str, x: NDArray[np.float32]
) -> tuple[NDArray[np.int16], NDArray[np.float32]]: ...
def linear_quantized(
    isa: str,
    x: NDArray[np.float32],
    weights: NDArray[np.float32],
    kind: str,
    *,
    bias: NDArray[np.float32] | None = None,
    scale: NDArray[np.float32] | None = None,
    residual: NDArray[np.float32] | None = None,
    activation: str = "identity",
    final_activation: str = "identity",
) -> NDArray[np.float32]: ...
def dot_rows(
    isa: str, x: NDArray[np.float32], w: NDArray[np.float32], bias: float
) -> NDArray[np.float32]: ...
def layer_norm(
    isa: str,
    x: NDArray[np.float32],
    eps: float,
    weight: NDArray[np.float32] | None = None,
    bias: NDArray[np.float32] | None = None,
    scale: NDArray[np.float32] | None = None,
    shift: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]: ...
def activate(isa: str, x: NDArray[np.float32], activation: str) -> NDArray[np.float32]: ...
def rope(
    isa: str, x: NDArray[np.float32], cosines: NDArray[np.float32], sines: NDArray[np.float32]
) -> NDArray[np.float32]: ...
def attention(
    isa: str,
    q: NDArray[np.float32],
    segments: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    first_position: int,
    scale: float,
    context: int | None = None,
) -> NDArray[np.float32]: ...
def upsample_depthwise(
    isa: str, x: NDArray[np.float32], w: NDArray[np.float32]
) -> NDArray[np.float32]: ...
def pcm16(isa: str, x: NDArray[np.float32]) -> NDArray[np.int16]: ...
def round_bfloat16(x: NDArray[np.float32]) -> NDArray[np.uint16]: ...
def widen_bfloat16(x: NDArray[np.uint16]) -> NDArray[np.float32]: ...
def checksum(data: Any, start: int = 0) -> int: ...
