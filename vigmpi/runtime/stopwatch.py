import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds spent, by column of the record."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, column: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[column] += time.perf_counter() - start
