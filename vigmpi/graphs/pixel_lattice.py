"""Graph of an image, or of a strip of its rows."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vigmpi.kernels import lattice
from vigmpi.kernels.lattice import Bands, Halo
from vigmpi.layout.bands import band_edges, bands


class PixelLattice:
    """Graph of an image: one node per pixel, edges to its up to 8 neighbours, no self-loops.

    Implements `vigmpi.kernels.lattice.Graph` on one rank.

    Args:
        height, width: size of the image.
        rows: rows whose nodes this rank has; all by default.

    Attributes:
        num_rows, width: size of this rank's strip of the image.
    """

    def __init__(self, height: int, width: int, rows: range | None = None) -> None:
        rows = range(height) if rows is None else rows
        self.num_nodes, self.num_bands = height * width, len(bands(height, width))
        self.num_rows, self.width = len(rows), width
        self.bands = width * (np.array(band_edges(height, width, rows)) - rows.start)
        in_reach = _counts_in_reach(height)[rows.start : rows.stop]
        self._degree = (in_reach[:, None] * _counts_in_reach(width) - 1).flatten()
        self._edges: dict[int, Tensor] = {}  # by number of images; the reference backend's

    def start_halo(self, x: Tensor) -> Halo:
        return NoHalo(x)

    def neighbour_sum(self, x: Tensor, shift: Tensor, halo: Halo, bands: Bands) -> Tensor:
        degree = self._degree.to(x.dtype)
        return lattice.neighbour_sum(x, shift, degree, self.width, bands, halo)

    def add_neighbour_sum_adjoint(self, gradient: Tensor, halo: Halo, dx: Tensor) -> None:
        lattice.add_neighbour_sum_adjoint(gradient, self.width, self.bands, halo, dx)

    def gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values

    def edge_index(self, num_images: int) -> Tensor:
        """Return the edges of a batch: source and target nodes, [2, num_images * edges]."""
        if num_images not in self._edges:
            first_nodes = torch.arange(num_images)[:, None] * self.num_nodes
            rows = _lattice_edges(self.num_rows, self.width)
            self._edges[num_images] = torch.stack([(row + first_nodes).flatten() for row in rows])
        return self._edges[num_images]


class NoHalo:
    """Halo of a whole image, beyond whose edges there are no rows."""

    def __init__(self, x: Tensor) -> None:
        self._empty = x.new_empty(*x.shape[:2], 0)

    def wait(self) -> tuple[Tensor, Tensor]:
        return self._empty, self._empty


def _counts_in_reach(side: int) -> Tensor:
    """Return the number of rows (or columns) within one step of each, itself included."""
    index = torch.arange(side)
    return (1 + (index > 0).int() + (index < side - 1).int()).float()


def _lattice_edges(height: int, width: int) -> Tensor:
    nodes = torch.arange(height * width)
    row, column = nodes // width, nodes % width
    edges = []
    for down, right in [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]:
        inside = (0 <= row + down) & (row + down < height)
        inside &= (0 <= column + right) & (column + right < width)
        edges.append(torch.stack([(nodes + down * width + right)[inside], nodes[inside]]))
    return torch.cat(edges, dim=1)
