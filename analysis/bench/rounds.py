"""Timing of contenders in alternation, so that drift of the machine affects all of them."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np


class Sample(NamedTuple):
    """Seconds of each round, and the work of one call in units such as images."""

    seconds: np.ndarray
    work: float

    @property
    def per_unit(self) -> float:
        """Median number of seconds per unit of work."""
        return float(np.median(self.seconds)) / self.work


def interleaved(
    contenders: Mapping[str, tuple[Callable[[], object], float]], rounds: int
) -> dict[str, Sample]:
    """Time every contender once per round, after one warm-up call of each.

    Args:
        contenders: function to call and its work, by name.
        rounds: number of timed calls of each contender.
    """
    for call, _ in contenders.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (call, _) in contenders.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: Sample(np.array(seconds[name]), contenders[name][1]) for name in contenders}
