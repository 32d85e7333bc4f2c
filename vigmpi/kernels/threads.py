"""Threads of the kernels and of torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vigmpi.kernels.thread_team import ThreadTeam
from vigmpi.layout.split import even_sizes

_RANGES_PER_THREAD = 4  # a core that is slower for a while takes fewer of them
_kernel_threads: ContextVar[int] = ContextVar("kernel_threads")  # set by `one_torch_thread`


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run torch's own operations on one thread; the kernels keep all threads.

    torch and MKL divide the terms of a sum among threads, so that its rounding depends on their
    number. Entering and leaving takes about 2 us.
    """
    before = torch.get_num_threads()
    token = _kernel_threads.set(_kernel_threads.get(before))
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _kernel_threads.reset(token)


def over_images(kernel: Callable[..., Any], num_images: int, *arguments: Any) -> None:
    """Run kernel(first, last, *arguments) on ranges of images.

    The number of threads is torch's; inside `one_torch_thread`, what it was before.
    """
    _over(kernel, num_images, *arguments)


def over_bands(
    kernel: Callable[..., Any], num_images: int, bands: NDArray[np.int64], *arguments: Any
) -> None:
    """Run kernel(first, last, bands, *arguments) on ranges of the bands of all images.

    The number of threads is that of `over_images`.

    Args:
        num_images: number of images, or of groups of images.
        bands: first node of each band, and the end of the last band.
    """
    _over(kernel, num_images * (len(bands) - 1), bands, *arguments)


def num_threads() -> int:
    """Return the number of threads that run a kernel: torch's, or what it was before."""
    return _kernel_threads.get(torch.get_num_threads())


def _over(kernel: Callable[..., Any], number: int, *arguments: Any) -> None:
    threads = min(num_threads(), number)
    if threads == 1:
        kernel(0, number, *arguments)
        return
    ends = accumulate(even_sizes(number, min(number, _RANGES_PER_THREAD * threads)), initial=0)
    _team(threads).run(kernel, pairwise(ends), *arguments)


@cache
def _team(size: int) -> ThreadTeam:
    return ThreadTeam(size)
