from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from vigmpi.comm.buffers import aligned
from vigmpi.comm.waiting import wait

Shape = tuple[int, ...]


class Channel:
    """One direction of a pipeline: micro-batches arrive from `source` and leave for `dest`.

    There is one buffer for each micro-batch of a step, so all receives are posted before the step
    begins. At the ends of the pipeline the neighbour is MPI.PROC_NULL.

    Args:
        max_sizes: maximum size of each micro-batch in images, [chunks].
        shape_in, shape_out: shapes of one image's values, as received and as sent.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        source: int,
        dest: int,
        max_sizes: Sequence[int],
        shape_in: Shape,
        shape_out: Shape,
        dtype: np.dtype,
    ) -> None:
        self._comm = comm
        self._source = source
        self._dest = dest
        self._inbox = [_buffer(n, shape_in, dtype, source) for n in max_sizes]
        self._outbox = [_buffer(n, shape_out, dtype, dest) for n in max_sizes]
        self._receives = [MPI.REQUEST_NULL] * len(max_sizes)
        self._sends = [MPI.REQUEST_NULL] * len(max_sizes)

    def post_receives(self, sizes: Sequence[int]) -> None:
        """Post a step's receives, for micro-batches of these sizes in images."""
        self._sizes = sizes
        for i, size in enumerate(sizes):
            self._receives[i] = self._comm.Irecv(self._inbox[i][:size], self._source, tag=i)

    def receive(self, i: int) -> np.ndarray:
        """Return micro-batch i once it has arrived; valid until the next `post_receives`."""
        wait(self._receives[i])
        return self._inbox[i][: self._sizes[i]]

    def send(self, i: int, values: np.ndarray) -> None:
        """Start the send of micro-batch i from a copy of `values`."""
        wait(self._sends[i])  # the buffer may still hold the previous step's message
        buffer = self._outbox[i][: len(values)]
        np.copyto(buffer, values)
        self._sends[i] = self._comm.Isend(buffer, self._dest, tag=i)

    def finish(self) -> None:
        """Wait until all sends have completed."""
        wait(*self._sends)


def _buffer(size: int, shape: Shape, dtype: np.dtype, peer: int) -> np.ndarray:
    return aligned((0 if peer == MPI.PROC_NULL else size, *shape), dtype)
