"""Requests of a replica: when they arrive, and how they are grouped into batches."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

_ALIVE_S = 1.0  # longest pause
_POLL_S = 50e-6  # between looks for answers


class Requests:
    """Queue of requests, of which those that wait are grouped into batches.

    A batch is complete if it has its full size, if no request can come before its answers, or if
    its first request has waited for `batch_wait_s`.

    Args:
        arrivals: seconds at which the first requests arrive, in ascending order.
        total: number of requests; those after `arrivals` arrive as others are answered.
        batch_size: number of requests in a full batch.
        batch_wait_s: seconds that a request waits for others.

    Attributes:
        arrivals: arrivals so far, in the order of the requests.
    """

    def __init__(
        self, arrivals: Sequence[float], total: int, batch_size: int, batch_wait_s: float
    ) -> None:
        self.arrivals = list(arrivals)
        self._total = total
        self._batch_size = batch_size
        self._batch_wait_s = batch_wait_s
        self._taken = 0
        self._answered = 0

    @property
    def expects_an_arrival(self) -> bool:
        """True if the next event is an arrival or the end of a wait, and not an answer."""
        return self._taken < len(self.arrivals)

    def next(
        self,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        answers: Callable[[], tuple[int, float] | None] | None = None,
    ) -> range:
        """Wait for the next batch, and return its requests; none after the last batch.

        Args:
            clock: function that returns the time in seconds.
            sleep: function that pauses for some seconds.
            answers: function that returns the arguments of `answered` for a batch, if any.
        """
        while True:
            while answers and (answer := answers()):
                self.answered(*answer)
            if self._taken == self._total:
                return range(0)
            now = clock()
            last = min(len(self.arrivals), self._taken + self._batch_size)
            arrived = bisect_right(self.arrivals, now, self._taken, last)
            if arrived > self._taken and self._is_complete(arrived, now):
                batch = range(self._taken, arrived)
                self._taken = arrived
                return batch
            pause = min(self._next_event(arrived) - now, _POLL_S if answers else _ALIVE_S)
            sleep(max(pause, 0.0))

    def answered(self, number: int, time: float) -> None:
        """Take the answers to a batch of requests."""
        self._answered += number
        new = min(number, self._total - len(self.arrivals))
        self.arrivals.extend([time] * new)

    def _is_complete(self, arrived: int, now: float) -> bool:
        all_here = arrived == len(self.arrivals) and self._taken == self._answered
        full = arrived - self._taken == self._batch_size or arrived == self._total or all_here
        return full or now >= self.arrivals[self._taken] + self._batch_wait_s

    def _next_event(self, arrived: int) -> float:
        """Return when the next batch grows or is complete."""
        if self._taken == len(self.arrivals):
            return math.inf
        if arrived == self._taken:
            return self.arrivals[arrived]
        event = self.arrivals[self._taken] + self._batch_wait_s
        return min(event, self.arrivals[arrived]) if arrived < len(self.arrivals) else event
