import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mpi4py import MPI

_INTERVAL_S = 1e-3


@contextmanager
def progress_thread(comm: MPI.Intracomm) -> Iterator[None]:
    """Keep messages moving while this rank computes.

    MPI makes no progress for a rank that makes no MPI call: between hosts, a large message leaves
    only at its sender's next call. A thread that probes every millisecond (for about 5 us) is
    enough; unlike the MPI libraries' own progress threads, it does not occupy a core.

    Without MPI_THREAD_MULTIPLE, this has no effect.
    """
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        yield
        return
    probed = comm.Dup()  # private, so that a probe never matches a message
    done = threading.Event()

    def probe() -> None:
        with suppress(MPI.Exception):  # from a lost rank: the main thread gets one too
            while not done.wait(_INTERVAL_S):
                probed.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG)

    thread = threading.Thread(target=probe, name="mpi progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    probed.Free()  # collective, so not after an exception
