from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._engine import Engine
from .config import Config
from .safetensors_reader import Tensor

MAX_CACHE_BYTES: int

class FlowLM:
    def __init__(
        self,
        config: Config,
        tensors: Mapping[str, Tensor],
        kind: int,
        backbone: int,
        packed: Any,
    ) -> None: ...
    @property
    def latent_dim(self) -> int: ...
    @property
    def d_model(self) -> int: ...
    @property
    def z_dim(self) -> int: ...
    @property
    def transformer(self) -> Any: ...
    @property
    def flow_net(self) -> Any: ...
    def report(self) -> list[tuple[str, int]]: ...

class FlowLMStream:
    def __init__(self, engine: Engine) -> None: ...
    @property
    def length(self) -> int: ...
    def begin(
        self, prefix: list[NDArray[np.float32]], prefix_length: int, capacity: int
    ) -> None: ...
    def prefill_tokens(self, token_ids: ArrayLike, num_threads: int) -> None: ...
    def prefill_embeddings(self, rows: ArrayLike, num_threads: int) -> None: ...
    def step(
        self,
        noise: NDArray[np.float32],
        latent: NDArray[np.float32],
        decode_steps: int,
        num_threads: int,
    ) -> float: ...
    def last_z(self) -> NDArray[np.float32]: ...
    def export_cache(self) -> list[NDArray[np.float32]]: ...
    def report(self) -> list[tuple[str, int]]: ...

class FlowLMBatch:
    def __init__(self, engine: Engine, max_streams: int) -> None: ...
    @property
    def max_streams(self) -> int: ...
    def step(
        self,
        streams: list[FlowLMStream],
        noise: NDArray[np.float32],
        latents: NDArray[np.float32],
        decode_steps: int,
        num_threads: int,
    ) -> NDArray[np.float32]: ...
