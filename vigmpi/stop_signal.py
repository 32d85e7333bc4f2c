import signal
from types import FrameType


class StopSignal:
    """Whether this process was told to stop, by Slurm, a launcher or a user.

    The handler only takes note: what a rank is in the middle of goes on, and all ranks agree at
    the end of a mini-batch. SIGUSR1 is the one to send: Open MPI's mpirun ends its ranks at a
    SIGTERM before they can answer, and MPICH's dies of SIGUSR2.
    """

    SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.received = False
        for number in self.SIGNALS:
            signal.signal(number, self._take_note)

    def _take_note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if number == signal.SIGINT and self.received:
            raise KeyboardInterrupt  # who asks twice does not want to wait
        self.received = True


def ignore_late() -> None:
    """The run is over: a SIGUSR1 to a process on its way out must not spoil its exit status."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
