from collections.abc import Mapping

from ._flow_lm import FlowLM, FlowLMStream
from ._kernels import isa_active, isa_available, isa_built
from ._mimi import MimiDecoder, MimiStream
from ._openmp import max_threads, openmp_enabled
from .config import Config
from .safetensors_reader import Tensor

__all__ = [
    "Engine",
    "FlowLMStream",
    "MimiStream",
    "isa_active",
    "isa_available",
    "isa_built",
    "max_threads",
    "openmp_enabled",
]

PRECISIONS: dict[str, int]

class Engine:
    mimi_frames_max: int
    def __init__(self, config: Config, tensors: Mapping[str, Tensor], precision: str) -> None: ...
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
