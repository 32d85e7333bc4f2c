import ctypes
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from vigmpi.errors import error_reason
from vigmpi.standard_streams import show
from vigmpi.stop_signal import signals_deferred

_PR_SET_PDEATHSIG = 1  # from prctl.h


@contextmanager
def worker_pool(workers: int, work: str) -> Iterator[Executor]:
    """Context of worker processes; if the system has no semaphores, this process does the work.

    Args:
        workers: number of processes.
        work: what they do, for the warning that one process does it.
    """
    with signals_deferred():
        pool = _executor(workers, work)
    try:
        yield pool
    finally:
        with signals_deferred():
            pool.shutdown(cancel_futures=True)


def _executor(workers: int, work: str) -> Executor:
    try:
        return _Processes(
            workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent
        )
    except OSError as error:  # semaphores are files in /dev/shm
        show(
            f"vigmpi: warning: one process {work}, because no semaphores can be made in /dev/shm "
            f"({error_reason(error)}).\n"
        )
        return _ThisProcess()


class _Processes(ProcessPoolExecutor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        with signals_deferred():  # the first call starts a thread and the processes
            return super().submit(fn, *args, **kwargs)


class _ThisProcess(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _end_with_parent() -> None:
    """Kill this worker when its parent dies, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
