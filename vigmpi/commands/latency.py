"""Latencies and rates of a load test, from the times that `vigmpi infer` and vigmpi_infer write."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vigmpi.errors import InputError


class Latency(NamedTuple):
    """Summary of the requests after the warm-up.

    Attributes:
        images_per_s: answered requests per second.
        p50, p95, p99, maximum: latencies in seconds, from the scheduled arrival of a request to
            the end of its batch on the last stage.
        queue: largest number of requests that waited at the same time for their batch to begin.
        batch: mean number of requests in a batch.
        busy_s: mean seconds of a batch on the slowest stage.
    """

    images_per_s: float
    p50: float
    p95: float
    p99: float
    maximum: float
    queue: int
    batch: float
    busy_s: float


def summarize(times: NDArray[np.float64], warm_up: int) -> Latency:
    """Return the summary of a run.

    Args:
        times: arrival, and begin and end on each stage, in seconds, [requests, 1 + 2 stages].
        warm_up: number of requests at the start that do not count, nor do others that were
            answered with them or before.

    Raises:
        InputError: if no request is left.
    """
    first = times[:warm_up, -1].max() if warm_up else times[0, 0]
    counted = times[times[:, -1] > first]
    if not len(counted):
        raise InputError(
            f"nothing left to measure: all {len(times)} requests were answered with the first "
            f"{warm_up}. Use --requests with more, or --warm-up with less."
        )
    arrival, begin, answer = counted[:, 0], counted[:, 1], counted[:, -1]
    latency = answer - arrival
    batches = np.unique(counted[:, 1:], axis=0)
    busy = (batches[:, 1::2] - batches[:, 0::2]).mean(axis=0).max()
    p50, p95, p99 = np.percentile(latency, [50, 95, 99])
    return Latency(
        images_per_s=len(counted) / (answer.max() - first),
        p50=float(p50),
        p95=float(p95),
        p99=float(p99),
        maximum=float(latency.max()),
        queue=_largest_queue(arrival, begin),
        batch=len(counted) / len(batches),
        busy_s=float(busy),
    )


def _largest_queue(arrival: NDArray[np.float64], begin: NDArray[np.float64]) -> int:
    """Return the largest number of requests that have arrived, and whose batch has not begun."""
    arrived = np.searchsorted(np.sort(arrival), begin, side="right")
    begun = np.searchsorted(np.sort(begin), begin, side="left")
    return int((arrived - begun).max())
