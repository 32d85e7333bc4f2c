import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from vigmpi.comm.collectives import allgather_rows

_EXCHANGES = 100


class Clock(NamedTuple):
    """Of every rank against rank 0's, [ranks] in seconds: how far ahead, and to how much right."""

    offset: np.ndarray
    error: np.ndarray


def compare_clocks(comm: MPI.Intracomm, clock: Callable[[], float] = time.perf_counter) -> Clock:
    """Estimate how far each rank's clock is ahead of rank 0's. Collective.

    Of many exchanges the quickest counts: the other clock was read within it, and half its time
    is the error's bound (Cristian, "Probabilistic clock synchronization", Distributed Computing
    3, 1989).
    """
    mine = np.zeros(2)
    theirs = np.empty(1)
    for rank in range(1, comm.size):
        if comm.rank == rank:
            mine = _ask(comm, theirs, clock)
        elif comm.rank == 0:
            for _ in range(_EXCHANGES):
                comm.Recv(theirs, rank)
                theirs[0] = clock()
                comm.Send(theirs, rank)
    offset, error = allgather_rows(comm, mine).T
    return Clock(offset, error)


def _ask(comm: MPI.Intracomm, theirs: np.ndarray, clock: Callable[[], float]) -> np.ndarray:
    best = np.array([0.0, np.inf])
    for _ in range(_EXCHANGES):
        start = clock()
        comm.Send(theirs, 0)
        comm.Recv(theirs, 0)
        half = (clock() - start) / 2
        if half < best[1]:
            best[:] = start + half - theirs[0], half
    return best
