"""Forward and backward pass of a hidden layer on float32 planes, with the compiled kernels."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vigmpi.kernels.fused_gelu import SCALE, TILE, backward_kernel, forward_kernel
from vigmpi.kernels.lattice import Graph
from vigmpi.kernels.scratch import scratch
from vigmpi.kernels.threads import over_images

_PIECE_NODES = 8192  # nodes that the backward pass sums into one float64 row


class HiddenLayer(NamedTuple):
    """Weights of linear(gelu(affine(features))).

    Attributes:
        shift: constant subtracted from x, [channels]; near the mean of x, it avoids cancellation.
        a, b: matrix [hidden, features] and vector [hidden] of the affine map.
        v, c: matrix [hidden, outputs] and vector [outputs] of the linear map.
        graph: graph whose `neighbour_sum` gives the features; without one, they are x - shift.
    """

    shift: Tensor
    a: Tensor
    b: Tensor
    v: Tensor
    c: Tensor
    graph: Graph | None = None


def forward(x: Tensor, layer: HiddenLayer) -> Tensor:
    """Map [images, channels, nodes] to [images, outputs, nodes]."""
    features, shift = _features(x, layer)
    num_images, width, num_nodes = features.shape
    outputs = len(layer.c)
    y = x.new_empty(num_images, outputs, num_nodes)
    arrays = features, shift, *scaled_weights(layer), layer.c, y
    over_images(forward_kernel(width, outputs), num_images, *(t.numpy() for t in arrays))
    return y


def backward(x: Tensor, layer: HiddenLayer, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, a, b and v, given the gradient of the output."""
    features, shift = _features(x, layer)
    num_images, width, num_nodes = features.shape
    inputs = width - 1 if layer.graph else width  # no gradient for the degree
    hidden, outputs = layer.v.shape
    scaled = scaled_weights(layer)
    piece = max(1, _PIECE_NODES // num_nodes)
    dx = scratch("dx", num_images, inputs, num_nodes) if layer.graph else torch.empty_like(x)
    dw = np.zeros((-(-num_images // piece), len(scaled[1]), width + 1 + outputs))
    kernel = backward_kernel(width, inputs, outputs)
    arrays = [t.numpy() for t in (features, shift, *scaled, dy, dx)]
    over_images(kernel, num_images, *arrays, dw, piece, piece=piece)
    if layer.graph:
        dx = layer.graph.neighbour_sum_adjoint(dx)
    rows = torch.from_numpy(dw.sum(axis=0)[:hidden])
    da, db, dv = rows[:, :width] / SCALE, rows[:, width] / SCALE, rows[:, width + 1 :] * (SCALE / 2)
    return dx, da.float(), db.float(), dv.float()


def _features(x: Tensor, layer: HiddenLayer) -> tuple[Tensor, Tensor]:
    """Return the features that the kernels read, and the shift that they subtract."""
    if layer.graph is None:
        return x, layer.shift
    features = layer.graph.neighbour_sum(x, layer.shift)
    return features, features.new_zeros(features.shape[1])


def scaled_weights(layer: HiddenLayer) -> tuple[Tensor, Tensor, Tensor]:
    """Return a, b and v scaled for the kernels, and padded with zeros to full tiles."""
    padding = -len(layer.b) % TILE
    return (
        F.pad(layer.a / SCALE, (0, 0, 0, padding)).contiguous(),
        F.pad(layer.b / SCALE, (0, padding)),
        F.pad(layer.v * (SCALE / 2), (0, 0, 0, padding)).contiguous(),
    )
