"""Fault of a drill, planted in one rank: Python imports a module of this name at start-up."""

import ctypes
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from vigmpi import launch
from vigmpi.monitor.activity import Activity, CurrentAction

DRILL: dict[str, Any] = json.loads(os.environ["VIGMPI_DRILL"])


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def loop() -> NoReturn:
    while True:
        pass


def hold_gil() -> None:
    ctypes.PyDLL(None).pause()  # unlike CDLL, it keeps the GIL


def receive_unsent_message() -> None:
    from mpi4py import MPI  # noqa: PLC0415

    MPI.COMM_WORLD.Recv(np.empty(1), MPI.ANY_SOURCE, tag=12345)


def fail_in_mpi() -> NoReturn:
    from mpi4py import MPI  # noqa: PLC0415

    raise MPI.Exception(MPI.ERR_INTERN)


def raiser(error: BaseException) -> Callable[[], None]:
    def raise_error() -> None:
        raise error

    return raise_error


FAULTS: dict[str, Callable[[], None]] = {
    "kill": kill,
    "stop": stop,
    "loop": loop,
    "gil": hold_gil,
    "deadlock": receive_unsent_message,
    "mpi": fail_in_mpi,
    "raise": raiser(RuntimeError("planted")),
    "memory": raiser(MemoryError("planted")),
    "interrupt": raiser(KeyboardInterrupt()),
    "exit": raiser(SystemExit(0)),
}


def trigger() -> None:
    Path(DRILL["fault_time"]).write_text(str(time.time()))
    FAULTS[DRILL["fault"]]()


def plant() -> None:
    begin, remaining = Activity.begin, DRILL["nth"]

    def begin_with_fault(self: Activity, kind: str, micro_batch: int = -1) -> CurrentAction:
        nonlocal remaining
        outer = begin(self, kind, micro_batch)
        remaining -= kind == DRILL["kind"]
        if remaining == 0:
            remaining = -1
            if DRILL["delay_s"]:
                threading.Timer(DRILL["delay_s"], trigger).start()
            else:
                trigger()
        return outer

    Activity.begin = begin_with_fault  # type: ignore[method-assign]


if launch.rank(os.environ) == DRILL["rank"]:
    plant()
