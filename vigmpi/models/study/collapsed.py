"""The block by an exact collapse of what is linear in it.

Nothing in front of a GELU is more than an affine map of the few-channel input x. The batch norm
over Linear(x) follows from the mean and covariance K of x: unit h, with weights w, has variance
w K w^T. So Linear and norm together are A x + c, and with the graph convolution

    W_rel A (sum over neighbours of x) + W_root A x + W_rel c (number of neighbours)
        + W_root c + b_rel

The maps are made for each micro-batch by small differentiable products, so every parameter gets
its exact gradient. x enters less its rounded mean, which keeps the digits of values far from
zero.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vigmpi.graphs.pixel_lattice import PixelLattice
from vigmpi.kernels.autograd import Norm, apply_hidden_layer, residual
from vigmpi.kernels.hidden_layer import HiddenLayer
from vigmpi.kernels.statistics import Moments
from vigmpi.models.study import block
from vigmpi.models.study.block import GraphConvWeights, LinearNorm


class Affine(NamedTuple):
    """The map weight x + bias."""

    weight: Tensor
    bias: Tensor

    def to(self, dtype: torch.dtype) -> "Affine":
        return Affine(self.weight.to(dtype), self.bias.to(dtype))


class Block(block.Block):
    _state: list[int] | None = None  # versions of the tensors that `_layers` were folded from
    _layers: list[HiddenLayer]

    def forward(self, features: Tensor, graph: PixelLattice) -> Tensor:
        if not self.training:
            return self._evaluate(features, graph)
        x = self._train(features, self.grapher, graph)
        return self._train(x, self.ffn)

    def _train(
        self, x: Tensor, half: block.Grapher | block.FeedForward, graph: PixelLattice | None = None
    ) -> Tensor:
        first, last = half.fc1, half.fc2
        conv = half.graph_conv if isinstance(half, block.Grapher) else None

        def collapse(moments: Moments) -> Affine:
            affine = normalised(first, moments)
            return _over_neighbours(affine, conv) if conv else affine

        parameters = [first.linear.weight, *first.norm.parameters()]
        if conv:
            parameters += conv.parameters()
        linear = Affine(last.linear.weight.T, last.linear.bias.detach())
        norm = Norm(last.norm.weight, last.norm.bias, last.norm.eps)
        y, moments = residual(x, collapse, parameters, linear, norm, graph)
        last.norm.record_moments(moments.num_nodes, moments.mean, moments.variance)
        return y

    def _evaluate(self, x: Tensor, graph: PixelLattice) -> Tensor:
        for hidden in self._folded(graph):
            x = x + apply_hidden_layer(x, hidden)
        return x

    def _folded(self, graph: PixelLattice) -> list[HiddenLayer]:
        """Both hidden layers by the running statistics.

        Folded once for all micro-batches, until a weight or a statistic changes.
        """
        if torch.is_grad_enabled():
            return self._fold(graph)
        state = [t._version for t in (*self.parameters(), *self.buffers())]
        if self._state != state:
            self._state, self._layers = state, self._fold(graph)
        return self._layers

    def _fold(self, graph: PixelLattice) -> list[HiddenLayer]:
        grapher, ffn = self.grapher, self.ffn
        maps = [
            (_over_neighbours(folded(grapher.fc1), grapher.graph_conv), folded(grapher.fc2), graph),
            (folded(ffn.fc1), folded(ffn.fc2), None),
        ]
        dtype = ffn.fc1.linear.weight.dtype
        layers = []
        for first, last, over in maps:
            (a, b), (v, c) = first.to(dtype), last.to(dtype)
            layers.append(HiddenLayer(c.new_zeros(len(c)), a, b, v.T, c, over))
        return layers


def normalised(layer: LinearNorm, moments: Moments) -> Affine:
    """Linear and norm in training, as a map of x - shift; the norm takes note of its moments.

    In float64, since small differences of moments count; the map is then rounded.
    """
    linear, norm = layer.linear, layer.norm
    weight = linear.weight.double()
    variance = ((weight @ moments.covariance) * weight).sum(dim=1)
    norm.record_moments(moments.num_nodes, weight @ moments.mean + linear.bias, variance)
    scaled = (norm.weight * (variance + norm.eps).rsqrt())[:, None] * weight
    bias = norm.bias - scaled @ (moments.mean - moments.shift)
    return Affine(scaled, bias).to(linear.weight.dtype)


def folded(layer: LinearNorm) -> Affine:
    """Linear and norm in evaluation, by the running statistics, as a map of x in float64."""
    linear, norm = layer.linear, layer.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var.double() + norm.eps).rsqrt()
    offset = norm.bias + scale * (linear.bias - norm.running_mean)
    return Affine(scale[:, None] * linear.weight, offset)


def _over_neighbours(affine: Affine, conv: nn.Module) -> Affine:
    """The graph convolution of a map, as a map of what `PixelLattice.gather_features` makes of x."""
    assert isinstance(conv, GraphConvWeights)
    both = torch.cat([affine.weight.T, affine.bias[None]])
    near = F.linear(both, conv.lin_rel.weight.to(both.dtype))
    own = F.linear(both, conv.lin_root.weight.to(both.dtype))
    weight = torch.cat([near[:-1], own[:-1], near[-1:]])
    return Affine(weight.T, own[-1] + conv.lin_rel.bias)


def node_sum(features: Tensor) -> Tensor:
    """[images, channels, nodes] to [images, channels]."""
    return features.sum(dim=2)
