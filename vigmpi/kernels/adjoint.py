from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@torch.enable_grad()
def scalar_with_gradients(outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Return a zero whose gradient with respect to each output is, bit for bit, the given one.

    Passing the gradients to autograd directly would import its symbolic shapes, and with them
    sympy, which adds a second to the start of every rank.
    """
    return _ScalarWithGradients.apply(gradients, *outputs)


class _ScalarWithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradients: Sequence[Tensor], *outputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return outputs[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, one: Tensor) -> Any:  # noqa: ARG004
        return None, *ctx.gradients
