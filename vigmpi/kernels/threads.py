from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import torch

from vigmpi.layout.split import even_sizes

_TURNS = 4  # of a thread: a core that is slower for a while takes fewer


def over_images(kernel: Callable[..., Any], images: int, *arguments: Any, piece: int = 1) -> None:
    """Run kernel(first, last, *arguments) for all images, on as many threads as torch uses.

    Args:
        piece: so many images, counted from the first, stay in one call.
    """
    pieces = -(-images // piece)
    threads = min(torch.get_num_threads(), pieces)
    if threads == 1:
        kernel(0, images, *arguments)
        return
    ends = accumulate(even_sizes(pieces, min(pieces, _TURNS * threads)), initial=0)
    turns = deque(pairwise(min(images, piece * end) for end in ends))

    def work() -> None:
        while True:
            try:
                first, last = turns.popleft()
            except IndexError:
                return
            kernel(first, last, *arguments)

    others = [_pool(threads).submit(work) for _ in range(threads - 1)]
    work()
    for other in others:
        other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, "kernel")
