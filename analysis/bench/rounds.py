"""Contenders in turn, round by round, so that a machine that drifts drifts for all."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from vigmpi.host import set_mmap_threshold


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
    for name, (call, _) in contenders.items():
        _set_heap(name)
        call()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (call, _) in contenders.items():
            _set_heap(name)
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: Sample(np.array(seconds[name]), contenders[name][1]) for name in contenders}


def _set_heap(contender: str) -> None:
    """Each at its best: the reference is faster with glibc's own heap."""
    set_mmap_threshold(2**25 if "reference" in contender else 2**20)
