import time

from mpi4py import MPI

_SPIN_S = 50e-6
_SLEEP_S = 50e-6


def wait(*requests: MPI.Request, statuses: list[MPI.Status] | None = None) -> None:
    """Wait for all requests without occupying a core.

    Args:
        statuses: objects to which the statuses of the requests are written.

    MPI's own wait spins: if there are more ranks than cores, it takes the core from the rank that
    should send. This one tests for a moment, then sleeps between tests.
    """
    spin_until = time.perf_counter() + _SPIN_S
    pending = list(requests)
    while not MPI.Request.Testall(pending, statuses):
        if time.perf_counter() > spin_until:
            time.sleep(_SLEEP_S)
