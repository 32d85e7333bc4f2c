"""A team of threads that share the ranges of a kernel's work.

With concurrent.futures, short kernels take longer: the caller waits until every thread has woken
up, even if no work is left by then. Cancelling the futures of such threads was no faster.
"""

import atexit
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from threading import Thread
from typing import Any

Range = tuple[int, int]


class ThreadTeam:
    """The calling thread and others, which sleep while there is no work.

    Args:
        size: number of threads, with the calling one.
    """

    def __init__(self, size: int) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._helpers = [
            Thread(target=self._help, name="kernel", daemon=True) for _ in range(size - 1)
        ]
        for helper in self._helpers:
            helper.start()
        # A thread that returns from compiled code while the interpreter ends could crash it.
        atexit.register(self._stop)

    def run(self, kernel: Callable[..., Any], ranges: Iterable[Range], *arguments: Any) -> None:
        """Run kernel(first, last, *arguments) on every range; return when all are done.

        Each thread takes the next range as soon as it has finished one.
        """
        job = _Job(kernel, ranges, arguments)
        for _ in self._helpers:
            self._jobs.put(job)
        job.run()

    def _help(self) -> None:
        while job := self._jobs.get():
            job.help()

    def _stop(self) -> None:
        for _ in self._helpers:
            self._jobs.put(None)
        for helper in self._helpers:
            helper.join()


class _Job:
    def __init__(
        self, kernel: Callable[..., Any], ranges: Iterable[Range], arguments: tuple[Any, ...]
    ) -> None:
        self._kernel, self._arguments = kernel, arguments
        self._ranges = deque(ranges)
        self._number = len(self._ranges)
        self._results: SimpleQueue[int | BaseException] = SimpleQueue()

    def run(self) -> None:
        number = self._work()
        while number < self._number:
            result = self._results.get()
            if isinstance(result, BaseException):
                raise result
            number += result
        self._arguments = ()  # a thread that wakes up later must not keep their memory

    def help(self) -> None:
        try:
            number = self._work()
        except BaseException as error:
            self._results.put(error)
            return
        if number > 0:
            self._results.put(number)

    def _work(self) -> int:
        """Run the kernel until no range is left; return the number of ranges."""
        number = 0
        while True:
            try:
                first, last = self._ranges.popleft()
            except IndexError:
                return number
            self._kernel(first, last, *self._arguments)
            number += 1
