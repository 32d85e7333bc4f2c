import os
import pickle
from contextlib import suppress
from pathlib import Path

from mpi4py import MPI

from vigmpi.cli.config import RunConfig
from vigmpi.cli.parse import RunFlags, read_config
from vigmpi.comm.collectives import allgather_bytes, allgather_strings, raise_collectively


def shared_config(world: MPI.Intracomm, flags: RunFlags) -> RunConfig:
    """Return the configuration that rank 0 reads from its flags and files. Collective.

    All ranks go to the working directory of rank 0, if they have it, so that they understand its
    paths.

    Raises:
        InputError: if a file cannot be read, or an option is invalid (on all ranks).
    """
    content, folder = b"", ""
    with raise_collectively(world):
        if world.rank == 0:
            content = pickle.dumps(read_config(flags))
            with suppress(OSError):
                folder = str(Path.cwd())
    folder, content = allgather_strings(world, folder)[0], allgather_bytes(world, content)[0]
    with suppress(OSError):
        os.chdir(folder)
    return pickle.loads(content)  # noqa: S301 (it is of this run)
