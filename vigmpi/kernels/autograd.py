"""Differentiable functions on planes [images, channels, nodes], built on the compiled kernels.

float32 runs the kernels. float64, used for checks, evaluates the same formulas with torch
operations.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vigmpi.kernels import hidden_layer, statistics
from vigmpi.kernels.adjoint import scalar_with_gradients
from vigmpi.kernels.hidden_layer import HiddenLayer
from vigmpi.kernels.lattice import Graph
from vigmpi.kernels.scratch import scratch
from vigmpi.kernels.statistics import Moments
from vigmpi.kernels.threads import one_torch_thread

AffineMap = tuple[Tensor, Tensor]


def apply_hidden_layer(x: Tensor, weights: HiddenLayer) -> Tensor:
    """Map [images, channels, nodes] to [images, outputs, nodes]; of the planes, save x alone."""
    if x.dtype is torch.float32:
        return _HiddenLayerFunction.apply(x, *weights)
    shift, a, b, v, c, graph = weights
    features = graph.neighbour_sum(x, shift) if graph else x - shift[:, None]
    return v.T @ F.gelu(a @ features + b[:, None]) + c[:, None]


class _HiddenLayerFunction(torch.autograd.Function):
    @staticmethod
    @one_torch_thread()
    def forward(ctx: Any, x: Tensor, *weights: Any) -> Tensor:
        *tensors, graph = weights
        ctx.save_for_backward(x, *tensors)
        ctx.graph = graph
        return hidden_layer.forward(x, HiddenLayer(*weights))

    @staticmethod
    @once_differentiable
    @one_torch_thread()
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, a, b, v, c = ctx.saved_tensors
        dy = dy.contiguous()
        dx, da, db, dv = hidden_layer.backward(x, HiddenLayer(shift, a, b, v, c, ctx.graph), dy)
        dc = dy.sum(dim=(0, 2)) if ctx.needs_input_grad[5] else None
        return dx, None, da, db, dv, dc, None


class Norm(NamedTuple):
    """Batch-norm weights [channels], and the constant added to the variance."""

    gamma: Tensor
    beta: Tensor
    eps: float


def residual(
    x: Tensor,
    collapse: Callable[[Moments], AffineMap],
    parameters: Sequence[Tensor],
    linear: AffineMap,
    norm: Norm,
    graph: Graph,
    *,
    convolution: bool,
) -> tuple[Tensor, Moments]:
    """Add norm(linear(gelu(affine(x)))) to x, with an affine map computed from the moments of x.

    Two tensors of planes are saved for the backward pass: x and the input of the norm.

    Args:
        x: node features, [images, channels, nodes].
        collapse: function from moments to the affine map (`HiddenLayer.a`, `HiddenLayer.b`).
        parameters: tensors that `collapse` depends on and that take a gradient.
        linear: v and c of the hidden layer; c takes no gradient, since the norm cancels it.
        norm: batch norm that follows the linear map.
        graph: graph whose moments are taken.
        convolution: true if the hidden layer reads the graph's neighbour sums.

    Returns:
        The sum, shaped like x, and the moments of the norm's input, which take no gradient.
    """
    if x.dtype is torch.float32:
        fixed = collapse, norm.eps, graph, convolution, linear[1]
        out, *moments = _Residual.apply(fixed, x, linear[0], norm.gamma, norm.beta, *parameters)
        return out, Moments(x.shape[0] * x.shape[2], *moments)
    input_moments = graph.moments(x)
    (a, b), (v, c) = collapse(input_moments), linear
    weights = HiddenLayer(input_moments.shift, a, b, v, c, graph if convolution else None)
    y = apply_hidden_layer(x, weights)
    out = x + F.batch_norm(y, None, None, norm.gamma, norm.beta, True, 0.0, norm.eps)
    return out, graph.moments(y.detach())


class _Residual(torch.autograd.Function):
    @staticmethod
    @one_torch_thread()
    def forward(
        ctx: Any,
        fixed: tuple[Callable[[Moments], AffineMap], float, Graph, bool, Tensor],
        x: Tensor,
        v: Tensor,
        gamma: Tensor,
        beta: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        collapse, ctx.eps, ctx.graph, convolution, c = fixed
        ctx.moments = ctx.graph.moments(x)
        mean, covariance = (t.clone().requires_grad_() for t in ctx.moments[1:3])
        ctx.leaves = mean, covariance, *parameters
        with torch.enable_grad():  # records the small maps alone
            ctx.affine = collapse(ctx.moments._replace(mean=mean, covariance=covariance))
        a, b = (t.detach() for t in ctx.affine)
        graph = ctx.graph if convolution else None
        ctx.layer = HiddenLayer(ctx.moments.shift, a, b, v.detach(), c, graph)
        y = hidden_layer.forward(x, ctx.layer)
        ctx.output_moments = ctx.graph.moments(y)
        ctx.save_for_backward(x, y, gamma)
        moments = ctx.output_moments[1:]
        ctx.mark_non_differentiable(*moments)
        out = statistics.add_normalised(x, y, ctx.output_moments, gamma, beta, ctx.eps)
        return out, *moments

    @staticmethod
    @once_differentiable
    @one_torch_thread()
    def backward(ctx: Any, dout: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, y, gamma = ctx.saved_tensors
        dout, dy = dout.contiguous(), scratch("dy", *y.shape)
        sums = ctx.graph.moments_adjoint(dout, y, ctx.output_moments.shift)
        dgamma, dbeta = statistics.normalised_adjoint(
            dout, y, ctx.output_moments, sums, gamma, ctx.eps, dy
        )
        dx, da, db, dv = hidden_layer.backward(x, ctx.layer, dy)
        dmean, dcovariance, *dparameters = torch.autograd.grad(
            scalar_with_gradients(ctx.affine, (da, db)), ctx.leaves
        )
        if ctx.needs_input_grad[1]:
            statistics.add_moments_adjoint(dx, dout, x, ctx.moments, dmean, dcovariance)
        return None, dx, dv, dgamma, dbeta, *dparameters
