import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSignal:
    """Flag that is set when Slurm, a launcher or a user asks this process to stop.

    The handler only sets the flag; all ranks then stop together at the end of a mini-batch.
    Users should send SIGUSR1: Open MPI's mpirun kills its ranks on SIGTERM before they can
    react, and MPICH's dies of SIGUSR2.
    """

    SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.received = False
        for number in self.SIGNALS:
            signal.signal(number, self._set_received)

    def _set_received(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if number == signal.SIGINT and self.received:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait for the mini-batch
        self.received = True


def ignore_late_signal() -> None:
    """Ignore SIGUSR1 from now on, so that it cannot change the exit status of a finished run."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


@contextmanager
def exiting_on_signals() -> Iterator[None]:
    """Turn SIGTERM and Ctrl-C into SystemExit, so that unfinished files are removed."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(each, lambda number, _: sys.exit(128 + number)) for each in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
