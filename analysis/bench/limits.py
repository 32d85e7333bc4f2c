"""What this machine's floating-point units can do at most, measured by small loops."""

import time
from collections.abc import Callable

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


@njit(nogil=True)
def _divisions(x, factor, repeats):  # type: ignore[no-untyped-def]
    for _ in range(repeats):
        for i in range(_LANES):
            value = x[i]
            for _ in range(_CHAIN):
                value = factor / value
            x[i] = value


def _rate(loop: Callable[..., None], repeats: int) -> float:
    x = np.ones(_LANES, np.float32)
    loop(x, np.float32(0.5), repeats)
    start = time.perf_counter()
    loop(x, np.float32(0.5), repeats)
    return _LANES * _CHAIN * repeats / (time.perf_counter() - start)


def multiply_adds_per_s() -> float:
    """fp32 fused multiply-adds a second, on one core."""
    return _rate(_multiply_adds, 100_000)


def divisions_per_s() -> float:
    """fp32 divisions a second, on one core."""
    return _rate(_divisions, 10_000)
