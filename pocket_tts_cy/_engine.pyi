from collections.abc import Mapping
from typing import Any

from ._flow_lm import FlowLM, FlowLMBatch, FlowLMStream
from ._kernels import checksum, isa_active, isa_available, isa_built
from ._mimi import MimiDecoder, MimiStream
from ._openmp import max_threads, openmp_enabled
from .config import Config
from .safetensors_reader import Tensor

__all__ = [
    "Engine",
    "FlowLMBatch",
    "FlowLMStream",
    "MimiStream",
    "checksum",
    "isa_active",
    "isa_available",
    "isa_built",
    "max_threads",
    "openmp_enabled",
    "packed_layout",
]

PRECISIONS: dict[str, int]

def packed_layout(precision: str) -> str: ...

class Engine:
    mimi_frames_max: int
    def __init__(
        self,
        config: Config,
        tensors: Mapping[str, Tensor],
        precision: str,
        packed: Any | None = None,
    ) -> None: ...
    def packed_matrices(self) -> list[Any]: ...
    @property
    def flow_lm(self) -> FlowLM: ...
    @property
    def mimi(self) -> MimiDecoder: ...
    @property
    def precision(self) -> str: ...
    @property
    def latent_dim(self) -> int: ...
    @property
    def d_model(self) -> int: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def n_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def samples_per_frame(self) -> int: ...
    def memory_report(self) -> list[tuple[str, int]]: ...
