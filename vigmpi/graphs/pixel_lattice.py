import torch
from torch import Tensor

from vigmpi.kernels import lattice


class PixelLattice:
    """The graph of an image: a node a pixel, edges to the 8 neighbouring pixels, no self-loops."""

    def __init__(self, height: int, width: int) -> None:
        self.num_nodes = height * width
        self._size = height, width
        self._edges = _lattice_edges(height, width)
        self._degree = torch.bincount(self._edges[1], minlength=self.num_nodes).float()
        self._batched: dict[int, Tensor] = {}

    def gather_features(self, x: Tensor, shift: Tensor) -> Tensor:
        """See `vigmpi.kernels.lattice.Graph`."""
        return lattice.gather_features(x, shift, self._degree, *self._size)

    def gather_features_adjoint(self, gradient: Tensor) -> Tensor:
        """See `vigmpi.kernels.lattice.Graph`."""
        return lattice.gather_features_adjoint(gradient, *self._size)

    def edge_index(self, images: int) -> Tensor:
        """Source and target node of every edge, [2, images * edges]; nodes count on by image."""
        if images not in self._batched:
            first_nodes = torch.arange(images)[:, None] * self.num_nodes
            batched = [(row + first_nodes).flatten() for row in self._edges]
            self._batched[images] = torch.stack(batched)
        return self._batched[images]


def _lattice_edges(height: int, width: int) -> Tensor:
    nodes = torch.arange(height * width)
    row, column = nodes // width, nodes % width
    edges = []
    for down, right in [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]:
        inside = (0 <= row + down) & (row + down < height)
        inside &= (0 <= column + right) & (column + right < width)
        edges.append(torch.stack([(nodes + down * width + right)[inside], nodes[inside]]))
    return torch.cat(edges, dim=1)
