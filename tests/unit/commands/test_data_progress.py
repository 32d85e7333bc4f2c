import time

import pytest

from vigmpi.commands.data_progress import DataProgress
from vigmpi.monitor.activity import Activity


@pytest.mark.parametrize("shown", [True, False])
def test_a_long_check_is_shown_and_counts_as_progress_for_the_watchdog(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], shown: bool
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    activity = Activity(0)
    progress = DataProgress(activity, shown=shown)
    for done in range(1, 31):  # images, a second each
        progress(done, 30)
        now += 1
    progress(100_000, 0)
    lines = [f"data: {done} of 30 images checked\n" for done in (6, 11, 16, 21, 26)]
    assert capfd.readouterr().err == "".join([*lines, "data: 100,000 files listed\n"] * shown)
    assert activity.current.transitions == 2 * 6
    assert activity.current.kind == "start"
