import faulthandler
import os
import platform
import select
import time
from contextlib import suppress

from vigmpi import launch
from vigmpi.standard_streams import show

DEFAULT_S = 600.0
_PRINTING_S = 1.0


class StartLimit:
    """Limit on the time until all ranks have met: one line per host, then status 1.

    While MPI starts, Python runs neither signal handlers nor other threads. A helper process
    therefore prints the line, and faulthandler's thread, which needs no interpreter, ends this
    process.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self._start = seconds, time.monotonic()
        self._nowhere = os.open(os.devnull, os.O_WRONLY)  # for the traceback
        faulthandler.dump_traceback_later(seconds + _PRINTING_S, exit=True, file=self._nowhere)
        self._helper, self._pipe, self._ended = 0, -1, False
        if launch.is_first_of_host(os.environ):
            with suppress(OSError):  # no process can be added: the line is missing
                self._start_helper(seconds)

    def _start_helper(self, seconds: float) -> None:
        reader, self._pipe = os.pipe()
        self._helper = os.fork()
        if self._helper:
            os.close(reader)
            return
        try:
            os.close(self._pipe)
            ended, _, _ = select.select([reader], [], [], seconds)  # also if the rank has died
            if not ended:
                show(_message(seconds))
        finally:
            os._exit(0)

    @property
    def remaining_s(self) -> float:
        return max(0.0, self._start + self.seconds - time.monotonic())

    def silence_helper(self) -> None:
        """End the helper process; another one prints the line, or none is needed."""
        if self._helper:
            os.close(self._pipe)
            with suppress(ChildProcessError):  # if SIGCHLD is ignored
                os.waitpid(self._helper, 0)
            self._helper = 0

    def end(self) -> None:
        """Lift the limit."""
        if self._ended:
            return
        self._ended = True
        faulthandler.cancel_dump_traceback_later()
        os.close(self._nowhere)
        self.silence_helper()


def _message(seconds: float) -> str:
    return (
        f"vigmpi: error: not all ranks have met within {seconds:g} s: "
        f"{launch.num_tasks(os.environ)} were started, this is {platform.node()}. Check that they "
        f"all run vigmpi with the same MPI library and that their hosts reach each other, or use "
        f"--start-timeout SECONDS.\n"
    )
