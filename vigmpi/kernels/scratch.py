"""Memory that is used again instead of being given back to the system.

Fresh memory would cost page faults at every step: a tenth of the step's time.
"""

import math
import threading
import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT = 64  # bytes


class _Memory(threading.local):
    """Memory of a thread: buffers by name and type, and free memory by its size in bytes."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[str, torch.dtype], Tensor] = {}
        self.free: dict[int, list[NDArray[np.uint8]]] = {}


_MEMORY = _Memory()


def scratch(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return an uninitialised tensor, valid until this thread's next call with name and type."""
    size, key = math.prod(shape), (name, dtype)
    buffers = _MEMORY.buffers
    if key not in buffers or len(buffers[key]) < size:
        buffers[key] = torch.empty(size, dtype=dtype)
    return buffers[key][:size].view(shape)


def reused(*shape: int, dtype: torch.dtype) -> Tensor:
    """Return an uninitialised tensor, whose memory is kept for the next one of its size."""
    size_bytes = math.prod(shape) * dtype.itemsize
    free = _MEMORY.free.setdefault(size_bytes, [])
    if not free:
        for others in _MEMORY.free.values():  # of micro-batches of another size, or another model
            others.clear()
    memory = free.pop() if free else _aligned(size_bytes)
    view = memory[:]  # torch holds it as long as any tensor uses the memory
    weakref.finalize(view, free.append, memory).atexit = False
    return torch.from_numpy(view).view(dtype).view(shape)


def _aligned(size_bytes: int) -> NDArray[np.uint8]:
    memory = np.empty(size_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size_bytes]
