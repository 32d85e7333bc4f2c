"""Small loops to time that saturate the floating-point units of one core."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit

_LANES = 128  # times four independent chains: exceeds latency x units x vector width
_CHAIN = 16  # operations on a value between load and store
_REPEATS = 500_000

OPERATIONS = 4 * _LANES * _CHAIN * _REPEATS


@njit(fastmath={"contract"}, nogil=True)
def _multiply_adds(x, factor):  # type: ignore[no-untyped-def]
    for _ in range(_REPEATS):
        for i in range(_LANES):
            # The four chains are interleaved: one after the other, they would fill the scheduler
            # with waiting operations.
            a, b, c, d = x[0, i], x[1, i], x[2, i], x[3, i]
            for _ in range(_CHAIN):
                a, b = a * factor + factor, b * factor + factor
                c, d = c * factor + factor, d * factor + factor
            x[0, i], x[1, i], x[2, i], x[3, i] = a, b, c, d


@njit(nogil=True, error_model="numpy")
def _divisions(x, numerator):  # type: ignore[no-untyped-def]
    for _ in range(_REPEATS):
        for i in range(_LANES):
            a, b, c, d = x[0, i], x[1, i], x[2, i], x[3, i]
            for _ in range(_CHAIN):
                a, b = numerator / a, numerator / b
                c, d = numerator / c, numerator / d
            x[0, i], x[1, i], x[2, i], x[3, i] = a, b, c, d


def multiply_adds() -> None:
    """Run OPERATIONS fp32 fused multiply-adds."""
    _multiply_adds(np.ones((4, _LANES), np.float32), np.float32(0.5))


def multiply_adds_on_all_threads() -> None:
    """Run OPERATIONS fp32 fused multiply-adds on each of torch's threads, concurrently.

    Threads that share a core share its limit.
    """
    with ThreadPoolExecutor() as pool:
        for future in [pool.submit(multiply_adds) for _ in range(torch.get_num_threads())]:
            future.result()


def divisions() -> None:
    """Run OPERATIONS fp32 divisions."""
    _divisions(np.ones((4, _LANES), np.float32), np.float32(1.5))
