"""Continuing without lost ranks, by MPI's user-level failure mitigation (ULFM).

Source: Bland et al., "Post-failure recovery of MPI communication capability: design and
rationale", IJHPCA 2013.
"""

from collections.abc import Iterable
from contextlib import suppress

import numpy as np
from mpi4py import MPI

from vigmpi.comm.collectives import allgather_rows


def agree(world: MPI.Intracomm, *, ok: bool) -> bool:
    """Return whether all ranks are alive and pass `ok`, the same on all ranks. Collective.

    Ranks on which MPI has failed must call it too: it waits for every live rank, even if `world`
    has been revoked.
    """
    with suppress(MPI.Exception):
        return bool(world.Agree(int(ok)))
    return False


def revoke(comms: Iterable[MPI.Comm]) -> None:
    """Revoke communicators: every operation pending on them fails, on all ranks."""
    for comm in comms:
        comm.Revoke()


def shrink(world: MPI.Intracomm) -> tuple[MPI.Intracomm, list[int]]:
    """Return a communicator of the live ranks, and their ranks in `world`. Collective over them."""
    alive = MPI.Intracomm(world.Shrink())
    return alive, allgather_rows(alive, np.array([world.rank])).ravel().tolist()


def split_off(world: MPI.Intracomm, *, stays: bool) -> MPI.Intracomm | None:
    """Return a communicator of the ranks that stay, None on the others. Collective."""
    comm = world.Split(0 if stays else MPI.UNDEFINED, world.rank)
    return None if comm == MPI.COMM_NULL else MPI.Intracomm(comm)
