import math

import torch
from torch import Tensor

_BUFFERS: dict[str, Tensor] = {}


def scratch(name: str, *shape: int) -> Tensor:
    """Return an uninitialised float32 tensor that is valid until the next call with this name.

    Fresh memory would cost page faults at every step: a tenth of the step's time.
    """
    size = math.prod(shape)
    if name not in _BUFFERS or len(_BUFFERS[name]) < size:
        _BUFFERS[name] = torch.empty(size)
    return _BUFFERS[name][:size].view(shape)
