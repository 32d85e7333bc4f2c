"""Differentiable torch operations whose bits do not depend on the number of threads."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vigmpi.kernels.adjoint import scalar_with_gradients
from vigmpi.kernels.threads import one_torch_thread


def on_one_thread(
    function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor
) -> tuple[Tensor, ...]:
    """Return function(*tensors); one torch thread computes it and its gradients.

    Args:
        function: differentiable function of `tensors` alone.
    """
    if torch.is_grad_enabled():
        outputs: tuple[Tensor, ...] = _OneThread.apply(function, *tensors)
        return outputs
    with one_torch_thread():
        return function(*tensors)


class _OneThread(torch.autograd.Function):
    """Function with an autograd graph of its own.

    A caller's backward pass runs outside `one_torch_thread`, and would run the operations of a
    common graph there.
    """

    @staticmethod
    @one_torch_thread()
    def forward(
        ctx: Any, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.leaves = [t.detach().requires_grad_(t.requires_grad) for t in tensors]
        with torch.enable_grad():
            ctx.outputs = function(*ctx.leaves)
        return tuple(t.detach() for t in ctx.outputs)

    @staticmethod
    @once_differentiable
    @one_torch_thread()
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [leaf for leaf in ctx.leaves if leaf.requires_grad]
        found = iter(torch.autograd.grad(scalar_with_gradients(ctx.outputs, gradients), wanted))
        return None, *(next(found) if leaf.requires_grad else None for leaf in ctx.leaves)
