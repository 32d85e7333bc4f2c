import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from vigmpi.comm.collectives import allgather_rows

_EXCHANGES = 100


class ClockOffsets(NamedTuple):
    """Offset of each rank's clock from rank 0's, and its error bound: [ranks], in seconds."""

    offset: np.ndarray
    error: np.ndarray


def compare_clocks(comm: MPI.Comm, clock: Callable[[], float] = time.perf_counter) -> ClockOffsets:
    """Estimate by how much each rank's clock is ahead of rank 0's. Collective.

    The fastest of many exchanges counts: rank 0's clock was read within it, so half its duration
    bounds the error (Cristian, "Probabilistic clock synchronization", Distributed Computing 3,
    1989).
    """
    estimate = np.zeros(2)
    reading = np.empty(1)
    for rank in range(1, comm.size):
        if comm.rank == rank:
            estimate = _measure(comm, reading, clock)
        elif comm.rank == 0:
            for _ in range(_EXCHANGES):
                comm.Recv(reading, rank)
                reading[0] = clock()
                comm.Send(reading, rank)
    offset, error = allgather_rows(comm, estimate).T
    return ClockOffsets(offset, error)


def _measure(comm: MPI.Comm, reading: np.ndarray, clock: Callable[[], float]) -> np.ndarray:
    best = np.array([0.0, np.inf])
    for _ in range(_EXCHANGES):
        start = clock()
        comm.Send(reading, 0)
        comm.Recv(reading, 0)
        half = (clock() - start) / 2
        if half < best[1]:
            best[:] = start + half - reading[0], half
    return best
