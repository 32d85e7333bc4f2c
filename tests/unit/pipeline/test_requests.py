"""Grouping of requests into batches."""

import numpy as np
import pytest

from vigmpi.pipeline.requests import Requests


class Clock:
    """Clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses = 0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses += 1
        self.now += max(seconds, 1e-9)


def batches(requests: Requests, service_s: float, clock: Clock) -> list[tuple[float, int]]:
    """Serve all requests, one batch after the other; return when each begins, and its size."""
    result = []
    while batch := requests.next(clock, clock.sleep):
        result.append((round(clock.now, 6), len(batch)))
        clock.now += service_s
        requests.answered(len(batch), clock.now)
    return result


@pytest.mark.parametrize(
    ("arrivals", "wait_s", "service_s", "expected"),
    [
        ([0.0] * 7, 0.0, 1.0, [(0.0, 3), (1.0, 3), (2.0, 1)]),  # all at once
        ([0.0, 1.0, 5.0], 0.0, 0.5, [(0.0, 1), (1.0, 1), (5.0, 1)]),  # nobody waits
        ([0.0, 1.0, 5.0], 2.0, 0.5, [(2.0, 2), (5.0, 1)]),  # the last one has none to wait for
        ([0.0, 0.5, 1.0, 9.0], 2.0, 0.5, [(1.0, 3), (9.0, 1)]),  # a full batch does not wait
        ([0.0, 0.1, 0.2, 0.3, 0.4], 0.0, 1.0, [(0.0, 1), (1.0, 3), (2.0, 1)]),  # a slow server
    ],
)
def test_requests_that_wait_are_grouped(
    arrivals: list[float], wait_s: float, service_s: float, expected: list[tuple[float, int]]
) -> None:
    requests = Requests(arrivals, len(arrivals), 3, wait_s)
    assert batches(requests, service_s, Clock()) == expected


def test_every_request_is_taken_once_and_none_before_it_arrives() -> None:
    random = np.random.default_rng(seed := int(np.random.default_rng().integers(2**31)))
    print("seed", seed)
    arrivals = random.exponential(0.01, 500).cumsum()
    requests, clock = Requests(arrivals.tolist(), 500, 8, 0.015), Clock()
    taken: list[int] = []
    while batch := requests.next(clock, clock.sleep):
        assert 1 <= len(batch) <= 8
        assert clock.now >= arrivals[batch[-1]]
        if len(batch) < 8 and batch[-1] < 499:
            assert clock.now >= arrivals[batch[0]] + 0.015
        taken += batch
        clock.now += random.uniform(0, 0.1)
    assert taken == list(range(500))
    assert clock.pauses < 3000  # it sleeps until something happens


def test_a_closed_loop_keeps_its_number_in_flight() -> None:
    requests, clock, in_flight = Requests([0.0] * 4, 20, 3, 0.0), Clock(), 0
    answers: list[tuple[float, int]] = []

    def poll() -> tuple[int, float] | None:
        nonlocal in_flight
        if answers and answers[0][0] <= clock.now:
            time, number = answers.pop(0)
            in_flight -= number
            return number, time
        return None

    sizes = []
    while batch := requests.next(clock, clock.sleep, poll):
        in_flight += len(batch)
        assert in_flight <= 4
        sizes.append(len(batch))
        answers.append((clock.now + 1.0, len(batch)))
    assert sum(sizes) == 20
    assert requests.arrivals == sorted(requests.arrivals)
    assert len(requests.arrivals) == 20
