from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from mpi4py import MPI

from vigmpi.comm.waiting import wait
from vigmpi.errors import InputError

_TEXT_BYTES = 1000


def allgather_rows(comm: MPI.Comm, row: np.ndarray) -> np.ndarray:
    """Return every rank's `row`, in rank order: [ranks, *row.shape]. Collective."""
    rows = np.empty((comm.size, *row.shape), dtype=row.dtype)
    wait(comm.Iallgather(np.ascontiguousarray(row), rows))
    return rows


def allgather_strings(comm: MPI.Comm, text: str) -> list[str]:
    """Return every rank's text, truncated to 1000 bytes. Collective."""
    row = np.zeros(_TEXT_BYTES, dtype=np.uint8)
    encoded = text.encode()[:_TEXT_BYTES]
    row[: len(encoded)] = np.frombuffer(encoded, dtype=np.uint8)
    return [r.tobytes().rstrip(b"\0").decode(errors="ignore") for r in allgather_rows(comm, row)]


@contextmanager
def raise_collectively(comm: MPI.Comm) -> Iterator[None]:
    """Raise the InputError of the lowest failing rank on all ranks. Collective.

    Other exceptions propagate on their own rank only and end the job.
    """
    message = ""
    try:
        yield
    except InputError as error:
        message = str(error)
    for text in allgather_strings(comm, message):
        if text:
            raise InputError(text)


def all_equal(comm: MPI.Comm, digest: bytes) -> bool:
    """Return whether all ranks hold the same digest. Collective."""
    rows = allgather_rows(comm, np.frombuffer(digest, dtype=np.uint8))
    return bool((rows == rows[0]).all())


def all_ranks(comm: MPI.Comm, holds: bool) -> bool:
    """Return whether a condition holds on all ranks. Collective."""
    return bool(allgather_rows(comm, np.array([holds])).all())
