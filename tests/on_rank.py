"""One of the ranks that call tests' functions: `mpiexec -n N python -m tests.on_rank`.

Rank 0 reads calls from its standard input, a line of JSON each, and answers each with a line.
"""

import faulthandler
import importlib
import json
import os
import sys
import time

import mpi4py.run
from mpi4py import MPI

from vigmpi.comm.waiting import wait

if __name__ == "__main__":
    world = MPI.COMM_WORLD
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the functions print
    try:
        while True:
            line = sys.stdin.readline() if world.rank == 0 else ""
            called = world.Ibarrier()
            while not called.Test():  # idle ranks leave the cores to others
                time.sleep(0.02)
            if not (line := world.bcast(line)):
                break
            module, function, seconds, arguments = json.loads(line)
            faulthandler.dump_traceback_later(seconds, exit=True)  # shows where a rank hangs
            getattr(importlib.import_module(module), function)(**arguments)
            wait(world.Ibarrier())
            faulthandler.cancel_dump_traceback_later()
            if world.rank == 0:
                print("done", file=answers, flush=True)
    except BaseException as error:
        mpi4py.run.set_abort_status(error)
        raise
