import math

import torch
from torch import Tensor

_ROOM: dict[str, Tensor] = {}


def scratch(name: str, *shape: int) -> Tensor:
    """A float32 tensor for what nothing keeps: valid until the name is asked for again.

    Fresh memory for it would cost page faults at every step, a tenth of the step's time.
    """
    size = math.prod(shape)
    if name not in _ROOM or len(_ROOM[name]) < size:
        _ROOM[name] = torch.empty(size)
    return _ROOM[name][:size].view(shape)
