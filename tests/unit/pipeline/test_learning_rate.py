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
def test_a_schedule_follows_its_formula(schedule: str, factors: list[float]) -> None:
    actual = [lr_factor(schedule, done, warm_up=0) for done in (0, 0.25, 0.5, 1)]
    assert actual == pytest.approx(factors)


def test_warm_up_rises_from_zero_and_then_leaves_the_schedule_unchanged() -> None:
    actual = [lr_factor("constant", done, warm_up=0.2) for done in (0, 0.1, 0.2, 0.9)]
    assert actual == pytest.approx([0, 0.5, 1, 1])
    assert lr_factor("linear", 0.5, warm_up=0.2) == 0.5


def test_the_option_offers_all_schedules() -> None:
    assert tuple(LR_SCHEDULES) == NAMES
