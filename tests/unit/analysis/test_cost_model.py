import pytest

from analysis.cost_model import predict_seconds, time_in_blocks


def test_the_studys_four_stage_times_follow_from_its_two_stage_times() -> None:
    assert predict_seconds(19.02, (4, 4), (6, 2, 2, 2), 5) == pytest.approx(28.53)
    assert predict_seconds(19.02, (4, 4), (2, 2, 2, 2), 5) == pytest.approx(12.68)


def test_one_stage_or_one_chunk_takes_the_time_of_all_blocks() -> None:
    assert time_in_blocks((8,), 10) == 8
    assert time_in_blocks((3, 3, 2), 1) == 8
