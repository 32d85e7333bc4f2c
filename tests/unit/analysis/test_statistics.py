import numpy as np
import pytest

from analysis.statistics import median_ratio, speed_up, two_modes


def test_a_speed_up_is_the_ratio_of_means_and_lies_within_its_interval() -> None:
    random = np.random.default_rng(1)
    ratio, low, high = speed_up(random.normal(20, 1, 60), random.normal(10, 0.5, 60))
    assert low < 2 < high
    assert low < ratio < high
    assert high - low < 0.1


def test_the_interval_contains_the_true_speed_up_about_95_percent_of_the_time() -> None:
    random = np.random.default_rng()
    covered = 0
    for _ in range(60):
        _, low, high = speed_up(random.normal(20, 2, 40), random.normal(10, 1, 40))
        covered += low <= 2 <= high
    assert covered >= 48  # 57 expected; fewer than 48 about once in 100,000 runs


def test_two_modes_are_distinguished_from_one() -> None:
    random = np.random.default_rng(2)
    one = random.normal(25, 1, 100)
    assert two_modes(one) is None
    modes = two_modes([*random.normal(25.8, 0.3, 97), *random.normal(19.6, 0.1, 3)])
    assert modes == pytest.approx((19.6, 25.8), abs=0.2)
    assert two_modes([1.0, 1.1]) is None


def test_a_drift_that_both_times_of_a_pair_share_cancels_in_their_ratio() -> None:
    random = np.random.default_rng(3)
    drift = np.linspace(1, 3, 30)
    times = drift * random.normal([[1.1], [1.0]], 0.01, (2, 30))
    ratio, low, high = median_ratio(*times)
    assert ratio == pytest.approx(1.1, abs=0.01)
    assert low < 1.1 < high
    assert high - low < 0.02
