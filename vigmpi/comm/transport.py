"""Messages across the boundaries of a pipeline, from preallocated buffers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from vigmpi.comm.buffers import aligned
from vigmpi.comm.waiting import wait


class Route(NamedTuple):
    """One direction of messages across a boundary of the pipeline.

    Attributes:
        first_tag: tag of micro-batch 0; micro-batch i has the tag first_tag + i.
        slots: number of buffers on either side; 0 if there is no boundary.
        max_sizes: maximum size of each micro-batch in images, in descending order, [chunks].
        shape: shape of one image's values.
        dtype: their data type.
    """

    first_tag: int
    slots: int
    max_sizes: Sequence[int]
    shape: tuple[int, ...]
    dtype: np.dtype

    def buffers(self) -> list[np.ndarray]:
        """Return new buffers; micro-batch i uses number i % slots."""
        sizes = self.max_sizes[: self.slots]
        return [aligned((size, *self.shape), self.dtype) for size in sizes]


class Receiver:
    """Receiving end of a route, which posts a receive as soon as its buffer is free.

    Args:
        source: rank of the sender in `comm`.
    """

    def __init__(self, comm: MPI.Intracomm, source: int, route: Route) -> None:
        self._comm = comm
        self._source = source
        self._first_tag = route.first_tag
        self._buffers = route.buffers()
        self._requests = [MPI.REQUEST_NULL] * len(self._buffers)
        self._sizes: Sequence[int] = ()

    def begin_step(self, sizes: Sequence[int]) -> None:
        """Post the first receives of a step, for micro-batches of these sizes in images."""
        self._sizes = sizes
        for i in range(len(self._buffers)):
            self._post(i)

    def receive(self, i: int) -> np.ndarray:
        """Return micro-batch i once it has arrived; valid until its `release`."""
        slot = i % len(self._buffers)
        wait(self._requests[slot])
        return self._buffers[slot][: self._sizes[i]]

    def release(self, i: int) -> None:
        """Free the buffer of micro-batch i for a later one."""
        if self._buffers:
            self._post(i + len(self._buffers))

    def _post(self, i: int) -> None:
        if i < len(self._sizes):
            slot = i % len(self._buffers)
            buffer = self._buffers[slot][: self._sizes[i]]
            self._requests[slot] = self._comm.Irecv(buffer, self._source, self._first_tag + i)


class Sender:
    """Sending end of a route.

    Args:
        dest: rank of the receiver in `comm`.
    """

    def __init__(self, comm: MPI.Intracomm, dest: int, route: Route) -> None:
        self._comm = comm
        self._dest = dest
        self._first_tag = route.first_tag
        self._buffers = route.buffers()
        self._requests = [MPI.REQUEST_NULL] * len(self._buffers)

    def send(self, i: int, values: np.ndarray) -> None:
        """Start the send of micro-batch i from a copy of `values`."""
        slot = i % len(self._buffers)
        wait(self._requests[slot])  # the buffer may still hold an earlier message
        buffer = self._buffers[slot][: len(values)]
        np.copyto(buffer, values, casting="no")
        self._requests[slot] = self._comm.Isend(buffer, self._dest, self._first_tag + i)

    def finish(self) -> None:
        """Wait until all sends have completed."""
        wait(*self._requests)
