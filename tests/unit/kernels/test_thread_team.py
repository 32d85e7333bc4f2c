import gc
import subprocess
import sys
import weakref
from itertools import pairwise
from threading import Barrier, Event, Thread, current_thread

import numpy as np
import pytest

from vigmpi.kernels.thread_team import ThreadTeam

SECONDS = 30


def test_threads_share_the_ranges() -> None:
    both = Barrier(2)
    taken: list[tuple[int, int]] = []
    threads = set()

    def kernel(first: int, last: int, name: str) -> None:
        both.wait(SECONDS)  # passes only if two threads are in the kernel
        taken.append((first, last))
        threads.add(current_thread())
        assert name == "argument"

    ThreadTeam(2).run(kernel, pairwise(range(7)), "argument")
    assert sorted(taken) == list(pairwise(range(7)))
    assert len(threads) == 2


def test_an_error_of_another_thread_is_raised() -> None:
    both = Barrier(2)
    caller = current_thread()

    def kernel(first: int, last: int) -> None:
        both.wait(SECONDS)
        if current_thread() is not caller:
            raise ArithmeticError(f"{first} {last}")

    team = ThreadTeam(2)
    with pytest.raises(ArithmeticError, match=r"^[01] [12]$"):
        team.run(kernel, [(0, 1), (1, 2)])
    taken: list[tuple[int, int]] = []
    team.run(lambda first, last: taken.append((first, last)), [(0, 1), (1, 2)])
    assert sorted(taken) == [(0, 1), (1, 2)]


def test_the_caller_does_not_wait_for_a_thread_without_a_range() -> None:
    team = ThreadTeam(2)
    both, end = Barrier(3), Event()

    def occupy(*_: int) -> None:
        both.wait(SECONDS)
        assert end.wait(SECONDS)

    other = Thread(target=team.run, args=(occupy, [(0, 1), (1, 2)]))
    other.start()
    both.wait(SECONDS)  # the team's other thread is busy from here on
    taken: list[tuple[int, int]] = []
    values = np.zeros(1)
    team.run(lambda first, last, _: taken.append((first, last)), [(0, 1), (1, 2)], values)
    assert taken == [(0, 1), (1, 2)]
    memory = weakref.ref(values)
    del values
    gc.collect()
    assert memory() is None  # although the busy thread has not seen the job
    end.set()
    other.join(SECONDS)
    assert not other.is_alive()


def test_a_process_that_exits_waits_for_the_kernels() -> None:
    program = """
import sys, threading, time
from vigmpi.kernels.thread_team import ThreadTeam

helping = threading.Event()

def kernel(first, last):
    if threading.current_thread() is threading.main_thread():
        helping.wait()
        sys.exit(7)
    helping.set()
    time.sleep(0.5)
    print("done", flush=True)

ThreadTeam(2).run(kernel, [(0, 1), (1, 2)])
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (result.returncode, result.stdout, result.stderr) == (7, "done\n", "")
