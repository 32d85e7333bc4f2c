"""A node's features beside the sums of its neighbours', on a lattice of pixels."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from vigmpi.kernels import planes
from vigmpi.kernels.scratch import scratch
from vigmpi.kernels.threads import over_images


class Graph(Protocol):
    """What a hidden layer over a graph needs of it."""

    def gather_features(self, x: Tensor, shift: Tensor) -> Tensor:
        """[images, channels, nodes] to [images, 2 channels + 1, nodes].

        Sums over neighbours of x - shift, x - shift itself, and the number of neighbours. In
        float32 it holds until the next call.
        """

    def gather_features_adjoint(self, gradient: Tensor) -> Tensor:
        """The gradient [images, 2 channels, nodes] of all but the last, as that of x."""


def gather_features(x: Tensor, shift: Tensor, degree: Tensor, height: int, width: int) -> Tensor:
    """`Graph.gather_features` where each pixel has its up to 8 neighbours."""
    images, channels, nodes = x.shape
    if x.dtype is torch.float32:
        y = scratch("gather_features", images, 2 * channels + 1, nodes)
        arrays = x.numpy(), shift.numpy(), degree.numpy()
        over_images(planes.gather_features, images, *arrays, height, width, y.numpy())
        return y
    centred = x - shift[:, None]
    around = x.new_ones(1, 1, 3, 3)
    around[..., 1, 1] = 0
    sums = F.conv2d(centred.reshape(-1, 1, height, width), around, padding=1)
    return torch.cat([sums.view_as(x), centred, degree.to(x).expand(images, 1, -1)], dim=1)


def gather_features_adjoint(gradient: Tensor, height: int, width: int) -> Tensor:
    """`Graph.gather_features_adjoint` on the same lattice, on float32."""
    images, channels, nodes = gradient.shape
    dx = gradient.new_empty(images, channels // 2, nodes)
    over_images(planes.gather_features_adjoint, images, gradient.numpy(), height, width, dx.numpy())
    return dx
