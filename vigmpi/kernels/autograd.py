"""Differentiable functions on planes [images, channels, nodes], built on the compiled kernels.

They are collective over the ranks that share a graph.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vigmpi.kernels import hidden_layer, statistics
from vigmpi.kernels.adjoint import scalar_with_gradients
from vigmpi.kernels.hidden_layer import HiddenLayer
from vigmpi.kernels.lattice import Graph
from vigmpi.kernels.scratch import scratch
from vigmpi.kernels.statistics import Moments
from vigmpi.kernels.threads import one_torch_thread

AffineMap = tuple[Tensor, Tensor]


def apply_hidden_layer(x: Tensor, weights: HiddenLayer, graph: Graph) -> Tensor:
    """Map [images, channels, nodes] to [images, outputs, nodes]; of the planes, save x alone."""
    y: Tensor = _HiddenLayerFunction.apply(x, graph, *weights)
    return y


class _HiddenLayerFunction(torch.autograd.Function):
    @staticmethod
    @one_torch_thread()
    def forward(ctx: Any, x: Tensor, graph: Graph, *weights: Any) -> Tensor:
        layer = HiddenLayer(*weights)
        ctx.save_for_backward(x, *layer[:5])
        ctx.convolution, ctx.graph = layer.convolution, graph
        ctx.halo = graph.start_halo(x) if layer.convolution else None
        return hidden_layer.forward(x, layer, graph, ctx.halo)

    @staticmethod
    @once_differentiable
    @one_torch_thread()
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, a, b, v, c = ctx.saved_tensors
        dy, layer = dy.contiguous(), HiddenLayer(shift, a, b, v, c, ctx.convolution)
        dx, da, db, dv = hidden_layer.backward(x, layer, dy, ctx.graph, ctx.halo)
        dc = dy.sum(dim=(0, 2)) if ctx.needs_input_grad[6] else None
        return dx, None, None, da, db, dv, dc, None


def node_sum(x: Tensor, graph: Graph) -> Tensor:
    """Sum features over the nodes of each image: [images, channels]."""
    total: Tensor = _NodeSum.apply(x, graph)
    return total


class _NodeSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: Graph) -> Tensor:
        ctx.num_nodes = x.shape[2]
        return statistics.node_sums(x, graph)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[:, :, None].expand(-1, -1, ctx.num_nodes), None


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

    Two tensors of planes are saved for the backward pass: x and the input of the norm. The
    gradients of weights are sums over all nodes of the graph.

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
    fixed = collapse, norm.eps, graph, convolution, linear[1]
    out, *moments = _Residual.apply(fixed, x, linear[0], norm.gamma, norm.beta, *parameters)
    return out, Moments(x.shape[0] * graph.num_nodes, *moments)


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
        graph: Graph = ctx.graph
        ctx.halo = graph.start_halo(x) if convolution else None
        ctx.moments = statistics.moments(x, graph)
        mean, covariance = (t.clone().requires_grad_() for t in ctx.moments[1:3])
        ctx.leaves = mean, covariance, *parameters
        with torch.enable_grad():  # records the small maps alone
            ctx.affine = collapse(ctx.moments._replace(mean=mean, covariance=covariance))
        a, b = (t.detach() for t in ctx.affine)
        ctx.layer = HiddenLayer(ctx.moments.shift, a, b, v.detach(), c, convolution)
        y = hidden_layer.forward(x, ctx.layer, graph, ctx.halo)
        ctx.output_moments = statistics.moments(y, graph)
        ctx.save_for_backward(x, y, gamma)
        moments = ctx.output_moments[1:]
        ctx.mark_non_differentiable(*moments)
        out = statistics.add_normalised(x, y, ctx.output_moments, gamma, beta, ctx.eps, graph.bands)
        return out, *moments

    @staticmethod
    @once_differentiable
    @one_torch_thread()
    def backward(ctx: Any, dout: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, y, gamma = ctx.saved_tensors
        graph: Graph = ctx.graph
        dout, dy = dout.contiguous(), scratch("dy", *y.shape, dtype=y.dtype)
        sums = statistics.moments_adjoint(dout, y, ctx.output_moments.shift, graph)
        dgamma, dbeta = statistics.normalised_adjoint(
            dout, y, ctx.output_moments, sums, gamma, ctx.eps, dy, graph.bands
        )
        dx, da, db, dv = hidden_layer.backward(x, ctx.layer, dy, graph, ctx.halo)
        dmean, dcovariance, *dparameters = torch.autograd.grad(
            scalar_with_gradients(ctx.affine, (da, db)), ctx.leaves
        )
        if ctx.needs_input_grad[1]:
            moments, bands = ctx.moments, graph.bands
            statistics.add_moments_adjoint(dx, dout, x, moments, dmean, dcovariance, bands)
        return None, dx, dv, dgamma, dbeta, *dparameters
