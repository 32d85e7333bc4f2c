import time

from mpi4py import MPI

_SPIN_S = 50e-6
_SLEEP_S = 50e-6


def wait(*requests: MPI.Request) -> None:
    """Wait for all requests without occupying a core.

    MPI's own wait spins: if there are more ranks than cores, it takes the core from the rank that
    should send. This one tests for a moment, then sleeps between tests.
    """
    spin_until = time.perf_counter() + _SPIN_S
    pending = list(requests)
    while not MPI.Request.Testall(pending):
        if time.perf_counter() > spin_until:
            time.sleep(_SLEEP_S)
