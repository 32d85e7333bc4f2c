"""How this process was started: what the launcher says, and whether it fits the MPI library.

Which variables a launcher sets was read off MPICH's and Open MPI's mpiexec and Slurm's srun
with each of its MPI types. Slurm's come last: an mpiexec inside a batch job inherits them.
"""

import re
from collections.abc import Mapping

from vigmpi.errors import InputError

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")


def num_tasks(environ: Mapping[str, str]) -> int:
    """How many processes the launcher started."""
    return _first(environ, _SIZES, 1)


def rank(environ: Mapping[str, str]) -> int:
    """This process's rank, without asking MPI."""
    return _first(environ, _RANKS, 0)


def check_library(environ: Mapping[str, str], library: str) -> None:
    """Refuse a launcher that the MPI library cannot talk to.

    The mismatch either dies inside MPI_Init or makes every rank a world of its own.

    Args:
        library: what MPI_Get_library_version says, which may be asked before MPI_Init.

    Raises:
        InputError: naming the launcher that fits.
    """
    pmi = "PMI_RANK" in environ
    pmix = "PMIX_RANK" in environ or "PMIX_NAMESPACE" in environ
    slurm = "SLURM_STEP_ID" in environ and "OMPI_COMM_WORLD_SIZE" not in environ
    open_mpi, number = "Open MPI" in library, num_tasks(environ)
    if slurm and number > 1 and not (pmi or pmix):
        problem = f"srun started {number} tasks without an MPI type: each would be its own world"
    elif pmix and not pmi and library.startswith("MPICH Version") and "pmix" not in library:
        problem = "the launcher speaks PMIx, which this Python's MPI (MPICH) was built without"
    elif pmi and not pmix and open_mpi and int(re.findall(r"Open MPI v(\d+)", library)[0]) >= 5:
        problem = "the launcher speaks PMI, and this Python's MPI (Open MPI) only PMIx"
    else:
        return
    if slurm:
        right = f"srun --mpi={'pmix' if open_mpi else 'pmi2'}"
    else:
        right = "Open MPI's mpirun" if open_mpi else "MPICH's mpiexec"
    raise InputError(f"{problem}; type: {right} -n {number} python -m vigmpi ...")


def check_fault_tolerance(environ: Mapping[str, str]) -> None:
    """Refuse to go on without lost ranks where the launcher would end the others.

    Raises:
        InputError
    """
    if environ.get("OMPI_MCA_mpi_ft_enable") not in {"1", "true"}:
        raise InputError(
            f"--on-failure continue needs Open MPI 5 and its fault tolerance; type: mpirun "
            f"--with-ft ulfm -n {num_tasks(environ)} python -m vigmpi ..."
        )


def check_world(environ: Mapping[str, str], size: int) -> None:
    """Refuse a launch whose processes did not become one world."""
    if (number := num_tasks(environ)) != size:
        raise InputError(
            f"the launcher started {number} processes, but MPI made worlds of {size}: launcher "
            f"and MPI library do not belong together; type: the mpiexec beside this Python, or "
            f"srun --mpi=TYPE with a type that `srun --mpi=list` names"
        )


def _first(environ: Mapping[str, str], names: tuple[str, ...], otherwise: int) -> int:
    for name in names:
        if name.startswith("SLURM_") and "SLURM_STEP_ID" not in environ:
            continue  # a batch script's own shell, no task of srun's
        if environ.get(name, "").isdecimal():
            return int(environ[name])
    return otherwise
