"""Operators on node features, for graphs in general and for a pixel lattice."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from vigmpi.kernels import planes
from vigmpi.kernels.scratch import scratch
from vigmpi.kernels.statistics import Moments
from vigmpi.kernels.threads import over_images


class Graph(Protocol):
    """Operators that combine the features of several nodes, with their adjoints.

    All else that a layer computes concerns one node. Features are [images, channels, nodes].
    """

    def neighbour_sum(self, x: Tensor, shift: Tensor) -> Tensor:
        """Map features to [images, 2 channels + 1, nodes].

        The planes are the neighbour sums of x - shift, x - shift itself, and the number of
        neighbours. A float32 result is valid until the next call.
        """

    def neighbour_sum_adjoint(self, gradient: Tensor) -> Tensor:
        """Return the gradient of x, given that of all planes but the last."""

    def moments(self, x: Tensor) -> Moments:
        """Return the moments of x over all images and nodes."""

    def moments_adjoint(self, gradient: Tensor, y: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums of the gradient and of gradient (y - shift), float64, [channels].

        They determine the gradient of features y that were normalised by their moments.
        """

    def node_sum(self, x: Tensor) -> Tensor:
        """Sum features over the nodes of each image, differentiably: [images, channels]."""


def neighbour_sum(x: Tensor, shift: Tensor, degree: Tensor, height: int, width: int) -> Tensor:
    """Implement `Graph.neighbour_sum` on a lattice of pixels with up to 8 neighbours each."""
    num_images, channels, num_nodes = x.shape
    if x.dtype is torch.float32:
        y = scratch("neighbour_sum", num_images, 2 * channels + 1, num_nodes)
        arrays = x.numpy(), shift.numpy(), degree.numpy()
        over_images(planes.neighbour_sum, num_images, *arrays, height, width, y.numpy())
        return y
    centred = x - shift[:, None]
    stencil = x.new_ones(1, 1, 3, 3)
    stencil[..., 1, 1] = 0
    sums = F.conv2d(centred.reshape(-1, 1, height, width), stencil, padding=1)
    return torch.cat([sums.view_as(x), centred, degree.to(x).expand(num_images, 1, -1)], dim=1)


def neighbour_sum_adjoint(gradient: Tensor, height: int, width: int) -> Tensor:
    """Implement `Graph.neighbour_sum_adjoint` on the same lattice, in float32."""
    num_images, channels, num_nodes = gradient.shape
    dx = gradient.new_empty(num_images, channels // 2, num_nodes)
    arrays = gradient.numpy(), height, width, dx.numpy()
    over_images(planes.neighbour_sum_adjoint, num_images, *arrays)
    return dx
