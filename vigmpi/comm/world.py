import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

import mpi4py

from vigmpi import launch
from vigmpi.errors import HostError, error_reason
from vigmpi.host import free_shared_memory_bytes

if TYPE_CHECKING:
    from mpi4py import MPI

_ABORT_TIMEOUT_S = 3
_FORWARD_S = 0.2  # an abort may drop output that the launcher has not yet forwarded


def start_mpi() -> "MPI.Intracomm":
    """Start MPI and return MPI_COMM_WORLD.

    Raises:
        InputError: if the launcher and the MPI library do not match (on all ranks).
        HostError: if there is no MPI library, or too little shared memory for it.
    """
    mpi4py.rc.initialize = False  # the version is checked before MPI_Init
    mpi4py.rc.finalize = True
    try:
        from mpi4py import MPI  # noqa: PLC0415
    except (ImportError, RuntimeError) as error:  # the latter if a wheel of mpi4py finds none
        chosen = os.environ.get("MPI4PY_LIBMPI") or os.environ.get("MPI4PY_MPIABI")
        raise HostError(
            f"cannot load an MPI library: {chosen or 'none was named'} ({error_reason(error)}). "
            f"Load an MPI module or set MPI4PY_LIBMPI to the path of its libmpi.so, or install "
            f"one with pip install vigmpi[mpi]."
        ) from error
    library = MPI.Get_library_version()
    launch.check_library(os.environ, library)
    launch.check_shared_memory(os.environ, library, free_shared_memory_bytes())
    MPI.Init_thread(MPI.THREAD_MULTIPLE)
    launch.check_world(os.environ, MPI.COMM_WORLD.size)
    return MPI.COMM_WORLD


def exit_without_finalize(status: int) -> NoReturn:
    """Exit from a job that has lost ranks.

    MPI_Finalize could wait for them forever (seen with Open MPI 5.0.11).
    """
    os._exit(status)


def abort(message: str) -> NoReturn:
    """Print a message and abort all ranks. Any thread may call this.

    It takes no lock, flushes nothing and runs no exit handlers: they could wait for the part that
    failed. If MPI_Abort does not return, a signal ends this process.
    """
    signal.alarm(_ABORT_TIMEOUT_S)  # unlike a thread, an alarm does not need the GIL
    with suppress(OSError):
        os.write(2, f"vigmpi: error: {message}".encode(errors="replace"))
    time.sleep(_FORWARD_S)
    module = sys.modules.get("mpi4py.MPI")
    if module and module.Is_initialized() and not module.Is_finalized():
        module.COMM_WORLD.Abort(1)
    os._exit(1)
