import torch
from torch import Tensor

from vigmpi.kernels import lattice


class PixelLattice:
    """Graph of an image: one node per pixel, edges to its up to 8 neighbours, no self-loops."""

    def __init__(self, height: int, width: int) -> None:
        self.num_nodes = height * width
        self._size = height, width
        self._edges = _lattice_edges(height, width)
        self._degree = torch.bincount(self._edges[1], minlength=self.num_nodes).float()
        self._batched: dict[int, Tensor] = {}

    def gather_features(self, x: Tensor, shift: Tensor) -> Tensor:
        """Implement `vigmpi.kernels.lattice.Graph`."""
        return lattice.gather_features(x, shift, self._degree, *self._size)

    def gather_features_adjoint(self, gradient: Tensor) -> Tensor:
        """Implement `vigmpi.kernels.lattice.Graph`."""
        return lattice.gather_features_adjoint(gradient, *self._size)

    def edge_index(self, num_images: int) -> Tensor:
        """Return the edges of a batch: source and target nodes, [2, num_images * edges]."""
        if num_images not in self._batched:
            first_nodes = torch.arange(num_images)[:, None] * self.num_nodes
            batched = [(row + first_nodes).flatten() for row in self._edges]
            self._batched[num_images] = torch.stack(batched)
        return self._batched[num_images]


def _lattice_edges(height: int, width: int) -> Tensor:
    nodes = torch.arange(height * width)
    row, column = nodes // width, nodes % width
    edges = []
    for down, right in [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]:
        inside = (0 <= row + down) & (row + down < height)
        inside &= (0 <= column + right) & (column + right < width)
        edges.append(torch.stack([(nodes + down * width + right)[inside], nodes[inside]]))
    return torch.cat(edges, dim=1)
