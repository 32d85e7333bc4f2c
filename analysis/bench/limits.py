"""What one core's floating-point units can do at most, as small loops to time."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit

_LANES = 128  # times four independent chains: more than latency x units x vector width
_CHAIN = 16  # operations on a value between its load and its store
_REPEATS = 500_000

OPERATIONS = 4 * _LANES * _CHAIN * _REPEATS


@njit(fastmath={"contract"}, nogil=True)
def _multiply_adds(x, factor):  # type: ignore[no-untyped-def]
    for _ in range(_REPEATS):
        for i in range(_LANES):
            # Four chains in step: in turn, they would fill the scheduler with what must wait.
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
    """OPERATIONS fp32 fused multiply-adds."""
    _multiply_adds(np.ones((4, _LANES), np.float32), np.float32(0.5))


def multiply_adds_everywhere() -> None:
    """OPERATIONS of them on each of as many threads as torch uses, at the same time.

    What shares a core with another thread has less than a core.
    """
    with ThreadPoolExecutor() as pool:
        for each in [pool.submit(multiply_adds) for _ in range(torch.get_num_threads())]:
            each.result()


def divisions() -> None:
    """OPERATIONS fp32 divisions."""
    _divisions(np.ones((4, _LANES), np.float32), np.float32(1.5))
