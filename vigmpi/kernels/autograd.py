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


def apply_hidden_layer(x: Tensor, layer: HiddenLayer, graph: Graph) -> Tensor:
    """Map [images, channels, nodes] to [images, outputs, nodes]; of the planes, save x alone."""
    tensors = layer.shift, layer.a, layer.b, layer.v, layer.c
    y: Tensor = _HiddenLayerFunction.apply(layer, graph, x, *tensors)
    return y


class _HiddenLayerFunction(torch.autograd.Function):
    @staticmethod
    @one_torch_thread()
    def forward(ctx: Any, layer: HiddenLayer, graph: Graph, x: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(x, *tensors)
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
        wanted = ctx.needs_input_grad[-1]
        dc = statistics.node_sums(dy, ctx.graph).sum(dim=0) if wanted else None
        return None, None, dx, None, da, db, dv, dc


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


class HalfBlock(NamedTuple):
    """Residual connection x + norm(linear(gelu(affine(x)))), whose affine map follows from x.

    Attributes:
        collapse: function from the moments of x to the affine map (`HiddenLayer.a`,
            `HiddenLayer.b`).
        parameters: tensors that `collapse` depends on and that take a gradient.
        linear: v and c of the hidden layer; c takes no gradient, since the norm cancels it.
        norm: batch norm that follows the linear map.
        convolution: true if the hidden layer reads the graph's neighbour sums.
    """

    collapse: Callable[[Moments], AffineMap]
    parameters: Sequence[Tensor]
    linear: AffineMap
    norm: Norm
    convolution: bool

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """The tensors that take a gradient."""
        return self.linear[0], self.norm.gamma, self.norm.beta, *self.parameters


def block(
    x: Tensor, halves: Sequence[HalfBlock], graph: Graph, *, recompute: bool = False
) -> tuple[Tensor, list[Moments]]:
    """Apply half-blocks, one after another.

    Two tensors of planes are saved for each of them: its input and the input of its norm. The
    gradients of weights are sums over all nodes of the graph.

    Args:
        x: node features, [images, channels, nodes].
        graph: graph of each image, over whose nodes the moments are taken.
        recompute: whether to save x alone and to compute the others again in the backward pass,
            without messages between ranks.

    Returns:
        The output, shaped like x, and the moments of the inputs of the norms, which take no
        gradient.
    """
    leaves = [leaf for half in halves for leaf in half.leaves]
    out, *tensors = _Block.apply((halves, graph, recompute), x, *leaves)
    num_nodes = x.shape[0] * graph.num_nodes
    return out, [Moments(num_nodes, *tensors[i : i + 3]) for i in range(0, len(tensors), 3)]


class _Tape:
    """Whatever the backward pass of a half-block needs besides planes, from one forward pass."""

    def __init__(self, x: Tensor, half: HalfBlock, graph: Graph) -> None:
        self._norm, self._graph = half.norm, graph
        self._halo = graph.start_halo(x) if half.convolution else None
        self._moments = statistics.moments(x, graph)
        mean, covariance = (t.clone().requires_grad_() for t in self._moments[1:3])
        self._leaves = mean, covariance, *half.parameters
        with torch.enable_grad():  # records the small maps alone
            moments = self._moments._replace(mean=mean, covariance=covariance)
            self._affine = half.collapse(moments)
        a, b = (t.detach() for t in self._affine)
        v, c = half.linear
        self._layer = HiddenLayer(self._moments.shift, a, b, v.detach(), c, half.convolution)

    def to_norm(self, x: Tensor) -> Tensor:
        """Return the input of the norm."""
        return hidden_layer.forward(x, self._layer, self._graph, self._halo)

    def keep_moments(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take the moments of the input of the norm."""
        self._output_moments = statistics.moments(y, self._graph)
        return self._output_moments[1:]

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the output of the half-block."""
        gamma, beta, eps = self._norm
        bands = self._graph.bands
        return statistics.add_normalised(x, y, self._output_moments, gamma, beta, eps, bands)

    def backward(
        self, dout: Tensor, x: Tensor, y: Tensor, *, input_gradient: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the gradients of x and of `HalfBlock.leaves`.

        Args:
            input_gradient: whether the gradient of x is wanted; otherwise it is left incomplete.
        """
        graph, moments = self._graph, self._output_moments
        gamma, _, eps = self._norm
        dy = scratch("dy", *y.shape, dtype=y.dtype)
        sums = statistics.moments_adjoint(dout, y, moments.shift, graph)
        dgamma, dbeta = statistics.normalised_adjoint(
            dout, y, moments, sums, gamma, eps, dy, graph.bands
        )
        dx, da, db, dv = hidden_layer.backward(x, self._layer, dy, graph, self._halo)
        dmean, dcovariance, *dparameters = torch.autograd.grad(
            scalar_with_gradients(self._affine, (da, db)), self._leaves
        )
        if input_gradient:
            statistics.add_moments_adjoint(
                dx, dout, x, self._moments, dmean, dcovariance, graph.bands
            )
        return dx, [dv, dgamma, dbeta, *dparameters]


class _Block(torch.autograd.Function):
    @staticmethod
    @one_torch_thread()
    def forward(
        ctx: Any,
        fixed: tuple[Sequence[HalfBlock], Graph, bool],
        x: Tensor,
        *leaves: Tensor,  # noqa: ARG004 (autograd sees them here)
    ) -> tuple[Tensor, ...]:
        halves, graph, recompute = fixed
        ctx.tapes = []
        planes: list[Tensor] = []
        moments: list[Tensor] = []
        for half in halves:
            tape = _Tape(x, half, graph)
            y = tape.to_norm(x)
            moments += tape.keep_moments(y)
            ctx.tapes.append(tape)
            planes += [x, y]
            x = tape.add(x, y)
        ctx.save_for_backward(*(planes[:1] if recompute else planes))
        ctx.mark_non_differentiable(*moments)
        return x, *moments

    @staticmethod
    @once_differentiable
    @one_torch_thread()
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        planes = list(ctx.saved_tensors)
        while len(planes) < 2 * len(ctx.tapes):  # recompute
            if len(planes) % 2:
                planes.append(ctx.tapes[len(planes) // 2].to_norm(planes[-1]))
            else:
                planes.append(ctx.tapes[len(planes) // 2 - 1].add(*planes[-2:]))
        gradient = gradient.contiguous()
        gradients: list[Tensor] = []
        for number, tape in reversed(list(enumerate(ctx.tapes))):
            y, x = planes.pop(), planes.pop()
            wanted = number > 0 or ctx.needs_input_grad[1]
            gradient, own = tape.backward(gradient, x, y, input_gradient=wanted)
            gradients = own + gradients
        return None, gradient, *gradients
