"""Tests that signals end a program cleanly while its worker processes start."""

import signal
import threading

import pytest

from vigmpi.stop_signal import exiting_on_signals
from vigmpi.worker_pool import worker_pool


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_pool_starts_ends_the_program_with_its_status(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        signal.raise_signal(number)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(SystemExit) as error, exiting_on_signals(), worker_pool(2, "adds") as pool:
        pool.submit(sum, [1, 2])
    assert error.value.code == 128 + number
