"""What this machine's floating-point units can do at most, measured by small loops."""

import time

import numpy as np
from numba import njit

_LANES = 512  # independent chains: more than latency x units x vector width of any CPU
_CHAIN = 16  # operations on a value between its load and its store


@njit(fastmath={"contract"}, nogil=True)
def _multiply_adds(x, factor, repeats):  # type: ignore[no-untyped-def]
    for _ in range(repeats):
        for i in range(_LANES):
            value = x[i]
            for _ in range(_CHAIN):
                value = value * factor + factor
            x[i] = value


def multiply_adds_per_s() -> float:
    """fp32 fused multiply-adds a second, on one core."""
    x, factor, repeats = np.ones(_LANES, np.float32), np.float32(0.5), 100_000
    _multiply_adds(x, factor, repeats)
    start = time.perf_counter()
    _multiply_adds(x, factor, repeats)
    return _LANES * _CHAIN * repeats / (time.perf_counter() - start)
