"""Contenders in turn, round by round, so that a machine that drifts drifts for all."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np


class Sample(NamedTuple):
    """Seconds of each round, and what one run was worth (images, say)."""

    seconds: np.ndarray
    work: float

    @property
    def per_unit(self) -> float:
        """Median seconds for one unit of work."""
        return float(np.median(self.seconds)) / self.work


def interleaved(
    contenders: Mapping[str, tuple[Callable[[], object], float]], rounds: int
) -> dict[str, Sample]:
    """Time every contender once a round, after a warm-up of each.

    Args:
        contenders: what to call, and its work.
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
