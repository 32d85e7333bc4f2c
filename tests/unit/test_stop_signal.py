"""Tests that a signal ends a program wherever it arrives."""

import signal
import threading
import time

import pytest

from vigmpi.stop_signal import exiting_on_signals
from vigmpi.worker_pool import worker_pool

pytestmark = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


def test_a_signal_in_a_destructor_ends_the_program(number: signal.Signals) -> None:
    class Interrupted:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def program() -> None:
        Interrupted()
        time.sleep(60)

    start = time.monotonic()
    with pytest.raises(SystemExit) as error, exiting_on_signals():
        program()
    assert time.monotonic() < start + 30
    assert error.value.code == 128 + number


def test_a_signal_while_worker_processes_start_waits_for_them(
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
