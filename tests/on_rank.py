"""Call a test's function on this rank: `python -m tests.on_rank MODULE FUNCTION JSON SECONDS`."""

import faulthandler
import importlib
import json
import sys

import mpi4py.run
from mpi4py import MPI

from vigmpi.comm.waiting import wait

if __name__ == "__main__":
    module, function, arguments, seconds = sys.argv[1:]
    faulthandler.dump_traceback_later(float(seconds), exit=True)  # shows where a rank hangs
    try:
        getattr(importlib.import_module(module), function)(**json.loads(arguments))
        wait(MPI.COMM_WORLD.Ibarrier())  # MPI's own end spins
    except BaseException as error:
        mpi4py.run.set_abort_status(error)
        raise
