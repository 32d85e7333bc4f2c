import numpy as np
import pytest

from analysis.statistics import speed_up, two_modes


def test_a_speed_up_is_the_ratio_of_means_within_its_interval() -> None:
    random = np.random.default_rng(1)
    ratio, low, high = speed_up(random.normal(20, 1, 60), random.normal(10, 0.5, 60))
    assert low < 2 < high
    assert low < ratio < high
    assert high - low < 0.1


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng()
    held = 0
    for _ in range(60):
        _, low, high = speed_up(random.normal(20, 2, 40), random.normal(10, 1, 40))
        held += low <= 2 <= high
    assert held >= 48  # 57 expected; fewer than 48 in one of some 100,000 runs


def test_two_modes_are_told_from_one() -> None:
    random = np.random.default_rng(2)
    one = random.normal(25, 1, 100)
    assert two_modes(one) is None
    modes = two_modes([*random.normal(25.8, 0.3, 97), *random.normal(19.6, 0.1, 3)])
    assert modes == pytest.approx((19.6, 25.8), abs=0.2)
    assert two_modes([1.0, 1.1]) is None
