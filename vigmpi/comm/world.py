import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

import mpi4py

from vigmpi import launch

if TYPE_CHECKING:
    from mpi4py import MPI

_PATIENCE_S = 3
_PASS_ON_S = 0.2  # a launcher may drop what it has not passed on when the world ends


def start_mpi() -> "MPI.Intracomm":
    """Start MPI and return the world.

    Raises:
        InputError: launcher and MPI library do not fit (on all ranks alike).
    """
    mpi4py.rc.initialize = False  # so that the library can be asked for its name first
    mpi4py.rc.finalize = True
    from mpi4py import MPI  # noqa: PLC0415

    launch.check_library(os.environ, MPI.Get_library_version())
    MPI.Init_thread(MPI.THREAD_MULTIPLE)
    launch.check_world(os.environ, MPI.COMM_WORLD.size)
    return MPI.COMM_WORLD


def exit_without_finalize(status: int) -> NoReturn:
    """End this process where some ranks are lost.

    MPI_Finalize could wait for them for ever (seen with Open MPI 5.0.11).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def abort(message: str) -> NoReturn:
    """Say why, then end all ranks, whatever they are at. Any thread may call it.

    It takes no lock, flushes nothing and runs no exit handlers: they could wait for what has
    failed. Where MPI itself does not come back, the kernel ends this process.
    """
    signal.alarm(_PATIENCE_S)  # unlike a thread, it does not need Python's lock
    with suppress(OSError):
        os.write(2, f"vigmpi: error: {message}".encode(errors="replace"))
    time.sleep(_PASS_ON_S)
    module = sys.modules.get("mpi4py.MPI")
    if module and module.Is_initialized() and not module.Is_finalized():
        module.COMM_WORLD.Abort(1)
    os._exit(1)
