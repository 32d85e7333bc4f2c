from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import torch

from vigmpi.split import even


def over_images(kernel: Callable[..., Any], images: int, *arguments: Any, piece: int = 1) -> None:
    """Run kernel(first, last, *arguments) for all images, on as many threads as torch uses.

    Args:
        piece: so many images, counted from the first, stay in one thread.
    """
    pieces = -(-images // piece)
    threads = min(torch.get_num_threads(), pieces)
    sizes = even(pieces, threads)
    ends = [min(images, piece * sum(sizes[:i])) for i in range(threads + 1)]
    others = [
        _pool(threads).submit(kernel, first, last, *arguments) for first, last in pairwise(ends[1:])
    ]
    kernel(0, ends[1], *arguments)
    for other in others:
        other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, "kernel")
