"""Memory that is used again instead of being given back to the system.

Fresh memory would cost page faults at every step: a tenth of the step's time.
"""

import math
import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT = 64  # bytes
_BUFFERS: dict[tuple[str, torch.dtype], Tensor] = {}
_FREE: dict[int, list[NDArray[np.uint8]]] = {}  # by size in bytes


def scratch(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return an uninitialised tensor that is valid until the next call with this name and type."""
    size, key = math.prod(shape), (name, dtype)
    if key not in _BUFFERS or len(_BUFFERS[key]) < size:
        _BUFFERS[key] = torch.empty(size, dtype=dtype)
    return _BUFFERS[key][:size].view(shape)


def reused(*shape: int, dtype: torch.dtype) -> Tensor:
    """Return an uninitialised tensor, whose memory is kept for the next one of its size."""
    size_bytes = math.prod(shape) * dtype.itemsize
    free = _FREE.setdefault(size_bytes, [])
    if not free:
        for others in _FREE.values():  # of micro-batches of another size, or of another model
            others.clear()
    memory = free.pop() if free else _aligned(size_bytes)
    view = memory[:]  # torch holds it as long as any tensor uses the memory
    weakref.finalize(view, free.append, memory)
    return torch.from_numpy(view).view(dtype).view(shape)


def _aligned(size_bytes: int) -> NDArray[np.uint8]:
    memory = np.empty(size_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size_bytes]
