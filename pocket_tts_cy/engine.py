"""The compiled engine, loaded with short waits for its OpenMP teams.

A team of threads waits at the end of every matrix product. GNU OpenMP spins there for
milliseconds by default, which is fastest on idle processors; but when a neighbour process holds one
of them, the others burn their time waiting for a thread that is not running. Spinning for some
tens of microseconds and then sleeping costs little when idle and saves most of that loss
(docs/threading.md has the figures). The runtime reads its settings once, when it is loaded, so they
stand in the environment during the import only. Settings of the user's own are left alone.
"""

from __future__ import annotations

import os
import sys

#: Wait policy per OpenMP runtime: GNU's in iterations of its spin loop, LLVM's in milliseconds.
_WAIT_POLICY = {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "1"}
#: Variables by which a user chooses a policy.
_USER_CHOICE = ("OMP_WAIT_POLICY", *_WAIT_POLICY)


def _set_wait_policy() -> list[str]:
    """Put the policy into the environment; returns the variables that were added."""
    if "pocket_tts_cy._engine" in sys.modules or any(name in os.environ for name in _USER_CHOICE):
        return []
    os.environ.update(_WAIT_POLICY)
    return list(_WAIT_POLICY)


_added = _set_wait_policy()
try:
    from ._engine import (
        Engine,
        FlowLMBatch,
        FlowLMStream,
        MimiStream,
        checksum,
        isa_active,
        isa_available,
        max_threads,
        openmp_enabled,
        packed_layout,
    )
finally:
    for _name in _added:
        del os.environ[_name]

__all__ = [
    "Engine",
    "FlowLMBatch",
    "FlowLMStream",
    "MimiStream",
    "checksum",
    "isa_active",
    "isa_available",
    "max_threads",
    "openmp_enabled",
    "packed_layout",
]
