"""Graphs of the nearest neighbours: their search, and sums and maxima over neighbours.

Compiled kernels compute everything but `Neighbours.gather`, of which the reference backend and
tests make use. `vigmpi/kernels/README.md` derives them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vigmpi.kernels import nearest as search
from vigmpi.kernels import neighbourhoods
from vigmpi.kernels.arrays import as_array, as_map, compute_dtype, rows
from vigmpi.kernels.threads import over_images

_MAX_NEIGHBOURS = 256


def nearest(
    nodes: Tensor, candidates: Tensor, k: int, dilation: int, offsets: Tensor | None = None
) -> Tensor:
    """Return the nearest candidates of every node, [images, nodes, k], nearest first.

    The distance is that of the features scaled to unit length. The neighbours are those of rank
    0, dilation, 2 * dilation, ...; among equally distant candidates, the lower index comes first.

    Args:
        nodes, candidates: maps [images, channels, height, width]; bfloat16 is searched in float32.
        offsets: numbers that are added to the squared distances, [1, nodes, candidates].

    Source: Han et al., Vision GNN, NeurIPS 2022.
    """
    dtype = compute_dtype(nodes)
    x, y = (rows(features).to(dtype) for features in (nodes, candidates))
    index = torch.zeros(*x.shape[:2], k, dtype=torch.int64)
    table = x.new_empty(0, y.shape[1]) if offsets is None else offsets[0].to(dtype)
    arrays = (tensor.numpy() for tensor in (x, y, table))
    over_images(search.nearest, len(x), *arrays, dilation, index.numpy())
    return index


class Neighbours:
    """Edges from candidates to the nodes that have chosen them as neighbours.

    Features are maps [images, channels, height, width], whose nodes are in the order of rows.
    Results are maps of the shape of the nodes.

    Attributes:
        index: the neighbours of every node, [images, nodes, k].
    """

    def __init__(self, index: Tensor, num_candidates: int) -> None:
        # The kernels check no bounds, and keep ranks in a byte.
        if index.numel() and not 0 <= index.min() <= index.max() < num_candidates:
            raise ValueError(f"a neighbour is none of the {num_candidates} candidates")
        if index.shape[2] > _MAX_NEIGHBOURS:
            raise ValueError(f"more than {_MAX_NEIGHBOURS} neighbours: {index.shape[2]}")
        self.index = index
        self._num_candidates = num_candidates

    @property
    def num_edges(self) -> int:
        return self.index.numel()

    def gather(self, candidates: Tensor) -> Tensor:
        """Return the features of every node's neighbours, [images, channels, nodes, k]."""
        # The gradient of an embedding is summed in the order of the edges, on any thread.
        values = F.embedding(self._sources, candidates.flatten(2).mT.flatten(0, 1))
        return values.unflatten(0, (len(self.index), -1)).permute(0, 3, 1, 2)

    def max_relative(self, nodes: Tensor, candidates: Tensor) -> Tensor:
        """Return x_c and max_j (y_jc - x_c), interleaved, [images, 2 channels, height, width].

        Args:
            nodes, candidates: maps of x and y.
        """
        return _MaxRelative.apply(nodes, candidates, self.index)

    def maximum(self, candidates: Tensor, nodes: Tensor) -> Tensor:
        """Return the maximum over the neighbours of every node.

        Args:
            nodes: map of the shape of the result.
        """
        return _Extreme.apply(candidates, nodes, self.index, 1)

    def minimum(self, candidates: Tensor, nodes: Tensor) -> Tensor:
        """Return the minimum over the neighbours of every node.

        Args:
            nodes: map of the shape of the result.
        """
        return _Extreme.apply(candidates, nodes, self.index, -1)

    def sum(self, candidates: Tensor, nodes: Tensor) -> Tensor:
        """Return the sum over the neighbours of every node.

        Args:
            nodes: map of the shape of the result.
        """
        return _Sum.apply(candidates, nodes, self.index)

    def edge_moments(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance of p_j - q_i over all edges, float64, [channels].

        Args:
            p: map of the candidates.
            q: map of the nodes.
        """
        return _EdgeMoments.apply(p, q, self.index)

    def in_degrees(self, candidates: Tensor) -> Tensor:
        """Return how many nodes chose each candidate, as a map with one channel."""
        num_rows = len(self.index) * self._num_candidates
        counts = torch.bincount(self._sources.flatten(), minlength=num_rows).to(candidates.dtype)
        return as_map(counts.view(len(self.index), -1, 1), candidates)

    @property
    def _sources(self) -> Tensor:
        """Row of every edge's candidate in the list of all images' candidates, [nodes, k]."""
        first = torch.arange(len(self.index)) * self._num_candidates
        return (self.index + first[:, None, None]).flatten(0, 1)


class _MaxRelative(torch.autograd.Function):
    """Keeps the winners' ranks, a byte per node and channel."""

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, candidates: Tensor, index: Tensor) -> Tensor:
        x, y = rows(nodes), rows(candidates)
        if index.shape[:2] != x.shape[:2]:
            raise ValueError(f"graph of {tuple(index.shape[:2])} images and nodes for {x.shape}")
        out = x.new_empty(*x.shape[:2], 2 * x.shape[2])
        winners = torch.empty(x.shape, dtype=torch.uint8)
        _run(neighbourhoods.max_relative, x, y, index, out, winners)
        ctx.save_for_backward(index, winners)
        ctx.shape = candidates.shape
        return as_map(out, nodes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        index, winners = ctx.saved_tensors
        g = rows(gradient)
        dx, dy = g.new_empty(winners.shape), _totals(ctx.shape, g)
        _run(neighbourhoods.max_relative_adjoint, g, index, winners, dx, dy)
        return as_map(dx, gradient), _rounded(dy, ctx.shape, g), None


class _Extreme(torch.autograd.Function):
    """Maximum (sign 1) or minimum (sign -1); keeps the winners' ranks."""

    @staticmethod
    def forward(ctx: Any, candidates: Tensor, nodes: Tensor, index: Tensor, sign: int) -> Tensor:
        y = rows(candidates)
        out = y.new_empty(*index.shape[:2], y.shape[2])
        winners = torch.empty(out.shape, dtype=torch.uint8)
        _run(neighbourhoods.extreme_kernel(sign), y, index, out, winners)
        ctx.save_for_backward(index, winners)
        ctx.shape = candidates.shape
        return as_map(out, nodes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        index, winners = ctx.saved_tensors
        g = rows(gradient)
        dy = _totals(ctx.shape, g)
        _run(neighbourhoods.extreme_adjoint, g, index, winners, dy)
        return _rounded(dy, ctx.shape, g), None, None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, candidates: Tensor, nodes: Tensor, index: Tensor) -> Tensor:
        y = rows(candidates)
        out = torch.empty(*index.shape[:2], y.shape[2], dtype=compute_dtype(y))
        _run(neighbourhoods.neighbour_sum, y, index, out)
        ctx.save_for_backward(index)
        ctx.shape = candidates.shape
        return as_map(out.to(y.dtype), nodes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        [index] = ctx.saved_tensors
        g = rows(gradient)
        dy = _totals(ctx.shape, g)
        _run(neighbourhoods.neighbour_sum_adjoint, g, index, dy)
        return _rounded(dy, ctx.shape, g), None, None


class _EdgeMoments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        # Values near the mean, so that the variance from sums of squares does not cancel.
        shift = (p[0, :, 0, 0] - q[0, :, 0, 0]).to(compute_dtype(p))
        sums = torch.empty(len(index), 2, len(shift), dtype=torch.float64)
        _run(neighbourhoods.edge_sums, rows(p), rows(q), index, shift, sums)
        mean, squares = sums.sum(dim=0) / index.numel()
        ctx.save_for_backward(p, q, index, shift, mean)
        return mean + shift, (squares - mean.square()).clamp(min=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dmean: Tensor, dvariance: Tensor) -> tuple[Tensor, Tensor, None]:
        p, q, index, shift, mean = ctx.saved_tensors
        slope = 2 * dvariance / index.numel()
        constant = dmean / index.numel() - slope * mean
        weights = (weight.to(shift.dtype) for weight in (constant, slope))
        dp, dq = _totals(p.shape, p), _totals(q.shape, q)
        _run(neighbourhoods.edge_sums_adjoint, rows(p), rows(q), index, shift, *weights, dp, dq)
        return _rounded(dp, p.shape, p), _rounded(dq, q.shape, q), None


def _run(kernel: Callable[..., Any], *tensors: Tensor) -> None:
    """Run a kernel on all images, of which there are as many as in the first tensor."""
    over_images(kernel, len(tensors[0]), *map(as_array, tensors))


def _totals(shape: torch.Size, like: Tensor) -> Tensor:
    """Return memory for sums over edges, [images, nodes, channels], in the type of computation."""
    images, channels, height, width = shape
    return torch.empty(images, height * width, channels, dtype=compute_dtype(like))


def _rounded(totals: Tensor, shape: torch.Size, like: Tensor) -> Tensor:
    return totals.to(like.dtype).unflatten(1, shape[2:]).permute(0, 3, 1, 2)
