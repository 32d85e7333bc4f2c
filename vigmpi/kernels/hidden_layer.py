"""A hidden layer and its adjoint on float32 planes, by the compiled kernels."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vigmpi.kernels.fused_gelu import SCALE, TILE, backward_kernel, forward_kernel
from vigmpi.kernels.lattice import Graph
from vigmpi.kernels.scratch import scratch
from vigmpi.kernels.threads import over_images

_PIECE_NODES = 8192  # that the backward sums into one float64 row


class HiddenLayer(NamedTuple):
    """linear(gelu(affine(features))), with the features x - shift, or `graph.gather_features` of them.

    Attributes:
        shift: [channels], a constant; near the mean of x it saves the affine map's digits.
        a, b: the affine map, [hidden, features] and [hidden].
        v, c: the linear map, [hidden, outputs] and [outputs].
        graph: what the features are gather_features over.
    """

    shift: Tensor
    a: Tensor
    b: Tensor
    v: Tensor
    c: Tensor
    graph: Graph | None = None


def forward(x: Tensor, layer: HiddenLayer) -> Tensor:
    """[images, channels, nodes] to [images, outputs, nodes]."""
    features, shift = _features(x, layer)
    images, width, nodes = features.shape
    outputs = len(layer.c)
    y = x.new_empty(images, outputs, nodes)
    arrays = features, shift, *_scaled(layer), layer.c, y
    over_images(forward_kernel(width, outputs), images, *(t.numpy() for t in arrays))
    return y


def backward(x: Tensor, layer: HiddenLayer, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, a, b and v, from that of the output."""
    features, shift = _features(x, layer)
    images, width, nodes = features.shape
    inputs = width - 1 if layer.graph else width  # the number of neighbours is a constant
    hidden, outputs = layer.v.shape
    scaled = _scaled(layer)
    piece = max(1, _PIECE_NODES // nodes)
    dx = scratch("dx", images, inputs, nodes) if layer.graph else torch.empty_like(x)
    dw = np.zeros((-(-images // piece), len(scaled[1]), width + 1 + outputs))
    kernel = backward_kernel(width, inputs, outputs)
    arrays = [t.numpy() for t in (features, shift, *scaled, dy, dx)]
    over_images(kernel, images, *arrays, dw, piece, piece=piece)
    if layer.graph:
        dx = layer.graph.gather_features_adjoint(dx)
    rows = torch.from_numpy(dw.sum(axis=0)[:hidden])
    da, db, dv = rows[:, :width] / SCALE, rows[:, width] / SCALE, rows[:, width + 1 :] * (SCALE / 2)
    return dx, da.float(), db.float(), dv.float()


def _features(x: Tensor, layer: HiddenLayer) -> tuple[Tensor, Tensor]:
    """What the kernels take as x, and what they are to take off it."""
    if layer.graph is None:
        return x, layer.shift
    features = layer.graph.gather_features(x, layer.shift)
    return features, features.new_zeros(features.shape[1])


def _scaled(layer: HiddenLayer) -> tuple[Tensor, Tensor, Tensor]:
    """The weights as the kernels take them: scaled, and hidden units of 0 up to a whole tile."""
    missing = -len(layer.b) % TILE
    return (
        F.pad(layer.a / SCALE, (0, 0, 0, missing)).contiguous(),
        F.pad(layer.b / SCALE, (0, missing)),
        F.pad(layer.v * (SCALE / 2), (0, 0, 0, missing)).contiguous(),
    )
