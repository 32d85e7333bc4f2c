import pytest

from analysis.cost_model import block_times, predicted


def test_the_studys_four_stages_follow_from_its_two() -> None:
    assert predicted(19.02, (4, 4), (6, 2, 2, 2), 5) == pytest.approx(28.53)
    assert predicted(19.02, (4, 4), (2, 2, 2, 2), 5) == pytest.approx(12.68)


def test_one_stage_or_one_chunk_runs_every_block_in_turn() -> None:
    assert block_times((8,), 10) == 8
    assert block_times((3, 3, 2), 1) == 8
