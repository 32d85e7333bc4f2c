"""Going on after ranks were lost, by MPI's user-level failure mitigation.

Source: Bland et al., "Post-failure recovery of MPI communication capability: design and
rationale", IJHPCA 2013.
"""

from collections.abc import Iterable
from contextlib import suppress

import numpy as np
from mpi4py import MPI

from vigmpi.comm.collectives import allgather_rows


def agree(world: MPI.Intracomm, *, well: bool) -> bool:
    """Whether all ranks are there and well; all that are there learn the same. Collective.

    Ranks that are in trouble must call it too: it waits for every rank that lives, even where
    `world` has been revoked.
    """
    with suppress(MPI.Exception):
        return bool(world.Agree(int(well)))
    return False


def revoke(comms: Iterable[MPI.Comm]) -> None:
    """Let no rank wait in these communicators any more: what is under way there fails."""
    for comm in comms:
        comm.Revoke()


def shrink(world: MPI.Intracomm) -> tuple[MPI.Intracomm, list[int]]:
    """A communicator of the ranks that live, and their ranks in `world`. Collective over them."""
    left = MPI.Intracomm(world.Shrink())
    return left, allgather_rows(left, np.array([world.rank])).ravel().tolist()


def split_off(world: MPI.Intracomm, *, stays: bool) -> MPI.Intracomm | None:
    """A communicator of those that stay; None for the others. Collective."""
    part = world.Split(0 if stays else MPI.UNDEFINED, world.rank)
    return None if part == MPI.COMM_NULL else MPI.Intracomm(part)
