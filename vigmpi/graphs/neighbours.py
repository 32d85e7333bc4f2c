"""Graphs of the nearest neighbours: their search, and sums and maxima over neighbours."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


@torch.no_grad()
def nearest(
    features: Tensor, candidates: Tensor, k: int, dilation: int, offsets: Tensor | None = None
) -> Tensor:
    """Return the nearest candidates of every node, [images, nodes, k], nearest first.

    The distance is that of the features scaled to unit length. The neighbours are those of rank
    0, dilation, 2 * dilation, ...; among equally distant candidates, the lower index comes first.

    Args:
        features: [images, channels, nodes].
        candidates: [images, channels, candidates].
        offsets: numbers that are added to the squared distances, [1, nodes, candidates].

    Source: Han et al., Vision GNN, NeurIPS 2022.
    """
    x = F.normalize(features.mT, dim=2)
    y = F.normalize(candidates.mT, dim=2)
    # |x|^2 is left out: it changes no order.
    squares = y.square().sum(dim=2)[:, None]
    if offsets is not None:
        squares = squares + offsets
    distances = torch.baddbmm(squares, x, y.mT, alpha=-2)
    return _smallest(distances, k * dilation)[..., ::dilation]


def _smallest(distances: Tensor, count: int) -> Tensor:
    """Return the indices of the smallest distances in ascending order, lower index first."""
    num_candidates = distances.shape[-1]
    # One more than needed shows whether the last one has an equal.
    values, indices = distances.topk(min(count + 1, num_candidates), largest=False)
    tied = (values[..., 1:] == values[..., :-1]).any(dim=-1)
    if tied.any():  # topk orders equal values arbitrarily
        indices[tied] = distances[tied].argsort(stable=True)[:, : indices.shape[-1]]
    return indices[..., :count]


class Neighbours:
    """Edges from candidates to the nodes that have chosen them as neighbours.

    Features are maps [images, channels, height, width], whose nodes are in the order of rows.
    Results are maps of the shape of the nodes.

    Attributes:
        index: the neighbours of every node, [images, nodes, k].
    """

    def __init__(self, index: Tensor, num_candidates: int) -> None:
        self.index = index
        self._num_candidates = num_candidates

    @property
    def num_edges(self) -> int:
        return self.index.numel()

    @cached_property
    def _sources(self) -> Tensor:
        """Row of every edge's candidate in the list of all images' candidates, [nodes, k]."""
        first = torch.arange(len(self.index)) * self._num_candidates
        return (self.index + first[:, None, None]).flatten(0, 1)

    def gather(self, candidates: Tensor) -> Tensor:
        """Return the features of every node's neighbours, [images, channels, nodes, k]."""
        # The gradient of an embedding is summed in the order of the edges, on any thread.
        rows = F.embedding(self._sources, _rows(candidates))
        return rows.unflatten(0, (len(self.index), -1)).permute(0, 3, 1, 2)

    def maximum(self, candidates: Tensor, nodes: Tensor) -> Tensor:
        """Return the maximum over the neighbours of every node.

        Args:
            nodes: map of the shape of the result.
        """
        return _as_map(_Extreme.apply(_rows(candidates), self._sources, torch.maximum), nodes)

    def minimum(self, candidates: Tensor, nodes: Tensor) -> Tensor:
        """Return the minimum over the neighbours of every node.

        Args:
            nodes: map of the shape of the result.
        """
        return _as_map(_Extreme.apply(_rows(candidates), self._sources, torch.minimum), nodes)

    def sum(self, candidates: Tensor, nodes: Tensor) -> Tensor:
        """Return the sum over the neighbours of every node.

        Args:
            nodes: map of the shape of the result.
        """
        return _as_map(_Sum.apply(_rows(candidates), self._sources), nodes)

    def in_degrees(self, candidates: Tensor) -> Tensor:
        """Return how many nodes chose each candidate, as a map with one channel."""
        num_rows = len(self.index) * self._num_candidates
        counts = torch.bincount(self._sources.flatten(), minlength=num_rows)
        return _as_map(counts.to(candidates.dtype)[:, None], candidates[:, :1])


def _rows(features: Tensor) -> Tensor:
    """Return a map as a list of nodes, [images * nodes, channels]."""
    return features.flatten(2).mT.flatten(0, 1)


def _as_map(rows: Tensor, like: Tensor) -> Tensor:
    images, _, height, width = like.shape
    return rows.view(images, height, width, -1).permute(0, 3, 1, 2)


class _Extreme(torch.autograd.Function):
    """Maximum or minimum over the neighbours, one rank after another; keeps the winners' ranks.

    The first of equal values wins.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sources: Tensor, extreme: Any) -> Tensor:
        first, *others = sources.T.contiguous()
        best = rows[first]
        ranks = torch.zeros(best.shape, dtype=torch.uint8)
        values, worse = torch.empty_like(best), torch.empty(best.shape, dtype=torch.bool)
        for rank, source in enumerate(others, start=1):
            torch.index_select(rows, 0, source, out=values)
            extreme(best, values, out=values)
            torch.ne(best, values, out=worse)
            ranks.masked_fill_(worse, rank)
            best, values = values, best
        ctx.save_for_backward(sources, ranks)
        ctx.num_rows = len(rows)
        return best

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        sources, ranks = ctx.saved_tensors
        winners = sources.gather(1, ranks.long())
        total = gradient.new_zeros(ctx.num_rows, gradient.shape[1])
        return total.scatter_add_(0, winners, gradient), None, None


class _Sum(torch.autograd.Function):
    """Sum over the neighbours, one rank after another."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sources: Tensor) -> Tensor:
        first, *others = sources.T.contiguous()
        total = rows[first]
        for source in others:
            total += rows[source]
        ctx.save_for_backward(sources)
        ctx.num_rows = len(rows)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        [sources] = ctx.saved_tensors
        total = gradient.new_zeros(ctx.num_rows, gradient.shape[1])
        for source in sources.T:
            total.index_add_(0, source, gradient)
        return total, None
