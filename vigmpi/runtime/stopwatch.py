import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds spent, by column of the record."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def __call__(self, column: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[column] += time.perf_counter() - start
