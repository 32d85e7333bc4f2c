"""Operators on node features, for graphs in general and for a pixel lattice."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vigmpi.kernels import planes
from vigmpi.kernels.scratch import scratch
from vigmpi.kernels.threads import over_bands

Bands = NDArray[np.int64]  # first node of each band, and the end of the last band


class Halo(Protocol):
    """Features of the nodes next to those of this rank, which may still be on their way."""

    def wait(self) -> tuple[Tensor, Tensor]:
        """Return the rows above and below, [images, channels, width].

        They have no width at the edge of the image.
        """


class Graph(Protocol):
    """Operators that combine the features of several nodes, with their adjoints.

    Everything else that a layer computes works on one node at a time. Features are [images,
    channels, nodes]. A rank may hold only some of the graph's nodes; other ranks then hold the
    rest.

    Attributes:
        num_nodes: number of nodes of the whole graph.
        num_bands: number of bands of the whole graph.
        bands: bands of this rank's nodes.
    """

    @property
    def num_nodes(self) -> int: ...
    @property
    def num_bands(self) -> int: ...
    @property
    def bands(self) -> Bands: ...

    def start_halo(self, x: Tensor) -> Halo:
        """Start the exchange of the features that `neighbour_sum` or its adjoint needs."""

    def neighbour_sum(self, x: Tensor, shift: Tensor, halo: Halo, bands: Bands) -> Tensor:
        """Map features to [images, 2 channels + 1, nodes of the bands].

        The planes are the neighbour sums of x - shift, x - shift itself, and the number of
        neighbours. The result is valid until the next call.

        Args:
            halo: that of x.
            bands: consecutive bands of this rank.
        """

    def add_neighbour_sum_adjoint(self, gradient: Tensor, halo: Halo, dx: Tensor) -> None:
        """Add to the gradient of x what the gradient of its neighbour sums contributes.

        Args:
            gradient: that of the neighbour sums, [images, channels, nodes].
            halo: that of the gradient.
        """

    def gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the values of the whole graph's bands, [all bands, n].

        Args:
            values: those of this rank's bands, [bands, n].
        """


def neighbour_sum(
    x: Tensor, shift: Tensor, degree: Tensor, width: int, bands: Bands, halo: Halo
) -> Tensor:
    """Implement `Graph.neighbour_sum` on a lattice of pixels with up to 8 neighbours each.

    Args:
        degree: number of neighbours of each pixel, in the type of x, [nodes].
        width: number of pixels in a row.
    """
    num_images, channels, _ = x.shape
    origin, num_nodes = int(bands[0]), int(bands[-1] - bands[0])
    y = scratch("neighbour_sum", num_images, 2 * channels + 1, num_nodes, dtype=x.dtype)
    above, below = halo.wait()
    arrays = x.numpy(), shift.numpy(), degree.numpy(), width, above.numpy(), below.numpy()
    over_bands(planes.neighbour_sum, num_images, bands, *arrays, origin, y.numpy())
    return y


def add_neighbour_sum_adjoint(
    gradient: Tensor, width: int, bands: Bands, halo: Halo, dx: Tensor
) -> None:
    """Implement `Graph.add_neighbour_sum_adjoint` on the same lattice."""
    above, below = halo.wait()
    arrays = gradient.numpy(), width, above.numpy(), below.numpy(), dx.numpy()
    over_bands(planes.add_neighbour_sum_adjoint, len(dx), bands, *arrays)
