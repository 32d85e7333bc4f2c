from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import torch

from vigmpi.layout.split import even_sizes

_RANGES_PER_THREAD = 4  # a core that is slower for a while takes fewer of them


def over_images(
    kernel: Callable[..., Any], num_images: int, *arguments: Any, piece: int = 1
) -> None:
    """Run kernel(first, last, *arguments) on ranges of images, with as many threads as torch.

    Args:
        piece: number of consecutive images that are never split between two calls.
    """
    pieces = -(-num_images // piece)
    threads = min(torch.get_num_threads(), pieces)
    if threads == 1:
        kernel(0, num_images, *arguments)
        return
    ends = accumulate(even_sizes(pieces, min(pieces, _RANGES_PER_THREAD * threads)), initial=0)
    ranges = deque(pairwise(min(num_images, piece * end) for end in ends))

    def work() -> None:
        while True:
            try:
                first, last = ranges.popleft()
            except IndexError:
                return
            kernel(first, last, *arguments)

    futures = [_pool(threads).submit(work) for _ in range(threads - 1)]
    work()
    for future in futures:
        future.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, "kernel")
