"""Operations of a ViG on compiled kernels, without features of edges [images, channels, nodes, k].

A convolution's batch norm, activation and residual connection are one operation. A pointwise layer
of edges is computed for nodes and candidates instead, and its batch norm over the edges from their
moments. README.md derives the formulas.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vigmpi.graphs.neighbours import Neighbours, nearest
from vigmpi.kernels.arrays import rows
from vigmpi.kernels.fused_layers import (
    activated_norm,
    add_to_residual,
    pointwise,
    pointwise_of_norm,
)
from vigmpi.kernels.norm_activation import Norm, Statistics, make_norm
from vigmpi.models.normalization import Conv2dBeforeNorm, MicroBatchNorm
from vigmpi.models.vig import reference
from vigmpi.models.vig.backend import Backend, ConvNorm


class Activated(NamedTuple):
    """Activated output of a `FusedConvNorm`, which the next layer computes from z.

    Attributes:
        z: output of the convolution.
        gamma, beta: weight and bias of the norm.
    """

    z: Tensor
    gamma: Tensor
    beta: Tensor
    norm: Norm

    def compute(self) -> Tensor:
        return activated_norm(*self)


class FusedConvNorm(ConvNorm):
    def forward(  # type: ignore[override]
        self,
        features: Tensor | Activated,
        residual: Tensor | None = None,
        factor: Tensor | None = None,
    ) -> Tensor | Activated:
        conv, norm = _parts(self)
        z = _convolve(self, features)
        # The norm subtracts the bias of the convolution again.
        bias = 0 if conv.bias is None else conv.bias.detach().double().numpy()
        running = None
        if not norm.training:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            mean, variance = norm.running_mean.double().numpy(), norm.running_var.double().numpy()
            running = Statistics(mean - bias, variance)
        weights = norm.weight, norm.bias
        fixed = make_norm(rows(z), *weights, norm.eps, running, self.activation)
        if norm.training:
            mean, variance = fixed.statistics
            moments = torch.from_numpy(mean + bias), torch.from_numpy(variance)
            norm.record_moments(z[:, 0].numel(), *moments)
        if residual is not None:
            return add_to_residual(residual, z, *weights, fixed, factor)
        activated = Activated(z, *weights, fixed)
        return activated.compute() if self.activation == "none" else activated


def _convolve(layer: FusedConvNorm, features: Tensor | Activated) -> Tensor:
    conv, _ = _parts(layer)
    if conv.kernel_size == (1, 1):
        return _product(layer, features, conv.weight, conv.groups)
    x = features.compute() if isinstance(features, Activated) else features
    x = x.contiguous(memory_format=torch.channels_last)  # images are not
    return F.conv2d(x, conv.weight.to(x.dtype), None, conv.stride, conv.padding)


def _product(layer: ConvNorm, features: Tensor | Activated, weight: Tensor, groups: int) -> Tensor:
    """Return the 1x1 convolution of features with some weights of a layer."""
    arguments = weight.flatten(1), groups, layer.matmul
    if isinstance(features, Activated):
        return pointwise_of_norm(*features, *arguments)
    return pointwise(features, *arguments)


class MaxRelative(reference.MaxRelative):
    def _pairs(self, x: Tensor, y: Tensor, graph: Neighbours) -> Tensor:
        return graph.max_relative(x, y)


class EdgeConv(reference.EdgeConv):
    def forward(self, x: Tensor, y: Tensor, graph: Neighbours) -> Tensor:
        conv, norm = _parts(self.nn)
        channels, groups = x.shape[1], conv.groups // 2
        weight_x, weight_difference = conv.weight.split(channels)
        own = _product(self.nn, x, weight_x, groups)
        p = _product(self.nn, y, weight_difference, groups)
        q = p if y is x else _product(self.nn, x, weight_difference, groups)

        def moments() -> tuple[Tensor, Tensor]:
            pairs = zip(_node_moments(own), graph.edge_moments(p, q), strict=True)
            mean, variance = map(torch.cat, pairs)
            return mean, variance

        scale, offset = _scale_and_offset(conv, norm, graph.num_edges, moments)
        (a, scale), (b, offset) = scale.split(channels), offset.split(channels)
        activation = reference.ACTIVATIONS[self.nn.activation]

        def activated(difference: Tensor) -> Tensor:
            return activation(torch.addcmul(_column(offset), _column(scale), difference))

        # The activation falls, then rises: its maximum is that of one of the extremes.
        largest = activated(graph.maximum(p, x) - q)
        smallest = activated(graph.minimum(p, x) - q)
        first = activation(torch.addcmul(_column(b), _column(a), own))
        return torch.cat([first, torch.maximum(largest, smallest)], dim=1).to(x.dtype)


class GraphSage(reference.GraphSage):
    def _gathered(self, x: Tensor, y: Tensor, graph: Neighbours) -> Tensor:
        conv, norm = _parts(self.nn1)
        activation = reference.ACTIVATIONS[self.nn1.activation]
        values = _product(self.nn1, y, conv.weight, conv.groups).to(norm.weight.dtype)

        def moments() -> tuple[Tensor, Tensor]:
            degrees = graph.in_degrees(values)
            mean = (degrees * values).sum(dim=(0, 2, 3)) / graph.num_edges
            centred = values - _column(mean)
            return mean, (degrees * centred.square()).sum(dim=(0, 2, 3)) / graph.num_edges

        scale, offset = _scale_and_offset(conv, norm, graph.num_edges, moments)
        return graph.maximum(activation(_column(scale) * values + _column(offset)), x).to(x.dtype)


class Gin(reference.Gin):
    def _sum(self, x: Tensor, y: Tensor, graph: Neighbours) -> Tensor:
        return graph.sum(y, x)


CONVOLUTIONS = {"mr": MaxRelative, "edge": EdgeConv, "sage": GraphSage, "gin": Gin}

BACKEND = Backend(FusedConvNorm, CONVOLUTIONS, nearest)


def _parts(layer: ConvNorm) -> tuple[Conv2dBeforeNorm, MicroBatchNorm]:
    conv, norm = layer
    assert isinstance(conv, Conv2dBeforeNorm)
    assert isinstance(norm, MicroBatchNorm)
    return conv, norm


def _scale_and_offset(
    conv: Conv2dBeforeNorm,
    norm: MicroBatchNorm,
    count: int,
    moments: Callable[[], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Return the norm as a scale and an offset of the convolution's output without its bias.

    Args:
        count: number of values of each channel.
        moments: function that returns mean and biased variance of that output, for training.
    """
    bias = 0 if conv.bias is None else conv.bias.detach()

    def with_bias() -> tuple[Tensor, Tensor]:
        mean, variance = moments()
        return mean + bias, variance

    scale, offset = norm.scale_and_offset(count, with_bias)
    scale, offset = (vector.to(conv.weight.dtype) for vector in (scale, offset + scale * bias))
    return scale, offset


def _node_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel, which are those over equally many edges."""
    variance, mean = torch.var_mean(values.double(), dim=(0, 2, 3), correction=0)
    return mean, variance


def _column(values: Tensor) -> Tensor:
    return values[:, None, None]
