from collections.abc import Sequence

import torch
from torch import Tensor


@torch.enable_grad()
def scalar_with_gradients(outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """A scalar whose gradient with respect to each output is, bit for bit, the one given.

    To go backward from it costs a pass over the outputs; to hand autograd the gradients
    themselves would import its symbolic shapes, with sympy: a second of every rank's start.
    """
    pairs = zip(outputs, gradients, strict=True)
    return torch.stack([torch.dot(y.flatten(), dy.flatten()) for y, dy in pairs]).sum()
