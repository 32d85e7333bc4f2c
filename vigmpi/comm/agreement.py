from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from mpi4py import MPI

from vigmpi.comm.gather import gather_rows, gather_texts
from vigmpi.errors import InputError


@contextmanager
def agreed(comm: MPI.Comm) -> Iterator[None]:
    """Run a block on every rank; if any raises InputError, all raise the lowest rank's.

    Collective. Other exceptions pass: they end the job.
    """
    message = ""
    try:
        yield
    except InputError as error:
        message = str(error)
    for text in gather_texts(comm, message):
        if text:
            raise InputError(text)


def all_equal(comm: MPI.Comm, digest: bytes) -> bool:
    """Whether all ranks hold the same digest. Collective."""
    rows = gather_rows(comm, np.frombuffer(digest, dtype=np.uint8))
    return bool((rows == rows[0]).all())


def everywhere(comm: MPI.Comm, holds: bool) -> bool:
    """Whether something holds on every rank. Collective."""
    return bool(gather_rows(comm, np.array([holds])).all())
