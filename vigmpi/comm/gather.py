import numpy as np
from mpi4py import MPI

from vigmpi.comm.waiting import wait

_TEXT_BYTES = 1000


def gather_rows(comm: MPI.Comm, row: np.ndarray) -> np.ndarray:
    """Every rank's `row`, in rank order: [ranks, *row.shape]. Collective."""
    rows = np.empty((comm.size, *row.shape), dtype=row.dtype)
    wait(comm.Iallgather(np.ascontiguousarray(row), rows))
    return rows


def gather_texts(comm: MPI.Comm, text: str) -> list[str]:
    """Every rank's text, cut at 1000 bytes. Collective."""
    row = np.zeros(_TEXT_BYTES, dtype=np.uint8)
    encoded = text.encode()[:_TEXT_BYTES]
    row[: len(encoded)] = np.frombuffer(encoded, dtype=np.uint8)
    return [r.tobytes().rstrip(b"\0").decode(errors="ignore") for r in gather_rows(comm, row)]
