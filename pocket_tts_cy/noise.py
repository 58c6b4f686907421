"""The noise of the flow head: the same numbers as PyTorch's CPU generator for the same seed.

PyTorch's generator is the Mersenne Twister MT19937, which NumPy has too. What this module adds is
how PyTorch turns its 32-bit words into normals (``Tensor.normal_``) and into truncated normals
(``torch.nn.init.trunc_normal_``, torch 2.13). Equal up to float32 rounding of log, cos and sin.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# A block of vectors is computed at once, the first one small so that the first frame is not kept
# waiting, later ones long enough to make a draw cost no more than a look-up.
FIRST_BLOCK = 16
LARGEST_BLOCK = 256
BOX_MULLER = 16
# Below this kept probability mass torch proposes from a uniform instead of from the normal.
LEAST_MASS_FOR_REJECTION = 0.3


class NoiseSource:
    """A stream of noise vectors.

    Parameters
    ----------
    seed : int or None
        As for ``torch.manual_seed``: -2**63 to 2**64 - 1, of which the generator uses the low 32
        bits. None takes fresh entropy.
    dim : int
        Length of a vector, at least 16.
    temp : float
        Variance of the normal distribution (before truncation), finite and not negative.
    clamp : float or None
        Largest magnitude of a value, None for no limit.

    Raises
    ------
    ValueError
        A parameter is out of its range.

    Notes
    -----
    ``temp=0`` together with ``clamp`` gives zeros, where PyTorch divides by zero.
    """

    def __init__(self, seed: int | None, dim: int, temp: float, clamp: float | None = None) -> None:
        if dim < BOX_MULLER:
            raise ValueError(f"noise needs at least {BOX_MULLER} values, found dim={dim}")
        if not (math.isfinite(temp) and temp >= 0):
            raise ValueError(f"temp must be a finite number >= 0, found {temp!r}")
        if clamp is not None and not clamp >= 0:
            raise ValueError(f"noise_clamp must be a number >= 0, found {clamp!r}")
        self._dim = dim
        self._std = np.float32(math.sqrt(temp))
        self._limit = np.float32(0 if clamp is None else clamp)
        self._words = _mersenne_twister(seed)
        self._fill: Callable[[int], tuple[NDArray[np.float32], NDArray[np.bool_] | None]]
        if clamp is None:
            self._fill = self._fill_normal
        elif temp == 0 or math.erf(clamp / math.sqrt(2 * temp)) > LEAST_MASS_FOR_REJECTION:
            self._fill = self._fill_normal_limited
        else:
            self._fill = self._fill_uniform_limited
        self._block_size = FIRST_BLOCK
        self._rows: list[NDArray[np.float32]] = []
        self._rejected: list[NDArray[np.bool_] | None] = []
        self._next = 0

    def draw(self) -> NDArray[np.float32]:
        """The next vector.

        Returns
        -------
        numpy.ndarray
            float32, shape ``[dim]``, never touched again by this object.
        """
        vector, rejected = self._take()
        while rejected is not None:
            proposal, rejected_again = self._take()
            vector = np.where(rejected, proposal, vector)
            if rejected_again is None:
                break
            rejected = rejected & rejected_again
            if not rejected.any():
                break
        return vector

    def _take(self) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        """One proposed vector, and which of its values are rejected (None: none)."""
        if self._next == len(self._rows):
            self._refill()
        index = self._next
        self._next = index + 1
        return self._rows[index], self._rejected[index]

    def _refill(self) -> None:
        rows, rejected = self._fill(self._block_size)
        self._rows = list(rows)
        if rejected is None:
            self._rejected = [None] * len(rows)
        else:
            some = np.any(rejected, axis=1)
            self._rejected = [
                row if any_rejected else None
                for row, any_rejected in zip(rejected, some.tolist(), strict=True)
            ]
        self._next = 0
        self._block_size = min(self._block_size * 2, LARGEST_BLOCK)

    def _uniforms(self, n_vectors: int, per_vector: int) -> NDArray[np.float32]:
        """Uniform float32 values in [0, 1), shape ``[n_vectors, per_vector]``: 24 bits a word."""
        words = self._words.random_raw(n_vectors * per_vector)
        low = (words & np.uint64(0xFFFFFF)).astype(np.float32)
        low *= np.float32(2.0**-24)
        return low.reshape(n_vectors, per_vector)

    def _fill_normal(self, n: int) -> tuple[NDArray[np.float32], None]:
        dim = self._dim
        tail = dim % BOX_MULLER
        uniforms = self._uniforms(n, dim + (BOX_MULLER if tail else 0))
        if not tail:
            return self._box_muller(uniforms).reshape(n, dim), None
        # torch overwrites the last 16 values with a block of their own, drawn after all others.
        vectors = np.empty((n, dim), np.float32)
        vectors[:, : dim - tail] = self._box_muller(uniforms[:, : dim - tail])
        vectors[:, dim - BOX_MULLER :] = self._box_muller(uniforms[:, dim:])
        return vectors, None

    def _box_muller(self, uniforms: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normals of the same shape; the first 8 of each 16 give radii, the last 8 angles."""
        n = uniforms.shape[0]
        blocks = uniforms.reshape(n, -1, 2, BOX_MULLER // 2)
        radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - blocks[:, :, 0]))
        angle = np.float32(2 * math.pi) * blocks[:, :, 1]
        normals = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=2)
        normals *= self._std
        return normals.reshape(uniforms.shape)

    def _fill_normal_limited(self, n: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        vectors, _ = self._fill_normal(n)
        return vectors, np.abs(vectors) > self._limit

    def _fill_uniform_limited(self, n: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        # Uniform proposals, accepted with probability exp(-x^2 / (2 variance)).
        uniforms = self._uniforms(2 * n, self._dim).reshape(n, 2, self._dim)
        proposals = uniforms[:, 0] * (self._limit + self._limit) - self._limit
        scaled = proposals / self._std
        log_density = scaled * scaled * np.float32(-0.5)
        with np.errstate(divide="ignore"):
            return proposals, np.log(uniforms[:, 1]) > log_density


def _mersenne_twister(seed: int | None) -> np.random.MT19937:
    """A generator of 32-bit words seeded as ``torch.manual_seed`` seeds."""
    if seed is None:
        return np.random.MT19937()
    seed = operator.index(seed)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must be between -2**63 and 2**64 - 1, found {seed}")
    # Only RandomState offers the original seeding of the generator.
    seeded = np.random.MT19937()
    np.random.RandomState(seeded).seed(seed & 0xFFFFFFFF)
    return seeded
