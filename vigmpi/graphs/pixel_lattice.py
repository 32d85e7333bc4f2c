import torch
from torch import Tensor

from vigmpi.kernels import lattice, statistics
from vigmpi.kernels.statistics import Moments


class PixelLattice:
    """Graph of an image: one node per pixel, edges to its up to 8 neighbours, no self-loops.

    Implements `vigmpi.kernels.lattice.Graph`.
    """

    def __init__(self, height: int, width: int) -> None:
        self.num_nodes = height * width
        self._size = height, width
        rows, columns = (_counts_in_reach(side) for side in self._size)
        self._degree = (rows[:, None] * columns - 1).flatten()
        self._edges: dict[int, Tensor] = {}  # by number of images; the reference backend's

    def neighbour_sum(self, x: Tensor, shift: Tensor) -> Tensor:
        return lattice.neighbour_sum(x, shift, self._degree, *self._size)

    def neighbour_sum_adjoint(self, gradient: Tensor) -> Tensor:
        return lattice.neighbour_sum_adjoint(gradient, *self._size)

    def moments(self, x: Tensor) -> Moments:
        return statistics.moments(x)

    def moments_adjoint(self, gradient: Tensor, y: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        return statistics.moments_adjoint(gradient, y, shift)

    def node_sum(self, x: Tensor) -> Tensor:
        return x.sum(dim=2)

    def edge_index(self, num_images: int) -> Tensor:
        """Return the edges of a batch: source and target nodes, [2, num_images * edges]."""
        if num_images not in self._edges:
            first_nodes = torch.arange(num_images)[:, None] * self.num_nodes
            rows = _lattice_edges(*self._size)
            self._edges[num_images] = torch.stack([(row + first_nodes).flatten() for row in rows])
        return self._edges[num_images]


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
