"""Graph convolutions that keep no features of edges, [images, channels, nodes, k], for backward.

Maxima and sums run over the neighbours of one rank after another. A pointwise layer of edges is
computed for nodes and candidates instead, and its batch norm over the edges from their moments.
README.md derives the formulas.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vigmpi.graphs.neighbours import Neighbours
from vigmpi.models.normalization import Conv2dBeforeNorm, MicroBatchNorm
from vigmpi.models.vig import reference


class MaxRelative(reference.MaxRelative):
    def _relative(self, x: Tensor, y: Tensor, graph: Neighbours) -> Tensor:
        return graph.maximum(y, x) - x  # the same bits, because rounding is monotone


class EdgeConv(reference.EdgeConv):
    def forward(self, x: Tensor, y: Tensor, graph: Neighbours) -> Tensor:
        conv, norm, activation = _pointwise(self.nn)
        channels, groups = x.shape[1], conv.groups // 2
        weight_x, weight_difference = conv.weight.split(channels)
        own = F.conv2d(x, weight_x, groups=groups)
        p = F.conv2d(y, weight_difference, groups=groups)
        q = F.conv2d(x, weight_difference, groups=groups)

        def moments() -> tuple[Tensor, Tensor]:
            pairs = zip(_node_moments(own), _edge_moments(p, q, graph), strict=True)
            mean, variance = map(torch.cat, pairs)
            return mean, variance

        scale, offset = _scale_and_offset(conv, norm, graph.num_edges, moments)
        (a, scale), (b, offset) = scale.split(channels), offset.split(channels)

        def activated(difference: Tensor) -> Tensor:
            return activation(torch.addcmul(_column(offset), _column(scale), difference))

        # The activation falls, then rises: its maximum is that of one of the extremes.
        largest = activated(graph.maximum(p, x) - q)
        smallest = activated(graph.minimum(p, x) - q)
        first = activation(torch.addcmul(_column(b), _column(a), own))
        return torch.cat([first, torch.maximum(largest, smallest)], dim=1)


class GraphSage(reference.GraphSage):
    def _gathered(self, x: Tensor, y: Tensor, graph: Neighbours) -> Tensor:
        conv, norm, activation = _pointwise(self.nn1)
        values = F.conv2d(y, conv.weight, groups=conv.groups)

        def moments() -> tuple[Tensor, Tensor]:
            degrees = graph.in_degrees(y)
            mean = (degrees * values).sum(dim=(0, 2, 3)) / graph.num_edges
            centred = values - _column(mean)
            return mean, (degrees * centred.square()).sum(dim=(0, 2, 3)) / graph.num_edges

        scale, offset = _scale_and_offset(conv, norm, graph.num_edges, moments)
        return graph.maximum(activation(_column(scale) * values + _column(offset)), x)


class Gin(reference.Gin):
    def _sum(self, x: Tensor, y: Tensor, graph: Neighbours) -> Tensor:
        return graph.sum(y, x)


CONVOLUTIONS = {"mr": MaxRelative, "edge": EdgeConv, "sage": GraphSage, "gin": Gin}


def _pointwise(layer: nn.Sequential) -> tuple[Conv2dBeforeNorm, MicroBatchNorm, nn.Module]:
    conv, norm, activation = layer
    assert isinstance(conv, Conv2dBeforeNorm)
    assert isinstance(norm, MicroBatchNorm)
    return conv, norm, activation


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
    return scale, offset + scale * bias


def _node_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel, which are those over equally many edges."""
    variance, mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
    return mean, variance


def _edge_moments(p: Tensor, q: Tensor, graph: Neighbours) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of p_j - q_i over all edges, of each channel.

    Args:
        p: map of the candidates.
        q: map of the nodes.
    """
    axes = (0, 2, 3)
    degrees = graph.in_degrees(p)
    p_mean = (degrees * p).sum(dim=axes) / graph.num_edges
    q_mean = q.mean(dim=axes)
    # Centred values lose few digits in the difference of the squares' sums.
    p, q = p - _column(p_mean), q - _column(q_mean)
    k = graph.index.shape[2]
    squares = degrees * p.square()
    rest = q * (k * q - 2 * graph.sum(p, q))
    return p_mean - q_mean, (squares.sum(dim=axes) + rest.sum(dim=axes)) / graph.num_edges


def _column(values: Tensor) -> Tensor:
    return values[:, None, None]
