import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mpi4py import MPI

_INTERVAL_S = 1e-3


@contextmanager
def progress_thread(comm: MPI.Intracomm) -> Iterator[None]:
    """Keep messages moving while this rank computes.

    MPI moves nothing for a rank that makes no MPI call: between hosts a large message leaves
    only when its sender calls again. A thread that probes every millisecond (some 5 us) is
    enough, and unlike MPI libraries' own progress threads it does not take a core.

    Does nothing if MPI was started without MPI_THREAD_MULTIPLE.
    """
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        yield
        return
    probed = comm.Dup()  # of its own, so that it can never match a message
    done = threading.Event()

    def probe() -> None:
        with suppress(MPI.Exception):  # of a lost rank: the main thread meets it too
            while not done.wait(_INTERVAL_S):
                probed.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG)

    thread = threading.Thread(target=probe, name="mpi progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    probed.Free()  # collective, so only where all ranks come by
