"""Strips of an image on the ranks of a communicator."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from numpy.typing import NDArray
from torch import Tensor

from vigmpi.comm.collectives import allgather_blocks
from vigmpi.comm.waiting import wait
from vigmpi.graphs.pixel_lattice import PixelLattice
from vigmpi.layout.bands import band_edges, strips

Waiting = Callable[[], AbstractContextManager[None]]
_DOWN, _UP = 0, 1  # tags of rows that travel to the next part, and to the previous one


class LatticeStrip(PixelLattice):
    """One part of the graph of an image, whose other parts are on other ranks.

    Implements `vigmpi.kernels.lattice.Graph`. All ranks must call its methods in the same order.

    Args:
        height, width: size of the image.
        parts: the ranks of all parts, from the top of the image to its bottom.
        waiting: context in which this rank waits for other parts.
    """

    def __init__(
        self, height: int, width: int, parts: MPI.Intracomm, waiting: Waiting = nullcontext
    ) -> None:
        rows = strips(height, width, parts.size)
        super().__init__(height, width, rows[parts.rank])
        self._parts, self._waiting = parts, waiting
        self._num_bands = [len(band_edges(height, width, strip)) - 1 for strip in rows]

    def __deepcopy__(self, memo: dict[int, Any]) -> "LatticeStrip":
        """Return this graph: copies of a model share the communicator."""
        return self

    def start_halo(self, x: Tensor) -> "ExchangedHalo":
        return ExchangedHalo(x, self.width, self._parts, self._waiting)

    def gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        with self._waiting():
            return allgather_blocks(self._parts, values, self._num_bands)


class ExchangedHalo:
    """Exchange of a strip's outer rows with the neighbouring strips.

    The adjoint of the neighbour sum exchanges the rows of the gradient in the same way, because the
    graph is symmetric.

    Args:
        x: features of this rank's strip, or gradients of its neighbour sums, [images, channels,
            nodes].
        width: number of nodes in a row.
    """

    def __init__(self, x: Tensor, width: int, parts: MPI.Intracomm, waiting: Waiting) -> None:
        self._waiting = waiting
        upper, lower = parts.rank - 1, parts.rank + 1
        has_upper, has_lower = upper >= 0, lower < parts.size
        # The rows are copied, because x may be scratch memory that is used again before the sends
        # end.
        outer = x[:, :, :width], x[:, :, -width:]
        self._sent = [row.clone(memory_format=torch.contiguous_format) for row in outer]
        self._received = [
            x.new_empty(*x.shape[:2], width if exists else 0) for exists in (has_upper, has_lower)
        ]
        first, last, above, below = (each.numpy() for each in (*self._sent, *self._received))
        self._requests = []
        if has_upper:
            self._requests += [parts.Irecv(above, upper, _DOWN), parts.Isend(first, upper, _UP)]
        if has_lower:
            self._requests += [parts.Irecv(below, lower, _UP), parts.Isend(last, lower, _DOWN)]

    def wait(self) -> tuple[Tensor, Tensor]:
        """Return the rows above and below, as in `vigmpi.kernels.lattice.Halo`."""
        if self._requests:
            with self._waiting():
                wait(*self._requests)
            self._requests, self._sent = [], []
        above, below = self._received
        return above, below
