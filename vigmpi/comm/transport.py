from collections.abc import Sequence

import numpy as np
from mpi4py import MPI

from vigmpi.comm.buffers import aligned
from vigmpi.comm.waiting import wait

Shape = tuple[int, ...]


class Channel:
    """One direction of a pipeline: micro-batches come from `source` and go on to `dest`.

    There is one buffer for each micro-batch of a step, so every receive of a step can be posted
    before it begins. At the ends of the pipeline the neighbour is MPI.PROC_NULL.

    Args:
        images: the largest size of each micro-batch, [chunks].
        shape_in, shape_out: of one image's values, as received and as sent.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        source: int,
        dest: int,
        images: Sequence[int],
        shape_in: Shape,
        shape_out: Shape,
        dtype: np.dtype,
    ) -> None:
        self._comm = comm
        self._source = source
        self._dest = dest
        self._inbox = [_buffer(n, shape_in, dtype, source) for n in images]
        self._outbox = [_buffer(n, shape_out, dtype, dest) for n in images]
        self._receives = [MPI.REQUEST_NULL] * len(images)
        self._sends = [MPI.REQUEST_NULL] * len(images)

    def post_receives(self, images: Sequence[int]) -> None:
        """Post a step's receives, for micro-batches of these sizes."""
        self._sizes = images
        for i, size in enumerate(images):
            self._receives[i] = self._comm.Irecv(self._inbox[i][:size], self._source, tag=i)

    def receive(self, i: int) -> np.ndarray:
        """Wait for micro-batch i; its values stay until the next step's receives are posted."""
        wait(self._receives[i])
        return self._inbox[i][: self._sizes[i]]

    def send(self, i: int, values: np.ndarray) -> None:
        """Start to send micro-batch i; `values` may change once this returns."""
        wait(self._sends[i])  # MPI may still be reading last step's values
        buffer = self._outbox[i][: len(values)]
        np.copyto(buffer, values)
        self._sends[i] = self._comm.Isend(buffer, self._dest, tag=i)

    def finish(self) -> None:
        """Wait until everything sent has left."""
        wait(*self._sends)


def _buffer(images: int, shape: Shape, dtype: np.dtype, peer: int) -> np.ndarray:
    return aligned((0 if peer == MPI.PROC_NULL else images, *shape), dtype)
