"""Forward and backward pass of a hidden layer on planes: compiled kernels in float32.

float64, used for checks, evaluates the same formulas with torch operations.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vigmpi.kernels.fused_gelu import SCALE, TILE, backward_kernel, forward_kernel
from vigmpi.kernels.lattice import Bands, Graph, Halo
from vigmpi.kernels.scratch import scratch
from vigmpi.kernels.threads import num_threads, over_bands

_GROUP_NODES = 8192  # nodes that the backward pass sums into one float64 row
_FEATURE_NODES = 2**18  # nodes whose neighbour sums are in memory at the same time


@dataclass(frozen=True, eq=False)
class HiddenLayer:
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

    @cached_property
    def scaled(self) -> tuple[Tensor, Tensor, Tensor]:
        """a, b and v scaled for the kernels, and padded with zeros to full tiles."""
        tensors = self.a / SCALE, self.b / SCALE, self.v * (SCALE / 2)
        if padding := -len(self.b) % TILE:
            a, b, v = tensors
            rows = (0, 0, 0, padding)
            tensors = F.pad(a, rows), F.pad(b, (0, padding)), F.pad(v, rows)
        a, b, v = (tensor.contiguous() for tensor in tensors)
        return a, b, v


def forward(x: Tensor, layer: HiddenLayer, graph: Graph, halo: Halo | None = None) -> Tensor:
    """Map [images, channels, nodes] to [images, outputs, nodes].

    Args:
        halo: that of x, if the layer is a convolution.
    """
    num_images, _, num_nodes = x.shape
    y = x.new_empty(num_images, len(layer.c), num_nodes)
    for piece in _pieces(x, layer, graph, halo):
        if x.dtype is torch.float32:
            features, origin, shift = piece.features, piece.origin, piece.shift
            kernel = forward_kernel(features.shape[1], len(layer.c))
            weights = [t.numpy() for t in (shift, *layer.scaled, layer.c, y)]
            over_bands(kernel, num_images, piece.bands, features.numpy(), origin, *weights)
        else:
            hidden = F.gelu(_pre_activation(piece, layer))
            y[:, :, piece.nodes] = layer.v.T @ hidden + layer.c[:, None]
    return y


def backward(
    x: Tensor, layer: HiddenLayer, dy: Tensor, graph: Graph, halo: Halo | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, a, b and v, given the gradient of the output.

    Those of a, b and v are sums over all nodes of the graph. Collective over its ranks.
    """
    hidden, outputs = layer.v.shape
    width = layer.a.shape[1]
    dx = torch.empty_like(x)
    dsums = scratch("dsums", *x.shape, dtype=x.dtype) if layer.convolution else dx[:, :0]
    rows = np.empty((len(graph.bands) - 1, hidden, width + 1 + outputs))
    gradients = _exact_gradients
    if x.dtype is torch.float32:
        group = max(1, _GROUP_NODES * graph.num_bands // graph.num_nodes)
        gradients = partial(_fp32_gradients, group=group)
    for piece in _pieces(x, layer, graph, halo):
        rows[piece.numbers] = gradients(piece, layer, dy, dsums, dx)
    sent = graph.start_halo(dsums) if layer.convolution else None
    gathered = graph.gather(rows.reshape(len(rows), -1))
    total = torch.from_numpy(gathered.sum(axis=0)).view(hidden, -1)
    if sent:
        graph.add_neighbour_sum_adjoint(dsums, sent, dx)
    columns = total[:, :width], total[:, width], total[:, width + 1 :]
    da, db, dv = (column.to(x.dtype).contiguous() for column in columns)
    return dx, da, db, dv


class _Piece(NamedTuple):
    """Features of consecutive bands.

    Attributes:
        numbers: the bands, as indices.
        bands: their nodes, as in `Graph.bands`.
        features: [images, features, nodes], beginning with the node `origin`.
        shift: what is to be subtracted from them, [features].
    """

    numbers: slice
    bands: Bands
    features: Tensor
    origin: int
    shift: Tensor

    @property
    def nodes(self) -> slice:
        return slice(int(self.bands[0]), int(self.bands[-1]))

    @property
    def centred(self) -> Tensor:
        """The features of these bands less the shift."""
        begin, end = self.nodes.start - self.origin, self.nodes.stop - self.origin
        return self.features[:, :, begin:end] - self.shift[:, None]


def _pieces(x: Tensor, layer: HiddenLayer, graph: Graph, halo: Halo | None) -> Iterator[_Piece]:
    """Yield all bands, those of a convolution a few at a time to bound the features' memory."""
    bands = graph.bands
    if not layer.convolution:
        yield _Piece(slice(None), bands, x, 0, layer.shift)
        return
    assert halo
    number = len(bands) - 1
    at_a_time = max(num_threads(), number * _FEATURE_NODES // (len(x) * int(bands[-1])))
    for start in range(0, number, at_a_time):
        some = bands[start : start + at_a_time + 1]
        features = graph.neighbour_sum(x, layer.shift, halo, some)
        shift = features.new_zeros(features.shape[1])
        yield _Piece(slice(start, start + at_a_time), some, features, int(some[0]), shift)


def _fp32_gradients(
    piece: _Piece,
    layer: HiddenLayer,
    dy: Tensor,
    dsums: Tensor,
    dx: Tensor,
    *,
    group: int,
) -> np.ndarray:
    """Write the gradients of the neighbour sums and of x to dsums and dx.

    Args:
        group: number of consecutive images whose bands are summed together.

    Returns:
        The sums of the gradients of a, b and v over each band, [bands, hidden, features + 1 +
        outputs].
    """
    width, outputs = piece.features.shape[1], len(layer.c)
    groups = -(-len(dx) // group)
    dw = np.zeros((groups, len(piece.bands) - 1, len(layer.scaled[1]), width + 1 + outputs))
    kernel = backward_kernel(width, dsums.shape[1], dx.shape[1], outputs)
    arrays = [t.numpy() for t in (piece.shift, *layer.scaled, dy, dsums, dx)]
    features = piece.features.numpy()
    over_bands(kernel, groups, piece.bands, features, piece.origin, *arrays, dw, group)
    factors = np.repeat([1 / SCALE, SCALE / 2], [width + 1, outputs])
    sums: np.ndarray = dw.sum(axis=0)[:, : len(layer.b)] * factors
    return sums


def _exact_gradients(
    piece: _Piece, layer: HiddenLayer, dy: Tensor, dsums: Tensor, dx: Tensor
) -> np.ndarray:
    """Do what `_fp32_gradients` does, in the type of the features."""
    z, dy = _pre_activation(piece, layer), dy[:, :, piece.nodes]
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    slope = 0.5 * torch.erfc(-z / math.sqrt(2)) + z * density
    dz = (layer.v @ dy) * slope
    gradient, channels = layer.a.T @ dz, dsums.shape[1]
    dsums[:, :, piece.nodes] = gradient[:, :channels]
    dx[:, :, piece.nodes] = gradient[:, channels : channels + dx.shape[1]]
    factors = torch.cat([piece.centred, torch.ones_like(z[:, :1])], dim=1)
    h, sums = F.gelu(z), []
    for begin, end in pairwise((piece.bands - piece.bands[0]).tolist()):
        left = dz[:, :, begin:end] @ factors[:, :, begin:end].mT
        right = h[:, :, begin:end] @ dy[:, :, begin:end].mT
        sums.append(torch.cat([left, right], dim=2).sum(dim=0))
    return torch.stack(sums).numpy()


def _pre_activation(piece: _Piece, layer: HiddenLayer) -> Tensor:
    return layer.a @ piece.centred + layer.b[:, None]
