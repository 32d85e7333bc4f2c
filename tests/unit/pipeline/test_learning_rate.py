import pytest
import torch

from vigmpi.cli.config import LR_SCHEDULES as NAMES
from vigmpi.pipeline.learning_rate import LR_SCHEDULES, beta1, lr_factor


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


def test_one_cycle_follows_torchs_scheduler() -> None:
    steps, warm_up = 50, 0.3
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=steps, pct_start=warm_up
    )
    for step in range(steps):
        # torch's rise ends at step pct_start * steps - 1, and its fall at the last step.
        peak, last = warm_up * steps - 1, steps - 1
        part = step / peak if step < peak else (step - peak) / (last - peak)
        done = warm_up * part if step < peak else warm_up + (1 - warm_up) * part
        group = optimizer.param_groups[0]
        assert lr_factor("one-cycle", done, warm_up) == pytest.approx(group["lr"])
        assert beta1("one-cycle", done, warm_up) == pytest.approx(group["betas"][0])
        optimizer.step()
        theirs.step()
