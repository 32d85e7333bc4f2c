import math

import numpy as np
from numpy.typing import DTypeLike, NDArray

_ALIGNMENT_BYTES = 64


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.generic]:
    """Return an uninitialised array that starts at a cache line, as torch's own tensors do.

    With other alignments, kernels may run different code, whose results differ in the last bits.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    storage = np.empty(size + _ALIGNMENT_BYTES, dtype=np.uint8)
    start = -storage.ctypes.data % _ALIGNMENT_BYTES
    return storage[start : start + size].view(dtype).reshape(shape)
