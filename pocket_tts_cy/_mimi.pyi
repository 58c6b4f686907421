from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._engine import Engine
from .config import Config
from .safetensors_reader import Tensor

class MimiDecoder:
    def __init__(
        self,
        config: Config,
        tensors: Mapping[str, Tensor],
        kind: int,
        packed: Any,
        prefer_int16: bool,
    ) -> None: ...
    @property
    def latent_dim(self) -> int: ...
    @property
    def outer_dim(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def rows_per_frame(self) -> int: ...
    @property
    def samples_per_frame(self) -> int: ...
    @property
    def n_stages(self) -> int: ...
    @property
    def n_residual(self) -> int: ...
    @property
    def transformer(self) -> Any: ...
    def report(self) -> list[tuple[str, int]]: ...

class MimiStream:
    def __init__(self, engine: Engine) -> None: ...
    def reset(self) -> None: ...
    def decode(
        self,
        latents: NDArray[np.float32],
        audio: NDArray[np.float32],
        num_threads: int,
    ) -> None: ...
    def report(self) -> list[tuple[str, int]]: ...
