"""Operations of a ViG in plain torch, the oracle for tests of the fast backend.

The search stores all distances. The graph convolutions gather the features of all neighbours,
[images, channels, nodes, k], and use the features of the nodes (x) and of the candidates (y) before
their normalisation. The fast backend overrides what it computes differently.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vigmpi.graphs.neighbours import Neighbours
from vigmpi.models.vig.backend import Backend, ConvNorm, MakePointwise

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda values: values,
    "relu": F.relu,
    "gelu": F.gelu,
}


class PlainConvNorm(ConvNorm):
    def forward(
        self, features: Tensor, residual: Tensor | None = None, factor: Tensor | None = None
    ) -> Tensor:
        conv, norm = self
        branch = ACTIVATIONS[self.activation](norm(conv(features)))
        if factor is not None:
            branch = branch * factor.to(branch.dtype)[:, None, None, None]
        return branch if residual is None else residual + branch


@torch.no_grad()
def nearest(
    nodes: Tensor, candidates: Tensor, k: int, dilation: int, offsets: Tensor | None = None
) -> Tensor:
    """Return what `graphs.neighbours.nearest` does."""
    return _smallest(distances(nodes, candidates, offsets), k * dilation)[..., ::dilation]


def distances(nodes: Tensor, candidates: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Return squared distances [images, nodes, candidates] without a term that changes no order."""
    x, y = (F.normalize(features.flatten(2).mT, dim=2) for features in (nodes, candidates))
    squares = y.square().sum(dim=2)[:, None]
    if offsets is not None:
        squares = squares + offsets
    return torch.baddbmm(squares, x, y.mT, alpha=-2)


def _smallest(distances: Tensor, count: int) -> Tensor:
    """Return the indices of the smallest distances in ascending order, lower index first."""
    num_candidates = distances.shape[-1]
    # One more than needed shows whether the last one has an equal.
    values, indices = distances.topk(min(count + 1, num_candidates), largest=False)
    tied = (values[..., 1:] == values[..., :-1]).any(dim=-1)
    if tied.any():  # topk orders equal values arbitrarily
        indices[tied] = distances[tied].argsort(stable=True)[:, : indices.shape[-1]]
    return indices[..., :count]


class MaxRelative(nn.Module):
    """Pointwise layer of interleaved x_i and max_j (y_j - x_i)."""

    def __init__(self, layer: MakePointwise, channels: int, num_nodes: int, k: int) -> None:  # noqa: ARG002
        super().__init__()
        self.nn = layer(2 * channels, 2 * channels, num_nodes)

    def forward(self, x: Tensor, y: Tensor, graph: Neighbours) -> Tensor:
        """Map the nodes [images, channels, height, width] to twice as many channels."""
        return self.nn(self._pairs(x, y, graph))

    def _pairs(self, x: Tensor, y: Tensor, graph: Neighbours) -> Tensor:
        differences = graph.gather(y) - x.flatten(2)[..., None]
        relative = differences.max(dim=-1).values.reshape(x.shape)
        pairs = [each.permute(0, 2, 3, 1) for each in (x, relative)]
        return torch.stack(pairs, dim=-1).flatten(3).permute(0, 3, 1, 2)


class EdgeConv(nn.Module):
    """Maximum over j of a pointwise layer of x_i and y_j - x_i."""

    def __init__(self, layer: MakePointwise, channels: int, num_nodes: int, k: int) -> None:
        super().__init__()
        self.nn = layer(2 * channels, 2 * channels, num_nodes * k)

    def forward(self, x: Tensor, y: Tensor, graph: Neighbours) -> Tensor:
        """Map the nodes [images, channels, height, width] to twice as many channels."""
        neighbours = graph.gather(y)
        own = x.flatten(2)[..., None].expand_as(neighbours)
        edges = self.nn(torch.cat([own, neighbours - own], dim=1))
        return edges.max(dim=-1).values.unflatten(2, x.shape[2:])


class GraphSage(nn.Module):
    """Pointwise layer of x_i and the maximum over j of a pointwise layer of y_j."""

    def __init__(self, layer: MakePointwise, channels: int, num_nodes: int, k: int) -> None:
        super().__init__()
        self.nn1 = layer(channels, channels, num_nodes * k)
        self.nn2 = layer(2 * channels, 2 * channels, num_nodes)

    def forward(self, x: Tensor, y: Tensor, graph: Neighbours) -> Tensor:
        """Map the nodes [images, channels, height, width] to twice as many channels."""
        return self.nn2(torch.cat([x, self._gathered(x, y, graph)], dim=1))

    def _gathered(self, x: Tensor, y: Tensor, graph: Neighbours) -> Tensor:
        return self.nn1(graph.gather(y)).max(dim=-1).values.reshape(x.shape)


class Gin(nn.Module):
    """Pointwise layer of (1 + eps) x_i and the sum over j of y_j, with a learned eps."""

    def __init__(self, layer: MakePointwise, channels: int, num_nodes: int, k: int) -> None:  # noqa: ARG002
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1))
        self.nn = layer(channels, 2 * channels, num_nodes)

    def forward(self, x: Tensor, y: Tensor, graph: Neighbours) -> Tensor:
        """Map the nodes [images, channels, height, width] to twice as many channels."""
        return self.nn(((1 + self.eps) * x + self._sum(x, y, graph)).to(x.dtype))

    def _sum(self, x: Tensor, y: Tensor, graph: Neighbours) -> Tensor:
        return graph.gather(y).sum(dim=-1).reshape(x.shape)


CONVOLUTIONS = {"mr": MaxRelative, "edge": EdgeConv, "sage": GraphSage, "gin": Gin}

BACKEND = Backend(PlainConvNorm, CONVOLUTIONS, nearest)
