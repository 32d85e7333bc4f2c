"""Plants a fault in one rank of a drill: Python imports a module of this name at its start."""

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


def keep_lock() -> None:
    ctypes.PyDLL(None).pause()  # unlike CDLL, it does not release Python's lock


def receive_nothing() -> None:
    from mpi4py import MPI  # noqa: PLC0415

    MPI.COMM_WORLD.Recv(np.empty(1), MPI.ANY_SOURCE, tag=12345)


def fail_in_mpi() -> NoReturn:
    from mpi4py import MPI  # noqa: PLC0415

    raise MPI.Exception(MPI.ERR_INTERN)


def throw(error: BaseException) -> Callable[[], None]:
    def thrown() -> None:
        raise error

    return thrown


FAULTS: dict[str, Callable[[], None]] = {
    "kill": kill,
    "stop": stop,
    "loop": loop,
    "lock": keep_lock,
    "deadlock": receive_nothing,
    "mpi": fail_in_mpi,
    "raise": throw(RuntimeError("planted")),
    "memory": throw(MemoryError("planted")),
    "interrupt": throw(KeyboardInterrupt()),
    "leave": throw(SystemExit(0)),
}


def strike() -> None:
    Path(DRILL["struck"]).write_text(str(time.time()))
    FAULTS[DRILL["fault"]]()


def plant() -> None:
    begin, left = Activity.begin, DRILL["nth"]

    def planted(self: Activity, kind: str, micro_batch: int = -1) -> CurrentAction:
        nonlocal left
        outer = begin(self, kind, micro_batch)
        left -= kind == DRILL["kind"]
        if left == 0:
            left = -1
            if DRILL["delay_s"]:
                threading.Timer(DRILL["delay_s"], strike).start()
            else:
                strike()
        return outer

    Activity.begin = planted  # type: ignore[method-assign]


if launch.rank(os.environ) == DRILL["rank"]:
    plant()
