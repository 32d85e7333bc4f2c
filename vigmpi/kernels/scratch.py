import math

import torch
from torch import Tensor

_BUFFERS: dict[tuple[str, torch.dtype], Tensor] = {}


def scratch(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return an uninitialised tensor that is valid until the next call with this name and type.

    Fresh memory would cost page faults at every step: a tenth of the step's time.
    """
    size, key = math.prod(shape), (name, dtype)
    if key not in _BUFFERS or len(_BUFFERS[key]) < size:
        _BUFFERS[key] = torch.empty(size, dtype=dtype)
    return _BUFFERS[key][:size].view(shape)
