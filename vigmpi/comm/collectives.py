import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from mpi4py import MPI

from vigmpi.comm.waiting import wait
from vigmpi.errors import InputError


def allgather_rows(comm: MPI.Comm, row: np.ndarray) -> np.ndarray:
    """Return every rank's `row`, in rank order: [ranks, *row.shape]. Collective."""
    rows = np.empty((comm.size, *row.shape), dtype=row.dtype)
    wait(comm.Iallgather(np.ascontiguousarray(row), rows))
    return rows


def allgather_blocks(comm: MPI.Comm, block: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """Return every rank's block, one after another: [sum of lengths, *block.shape[1:]]. Collective.

    Args:
        block: [length, ...], with the same other axes on all ranks.
        lengths: length of each rank's block, [ranks].
    """
    blocks = np.empty((sum(lengths), *block.shape[1:]), block.dtype)
    counts = [length * math.prod(block.shape[1:]) for length in lengths]
    wait(comm.Iallgatherv(np.ascontiguousarray(block), [blocks, counts]))
    return blocks


def gather_arrays(comm: MPI.Comm, values: np.ndarray) -> list[np.ndarray] | None:
    """Return every rank's values [any number] on rank 0, in rank order. Collective.

    Args:
        values: of the same data type on all ranks.
    """
    if comm.rank > 0:
        wait(comm.Isend(np.array([len(values)]), 0), comm.Isend(np.ascontiguousarray(values), 0))
        return None
    gathered, size = [values], np.empty(1, int)
    for rank in range(1, comm.size):
        wait(comm.Irecv(size, rank))
        received = np.empty(int(size[0]), values.dtype)
        wait(comm.Irecv(received, rank))
        gathered.append(received)
    return gathered


def allgather_bytes(comm: MPI.Comm, content: bytes) -> list[bytes]:
    """Return every rank's bytes, of any length, in rank order. Collective."""
    sizes = allgather_rows(comm, np.array([len(content)])).ravel()
    ends = np.cumsum(sizes)
    joined = np.empty(ends[-1], dtype=np.uint8)
    if joined.size:  # the usual answer of `raise_collectively` is empty on all ranks
        blocks = sizes.tolist(), (ends - sizes).tolist()
        wait(comm.Iallgatherv([content, MPI.BYTE], [joined, blocks, MPI.BYTE]))
    return [joined[end - size : end].tobytes() for size, end in zip(sizes, ends, strict=True)]


def allgather_strings(comm: MPI.Comm, text: str) -> list[str]:
    """Return every rank's text, of any length, in rank order. Collective."""
    # Paths may contain lone surrogates, by which Python represents bytes that are no UTF-8.
    contents = allgather_bytes(comm, text.encode(errors="surrogatepass"))
    return [content.decode(errors="surrogatepass") for content in contents]


@contextmanager
def raise_collectively(comm: MPI.Comm) -> Iterator[None]:
    """Raise the InputError of the lowest failing rank on all ranks, as the same class. Collective.

    Other exceptions propagate on their own rank only and end the job.
    """
    text = ""
    try:
        yield
    except InputError as error:
        text = f"{type(error).__name__} {error}"
    classes: dict[str, type[InputError]] = {"InputError": InputError}
    classes |= {each.__name__: each for each in InputError.__subclasses__()}
    for answer in allgather_strings(comm, text):
        if answer:
            name, _, message = answer.partition(" ")
            raise classes[name](message)


def all_equal(comm: MPI.Comm, digest: bytes) -> bool:
    """Return whether all ranks hold the same digest. Collective."""
    rows = allgather_rows(comm, np.frombuffer(digest, dtype=np.uint8))
    return bool((rows == rows[0]).all())


def all_ranks(comm: MPI.Comm, holds: bool) -> bool:
    """Return whether a condition holds on all ranks. Collective."""
    return bool(allgather_rows(comm, np.array([holds])).all())
