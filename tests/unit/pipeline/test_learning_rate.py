import pytest

from vigmpi.cli.config import LR_SCHEDULES as NAMES
from vigmpi.pipeline.learning_rate import LR_SCHEDULES, lr_factor


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0]),
        ("cosine", [1, 0.8535533905932737, 0.5, 0]),
    ],
)
def test_a_schedule_goes_from_one_to_its_end(schedule: str, factors: list[float]) -> None:
    found = [lr_factor(schedule, done, warm_up=0) for done in (0, 0.25, 0.5, 1)]
    assert found == pytest.approx(factors)


def test_warm_up_rises_from_nothing_and_then_leaves_the_schedule_alone() -> None:
    found = [lr_factor("constant", done, warm_up=0.2) for done in (0, 0.1, 0.2, 0.9)]
    assert found == pytest.approx([0, 0.5, 1, 1])
    assert lr_factor("linear", 0.5, warm_up=0.2) == 0.5


def test_the_flag_offers_the_schedules_that_there_are() -> None:
    assert tuple(LR_SCHEDULES) == NAMES
