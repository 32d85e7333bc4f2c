"""The kernels as functions on torch tensors, differentiable.

On float32 they run compiled. On float64, for checks, the same formulas are torch's own
operations.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vigmpi.kernels import planes
from vigmpi.kernels.hidden_layer import SCALE, TILE, backward_kernel, forward_kernel
from vigmpi.kernels.threads import over_images

_PIECE_NODES = 8192  # that the backward sums into one float64 row


class Graph(Protocol):
    """What a hidden layer over a graph needs of it."""

    def spread(self, x: Tensor, shift: Tensor) -> Tensor:
        """[images, channels, nodes] to [images, 2 channels + 1, nodes].

        Sums over neighbours of x - shift, x - shift itself, and the number of neighbours.
        """

    def spread_adjoint(self, gradient: Tensor) -> Tensor:
        """The gradient [images, 2 channels, nodes] of all but the last, as that of x."""


def hidden_layer(
    x: Tensor,
    shift: Tensor,
    a: Tensor,
    b: Tensor,
    v: Tensor,
    c: Tensor,
    graph: Graph | None = None,
) -> Tensor:
    """linear(gelu(affine(features))), with the features x - shift, or `graph.spread` of them.

    Args:
        x: [images, channels, nodes].
        shift: [channels], a constant; near the mean of x it saves the affine map's digits.
        a, b: the affine map, [hidden, features] and [hidden].
        v, c: the linear map, [hidden, outputs] and [outputs].

    Returns:
        [images, outputs, nodes]; of all this only x is kept for the backward.
    """
    if x.dtype is torch.float32:
        return _HiddenLayer.apply(x, shift, a, b, v, c, graph)
    features = graph.spread(x, shift) if graph else x - shift[:, None]
    return v.T @ F.gelu(a @ features + b[:, None]) + c[:, None]


class _HiddenLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shift: Tensor,
        a: Tensor,
        b: Tensor,
        v: Tensor,
        c: Tensor,
        graph: Graph | None,
    ) -> Tensor:
        ctx.save_for_backward(x, shift, a, b, v)
        ctx.graph = graph
        features = graph.spread(x, shift) if graph else x - shift[:, None]
        images, width, nodes = features.shape
        y = x.new_empty(images, v.shape[1], nodes)
        kernel = forward_kernel(width, v.shape[1])
        weights = *_scaled(a, b, v), c.numpy()
        over_images(kernel, images, features.numpy(), *weights, y.numpy())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, a, b, v = ctx.saved_tensors
        features = ctx.graph.spread(x, shift) if ctx.graph else x - shift[:, None]
        images, width, nodes = features.shape
        inputs = width - 1 if ctx.graph else width  # the number of neighbours is a constant
        hidden, outputs = v.shape
        scaled = _scaled(a, b, v)
        piece = max(1, _PIECE_NODES // nodes)
        dx = x.new_empty(images, inputs, nodes)
        dw = np.zeros((-(-images // piece), len(scaled[1]), width + 1 + outputs))
        over_images(
            backward_kernel(width, inputs, outputs),
            images,
            features.numpy(),
            *scaled,
            dy.contiguous().numpy(),
            dx.numpy(),
            dw,
            piece,
            piece=piece,
        )
        if ctx.graph:
            dx = ctx.graph.spread_adjoint(dx)
        rows = torch.from_numpy(dw.sum(axis=0)[:hidden])
        da, db, dv = rows[:, :width] / SCALE, rows[:, width] / SCALE, rows[:, width + 1 :] * SCALE
        dc = dy.sum(dim=(0, 2)) if ctx.needs_input_grad[5] else None
        return dx, None, da.to(a.dtype), db.to(b.dtype), dv.to(v.dtype), dc, None


def _scaled(a: Tensor, b: Tensor, v: Tensor) -> tuple[np.ndarray, ...]:
    """The weights as the kernels take them: scaled, and hidden units of 0 up to a whole tile."""
    missing = -len(b) % TILE
    return (
        F.pad(a / SCALE, (0, 0, 0, missing)).numpy(),
        F.pad(b / SCALE, (0, missing)).numpy(),
        F.pad(v * SCALE, (0, 0, 0, missing)).numpy(),
    )


class Moments(NamedTuple):
    """Of node features over all images and nodes, float64.

    Attributes:
        nodes: how many there are.
        mean: [channels].
        covariance: biased, [channels, channels].
    """

    nodes: int
    mean: Tensor
    covariance: Tensor


def moments(x: Tensor) -> Moments:
    """The moments of planes [images, channels, nodes]."""
    count = x.shape[0] * x.shape[2]
    if x.dtype is torch.float32:
        return Moments(count, *_Moments.apply(x))
    mean = x.mean(dim=(0, 2))
    centred = x - mean[:, None]
    return Moments(count, mean, (centred @ centred.transpose(1, 2)).sum(dim=0) / count)


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        images, channels, nodes = x.shape
        count = images * nodes
        sums, products = np.empty((images, channels)), np.empty((images, channels, channels))
        over_images(planes.sums, images, x.numpy(), sums)
        mean = sums.sum(axis=0) / count
        shift = mean.astype(np.float32)
        over_images(planes.products, images, x.numpy(), shift, products)
        off = mean - shift  # what rounding the shift left of the mean
        ctx.save_for_backward(x)
        ctx.mean, ctx.shift, ctx.count = mean, shift, count
        covariance = products.sum(axis=0) / count - np.outer(off, off)
        return torch.from_numpy(mean), torch.from_numpy(covariance)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dmean: Tensor, dcovariance: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        weights = (dcovariance + dcovariance.T).numpy() / ctx.count
        bias = dmean.numpy() / ctx.count - weights @ (ctx.mean - ctx.shift)
        dx = torch.empty_like(x)
        over_images(
            planes.mix,
            len(x),
            x.numpy(),
            ctx.shift,
            weights.astype(np.float32),
            bias.astype(np.float32),
            dx.numpy(),
        )
        return dx


def lattice_spread(x: Tensor, shift: Tensor, degree: Tensor, height: int, width: int) -> Tensor:
    """`Graph.spread` on a lattice of pixels, each with its up to 8 neighbours."""
    images, channels, nodes = x.shape
    if x.dtype is torch.float32:
        y = x.new_empty(images, 2 * channels + 1, nodes)
        arrays = x.numpy(), shift.numpy(), degree.numpy()
        over_images(planes.spread, images, *arrays, height, width, y.numpy())
        return y
    centred = x - shift[:, None]
    around = x.new_ones(1, 1, 3, 3)
    around[..., 1, 1] = 0
    sums = F.conv2d(centred.reshape(-1, 1, height, width), around, padding=1)
    return torch.cat([sums.view_as(x), centred, degree.to(x).expand(images, 1, -1)], dim=1)


def lattice_spread_adjoint(gradient: Tensor, height: int, width: int) -> Tensor:
    """`Graph.spread_adjoint` on the same lattice, on float32."""
    images, channels, nodes = gradient.shape
    dx = gradient.new_empty(images, channels // 2, nodes)
    over_images(planes.spread_adjoint, images, gradient.numpy(), height, width, dx.numpy())
    return dx
