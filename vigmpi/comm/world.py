import os
from typing import TYPE_CHECKING

import mpi4py

from vigmpi import launch

if TYPE_CHECKING:
    from mpi4py import MPI


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
