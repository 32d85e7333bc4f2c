import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from vigmpi.standard_streams import show

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
_SOON_S = 0.01


class StopSignal:
    """Flag that is set when Slurm, a launcher or a user asks this process to stop.

    The handler only sets the flag; all ranks then stop together at the end of a mini-batch.
    Users should send SIGUSR1: Open MPI's mpirun kills its ranks on SIGTERM before they can
    react, and MPICH's dies of SIGUSR2.
    """

    def __init__(self) -> None:
        self.received = False
        self._speaks = False
        signal.signal(signal.SIGUSR1, self._set_received)

    def disarm(self) -> None:
        """Let SIGUSR1 end the process, as other signals do."""
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)

    def listen(self, *, speaks: bool) -> None:
        """Handle Ctrl-C and SIGTERM from now on, too; until then, they end the process.

        Args:
            speaks: whether this rank answers the first Ctrl-C.
        """
        self._speaks = speaks
        for number in _NUMBERS:
            signal.signal(number, self._set_received)

    def _set_received(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.received = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if self._speaks:
                show("stopping after this mini-batch; press Ctrl-C again to stop at once\n")


def end_on_interrupt() -> None:
    """Let Ctrl-C end this process even while MPI starts, when Python handles no signals."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ignore_late_signal() -> None:
    """Ignore SIGUSR1 from now on, so that it cannot change the exit status of a finished run."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


@contextmanager
def exiting_on_signals() -> Iterator[None]:
    """Turn SIGTERM and Ctrl-C into SystemExit, so that unfinished files are removed."""
    before = sys.unraisablehook

    def repeat(unraisable: "sys.UnraisableHookArgs") -> None:
        # Python ignores exceptions in destructors and in callbacks of weak references.
        error = unraisable.exc_value
        if isinstance(error, SystemExit) and isinstance(error.code, int):
            threading.Timer(_SOON_S, os.kill, [os.getpid(), error.code - 128]).start()
        else:
            before(unraisable)

    sys.unraisablehook = repeat
    try:
        with _handling(lambda number, _: sys.exit(128 + number)):
            yield
    finally:
        sys.unraisablehook = before


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C take effect at the end, in code that their exception would break."""
    received: list[int] = []
    try:
        with _handling(lambda number, _: received.append(number)):
            yield
    finally:
        for number in received:
            signal.raise_signal(number)


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, other in previous.items():
            signal.signal(number, other)
