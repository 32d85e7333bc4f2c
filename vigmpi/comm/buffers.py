import math

import numpy as np
from numpy.typing import DTypeLike, NDArray

_ALIGNMENT_BYTES = 64


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.generic]:
    """An uninitialised array that starts at a cache line, as torch's own tensors do.

    Kernels may take another path for other alignments, and the bits of a result with it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + _ALIGNMENT_BYTES, dtype=np.uint8)
    start = -room.ctypes.data % _ALIGNMENT_BYTES
    return room[start : start + size].view(dtype).reshape(shape)
