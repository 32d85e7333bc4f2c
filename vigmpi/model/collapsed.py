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
from torch import Tensor

from vigmpi.kernels.autograd import Moments, hidden_layer
from vigmpi.model import block
from vigmpi.model.block import GraphConvWeights, LinearNorm
from vigmpi.model.graph import PixelLattice


class Affine(NamedTuple):
    """The map weight x + bias."""

    weight: Tensor
    bias: Tensor

    def to(self, dtype: torch.dtype) -> "Affine":
        return Affine(self.weight.to(dtype), self.bias.to(dtype))


class Block(block.Block):
    def forward(self, features: Tensor, graph: PixelLattice) -> Tensor:
        conv = self.grapher.graph_conv
        assert isinstance(conv, GraphConvWeights)
        first, last = self.grapher.fc1, self.grapher.fc2
        affine, shift = self._collapsed(first, features, graph)
        x = self._add(features, shift, _over_neighbours(affine, conv), last, graph)
        first, last = self.ffn.fc1, self.ffn.fc2
        affine, shift = self._collapsed(first, x, graph)
        return self._add(x, shift, affine, last)

    def _collapsed(
        self, layer: LinearNorm, x: Tensor, graph: PixelLattice
    ) -> tuple[Affine, Tensor]:
        """Linear and norm as one map of x - shift, and that shift."""
        if not self.training:
            return folded(layer), x.new_zeros(x.shape[1])
        moments = graph.moments(x)
        shift = moments.mean.detach().to(x.dtype)
        return normalised(layer, moments, shift), shift

    def _add(
        self,
        x: Tensor,
        shift: Tensor,
        affine: Affine,
        layer: LinearNorm,
        graph: PixelLattice | None = None,
    ) -> Tensor:
        """Add norm(linear(gelu(affine(x - shift)))), over neighbours where a graph is given."""
        linear = layer.linear
        last = Affine(linear.weight, linear.bias.detach()) if self.training else folded(layer)
        y = hidden_layer(x, shift, *affine, last.weight.T, last.bias, graph)
        return x + (layer.norm(y) if self.training else y)


def normalised(layer: LinearNorm, moments: Moments, shift: Tensor) -> Affine:
    """Linear and norm in training, as a map of x - shift; the norm takes note of its moments.

    In float64, since small differences of moments count; the map is then rounded.
    """
    linear, norm = layer.linear, layer.norm
    weight = linear.weight.double()
    variance = ((weight @ moments.covariance) * weight).sum(dim=1)
    norm.take(moments.nodes, weight @ moments.mean + linear.bias, variance)
    scaled = (norm.weight * (variance + norm.eps).rsqrt())[:, None] * weight
    affine = Affine(scaled, norm.bias - scaled @ (moments.mean - shift))
    return affine.to(linear.weight.dtype)


def folded(layer: LinearNorm) -> Affine:
    """Linear and norm in evaluation, by the running statistics, as a map of x."""
    linear, norm = layer.linear, layer.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var.double() + norm.eps).rsqrt()
    offset = norm.bias + scale * (linear.bias - norm.running_mean)
    return Affine(scale[:, None] * linear.weight, offset).to(linear.weight.dtype)


def _over_neighbours(affine: Affine, conv: GraphConvWeights) -> Affine:
    """The graph convolution of a map, as a map of what `PixelLattice.spread` makes of x."""
    rel, root = conv.lin_rel.weight, conv.lin_root.weight
    weight, bias = affine
    wide = torch.cat([rel @ weight, root @ weight, (rel @ bias)[:, None]], dim=1)
    return Affine(wide, root @ bias + conv.lin_rel.bias)


def node_sum(features: Tensor) -> Tensor:
    """[images, channels, nodes] to [images, channels]."""
    return features.sum(dim=2)
