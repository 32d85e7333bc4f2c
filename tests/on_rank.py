"""Rank process that runs functions of tests: `mpiexec -n N python -m tests.on_rank`.

Rank 0 reads one call per line, as JSON, from standard input and answers each with one line.
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
    os.dup2(2, 1)  # keeps the output of the functions apart from the answers
    try:
        while True:
            line = sys.stdin.readline() if world.rank == 0 else ""
            next_call = world.Ibarrier()
            while not next_call.Test():  # sleeping leaves the cores to other processes
                time.sleep(0.02)
            if not (line := world.bcast(line)):
                break
            module, function, seconds, arguments = json.loads(line)
            faulthandler.dump_traceback_later(seconds, exit=True)  # show where a rank hangs
            getattr(importlib.import_module(module), function)(**arguments)
            wait(world.Ibarrier())
            faulthandler.cancel_dump_traceback_later()
            if world.rank == 0:
                print("done", file=answers, flush=True)
    except BaseException as error:
        mpi4py.run.set_abort_status(error)
        raise
