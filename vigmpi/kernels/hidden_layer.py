"""Forward and backward pass of a hidden layer on planes: compiled kernels in float32.

float64, used for checks, evaluates the same formulas with torch operations.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vigmpi.kernels.fused_gelu import SCALE, TILE, backward_kernel, forward_kernel
from vigmpi.kernels.lattice import Graph, Halo
from vigmpi.kernels.scratch import scratch
from vigmpi.kernels.threads import over_bands

_PIECE_NODES = 8192  # nodes that the backward pass sums into one float64 row


class HiddenLayer(NamedTuple):
    """Weights of linear(gelu(affine(features))).

    Attributes:
        shift: constant subtracted from x, [channels]; near the mean of x, it avoids cancellation.
        a, b: matrix [hidden, features] and vector [hidden] of the affine map.
        v, c: matrix [hidden, outputs] and vector [outputs] of the linear map.
        convolution: true if `Graph.neighbour_sum` gives the features; otherwise they are x - shift.
    """

    shift: Tensor
    a: Tensor
    b: Tensor
    v: Tensor
    c: Tensor
    convolution: bool = False


def forward(x: Tensor, layer: HiddenLayer, graph: Graph, halo: Halo | None = None) -> Tensor:
    """Map [images, channels, nodes] to [images, outputs, nodes].

    Args:
        halo: that of x, if the layer is a convolution.
    """
    features, shift = _features(x, layer, graph, halo)
    if x.dtype is not torch.float32:
        return layer.v.T @ F.gelu(_pre_activation(features, shift, layer)) + layer.c[:, None]
    num_images, width, num_nodes = features.shape
    outputs = len(layer.c)
    y = x.new_empty(num_images, outputs, num_nodes)
    arrays = features, shift, *scaled_weights(layer), layer.c, y
    kernel = forward_kernel(width, outputs)
    over_bands(kernel, num_images, graph.bands, *(t.numpy() for t in arrays))
    return y


def backward(
    x: Tensor, layer: HiddenLayer, dy: Tensor, graph: Graph, halo: Halo | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, a, b and v, given the gradient of the output.

    Those of a, b and v are sums over all nodes of the graph. Collective over its ranks.
    """
    features, shift = _features(x, layer, graph, halo)
    gradients = _fp32_gradients if x.dtype is torch.float32 else _exact_gradients
    dx, sums, factors = gradients(features, shift, layer, dy, graph)
    sent = graph.start_halo(dx[:, : x.shape[1]]) if layer.convolution else None
    total = graph.gather(sums.reshape(len(sums), -1)).sum(axis=0)
    rows = torch.from_numpy(total.reshape(sums.shape[1:]) * factors)
    if sent:
        dx = graph.neighbour_sum_adjoint(dx, sent)
    width = features.shape[1]
    parts = rows[:, :width], rows[:, width], rows[:, width + 1 :]
    da, db, dv = (part.to(x.dtype).contiguous() for part in parts)
    return dx, da, db, dv


def _fp32_gradients(
    features: Tensor, shift: Tensor, layer: HiddenLayer, dy: Tensor, graph: Graph
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Return the gradient of the features, and the sums of those of the weights over each band.

    Returns:
        The gradient of all features except the degree, the sums for a, b and v, [bands, hidden,
        features + 1 + outputs], and their factors, [features + 1 + outputs].
    """
    num_images, width, num_nodes = features.shape
    hidden, outputs = layer.v.shape
    scaled, count = scaled_weights(layer), len(graph.bands) - 1
    piece = max(1, _PIECE_NODES * graph.num_bands // graph.num_nodes)
    pieces = -(-num_images // piece)
    inputs = width - layer.convolution
    if layer.convolution:
        dx = scratch("dx", num_images, inputs, num_nodes)
    else:
        dx = torch.empty_like(features)
    dw = np.zeros((pieces, count, len(scaled[1]), width + 1 + outputs))
    kernel = backward_kernel(width, inputs, outputs)
    arrays = [t.numpy() for t in (features, shift, *scaled, dy, dx)]
    over_bands(kernel, pieces, graph.bands, *arrays, dw, piece)
    factors = np.repeat([1 / SCALE, SCALE / 2], [width + 1, outputs])
    return dx, dw.sum(axis=0)[:, :hidden], factors


def _exact_gradients(
    features: Tensor, shift: Tensor, layer: HiddenLayer, dy: Tensor, graph: Graph
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Return what `_fp32_gradients` does, in the type of the features."""
    z = _pre_activation(features, shift, layer)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    slope = 0.5 * torch.erfc(-z / math.sqrt(2)) + z * density
    dz = (layer.v @ dy) * slope
    dx = layer.a.T @ dz
    ones = features.new_ones(len(features), 1, features.shape[2])
    factors = torch.cat([features - shift[:, None], ones], dim=1)
    h, sums = F.gelu(z), []
    for begin, end in zip(graph.bands[:-1], graph.bands[1:], strict=True):
        left = dz[:, :, begin:end] @ factors[:, :, begin:end].mT
        right = h[:, :, begin:end] @ dy[:, :, begin:end].mT
        sums.append(torch.cat([left, right], dim=2).sum(dim=0))
    stacked = torch.stack(sums).double().numpy()
    return dx[:, : 2 * len(layer.shift)].contiguous(), stacked, np.ones(stacked.shape[2])


def _features(
    x: Tensor, layer: HiddenLayer, graph: Graph, halo: Halo | None
) -> tuple[Tensor, Tensor]:
    """Return the features that the kernels read, and the shift that they subtract."""
    if not layer.convolution:
        return x, layer.shift
    assert halo
    features = graph.neighbour_sum(x, layer.shift, halo)
    return features, features.new_zeros(features.shape[1])


def _pre_activation(features: Tensor, shift: Tensor, layer: HiddenLayer) -> Tensor:
    return layer.a @ (features - shift[:, None]) + layer.b[:, None]


def scaled_weights(layer: HiddenLayer) -> tuple[Tensor, Tensor, Tensor]:
    """Return a, b and v scaled for the kernels, and padded with zeros to full tiles."""
    padding = -len(layer.b) % TILE
    return (
        F.pad(layer.a / SCALE, (0, 0, 0, padding)).contiguous(),
        F.pad(layer.b / SCALE, (0, padding)),
        F.pad(layer.v * (SCALE / 2), (0, 0, 0, padding)).contiguous(),
    )
