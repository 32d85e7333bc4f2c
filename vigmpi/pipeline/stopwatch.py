import time
from collections.abc import Iterator
from contextlib import contextmanager

from vigmpi.monitor.activity import Activity
from vigmpi.record.timings import Span


class Stopwatch:
    """Recorder of a step's spans, which also sets this rank's current activity."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity
        self.spans: list[Span] = []

    @contextmanager
    def __call__(self, kind: str, micro_batch: int = -1) -> Iterator[None]:
        outer = self._activity.begin(kind, micro_batch)
        start, parts_s = time.perf_counter(), self._activity.parts_s
        yield
        parts_s = self._activity.parts_s - parts_s
        self.spans.append(Span(kind, micro_batch, start, time.perf_counter(), parts_s))
        self._activity.end(outer)
