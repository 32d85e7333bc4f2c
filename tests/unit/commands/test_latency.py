"""Summaries of load tests."""

import numpy as np
import pytest

from vigmpi.commands.latency import summarize


def test_latency_counts_from_the_arrival_and_a_queue_is_seen() -> None:
    arrival = np.array([0.0, 0.0, 0.0, 1.0, 9.0])
    begin = np.array([0.0, 2.0, 2.0, 4.0, 9.0])  # the second and third are one batch
    times = np.column_stack([arrival, begin, begin + 0.5, begin + 0.75, begin + 2.0])
    result = summarize(times, 0)
    assert result.maximum == 5.0  # of the fourth request, which waited for 3 s
    assert result.p50 == 4.0
    assert result.queue == 3  # two are left when the first batch begins, and it is counted
    assert result.batch == 5 / 4
    assert result.busy_s == pytest.approx(1.25)  # the slower of two stages
    assert result.images_per_s == pytest.approx(5 / 11.0)


def test_the_first_requests_do_not_count() -> None:
    begin = np.arange(10.0)
    times = np.column_stack([begin, begin, begin + 0.5])
    times[:3, 2] += 0.25
    result = summarize(times, 3)
    assert result.maximum == 0.5
    assert result.images_per_s == pytest.approx(7 / (9.5 - 2.75))


def test_mean_wait_of_a_queue_with_constant_service_is_that_of_theory() -> None:
    """Pollaczek and Khinchine: rho t / (2 (1 - rho)) for Poisson arrivals."""
    random = np.random.default_rng(0)
    service_s, load = 0.01, 0.7
    arrival = random.exponential(service_s / load, 200_000).cumsum()
    end = np.zeros(len(arrival))
    free = 0.0
    for i, time in enumerate(arrival):
        free = max(free, time) + service_s
        end[i] = free
    times = np.column_stack([arrival, end - service_s, end])
    expected = service_s + load * service_s / (2 * (1 - load))
    assert (times[:, -1] - times[:, 0]).mean() == pytest.approx(expected, rel=0.03)
    assert summarize(times, 0).busy_s == pytest.approx(service_s)
