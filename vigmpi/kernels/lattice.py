"""Node features and sums of neighbour features, for graphs in general and for a pixel lattice."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from vigmpi.kernels import planes
from vigmpi.kernels.scratch import scratch
from vigmpi.kernels.threads import over_images


class Graph(Protocol):
    """Graph operations that a hidden layer needs."""

    def gather_features(self, x: Tensor, shift: Tensor) -> Tensor:
        """Map [images, channels, nodes] to [images, 2 channels + 1, nodes].

        The planes are the neighbour sums of x - shift, x - shift itself, and the number of
        neighbours. A float32 result is valid until the next call.
        """

    def gather_features_adjoint(self, gradient: Tensor) -> Tensor:
        """Return the gradient of x, given that of all planes but the last."""


def gather_features(x: Tensor, shift: Tensor, degree: Tensor, height: int, width: int) -> Tensor:
    """Implement `Graph.gather_features` on a lattice of pixels with up to 8 neighbours each."""
    num_images, channels, num_nodes = x.shape
    if x.dtype is torch.float32:
        y = scratch("gather_features", num_images, 2 * channels + 1, num_nodes)
        arrays = x.numpy(), shift.numpy(), degree.numpy()
        over_images(planes.gather_features, num_images, *arrays, height, width, y.numpy())
        return y
    centred = x - shift[:, None]
    stencil = x.new_ones(1, 1, 3, 3)
    stencil[..., 1, 1] = 0
    sums = F.conv2d(centred.reshape(-1, 1, height, width), stencil, padding=1)
    return torch.cat([sums.view_as(x), centred, degree.to(x).expand(num_images, 1, -1)], dim=1)


def gather_features_adjoint(gradient: Tensor, height: int, width: int) -> Tensor:
    """Implement `Graph.gather_features_adjoint` on the same lattice, in float32."""
    num_images, channels, num_nodes = gradient.shape
    dx = gradient.new_empty(num_images, channels // 2, num_nodes)
    arrays = gradient.numpy(), height, width, dx.numpy()
    over_images(planes.gather_features_adjoint, num_images, *arrays)
    return dx
