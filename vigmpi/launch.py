"""Detection of the launcher from its environment variables, and checks that it fits the MPI.

The variables were read from the environments that MPICH's and Open MPI's mpiexec and Slurm's srun
set, the latter with each of its MPI types. Slurm's variables come last in each search, because an
mpiexec inside a batch job inherits them.
"""

import re
from collections.abc import Mapping, MutableMapping

from vigmpi.errors import HostError, InputError

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
_RANKS_OF_HOST = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
_PTY = "SLURM_PTY_PORT"  # of a step with a terminal
_STEP_VARIABLES = ("PMI", "SLURM_STEP", "SLURM_PROCID", "SLURM_LOCALID")
# MPICH 5.0.2 with 1 to 8 ranks crashed in some /dev/shm of up to 20 MiB, and in none of 24 MiB or
# more. Open MPI 5.0.11 ran in 64 KiB (analysis/records/shared_memory.txt).
_SHARED_BYTES, _SHARED_BYTES_OF_RANK = 24 * 2**20, 3 * 2**20
_MISMATCH = "launcher and MPI library do not match"


def num_tasks(environ: Mapping[str, str]) -> int:
    """Return the number of processes that the launcher started."""
    return _first(environ, _SIZES, 1)


def rank(environ: Mapping[str, str]) -> int:
    """Return the rank of this process without initializing MPI."""
    return _first(environ, _RANKS, 0)


def is_first_of_host(environ: Mapping[str, str]) -> bool:
    """Return whether this process is the first of those that were started on its host."""
    return _first(environ, _RANKS_OF_HOST, 0) == 0


def check_library(environ: Mapping[str, str], library: str) -> None:
    """Check that the MPI library supports the launcher.

    Otherwise MPI_Init would crash or put every rank into a world of its own.

    Args:
        library: the result of MPI_Get_library_version, which may be called before MPI_Init.

    Raises:
        InputError: if they do not match; the message names a launcher that does.
    """
    pmi = "PMI_RANK" in environ
    pmix = "PMIX_RANK" in environ or "PMIX_NAMESPACE" in environ
    slurm = "SLURM_STEP_ID" in environ and "OMPI_COMM_WORLD_SIZE" not in environ
    open_mpi, tasks = "Open MPI" in library, num_tasks(environ)
    if slurm and tasks > 1 and not (pmi or pmix):
        problem = f"srun has no MPI type, so each of its {tasks} tasks would be a separate world"
    elif pmix and not pmi and library.startswith("MPICH Version") and "pmix" not in library:
        problem = "the launcher uses PMIx, but this MPICH was built without PMIx"
    elif pmi and not pmix and open_mpi and int(re.findall(r"Open MPI v(\d+)", library)[0]) >= 5:
        problem = "the launcher uses PMI, but this Open MPI supports only PMIx"
    else:
        return
    if slurm:
        launcher = f"srun --mpi={'pmix' if open_mpi else 'pmi2'}"
    else:
        launcher = "Open MPI's mpirun" if open_mpi else "MPICH's mpiexec"
    raise InputError(f"{_MISMATCH}: {problem}. Start vigmpi with {launcher} -n {tasks}.")


def check_shared_memory(environ: Mapping[str, str], library: str, free_bytes: int) -> None:
    """Check that MPICH can allocate the memory that its ranks share; it would crash otherwise.

    Open MPI does without it.

    Args:
        library: as for `check_library`.
        free_bytes: free space of /dev/shm.

    Raises:
        HostError: if there is less than it needs.
    """
    of_step = re.match(r"\d+", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))  # "4(x2),3"
    ranks = _first(environ, ("MPI_LOCALNRANKS",), int(of_step[0]) if of_step else 1)
    needed = max(_SHARED_BYTES, ranks * _SHARED_BYTES_OF_RANK)
    if library.startswith("MPICH") and free_bytes < needed:
        raise HostError(
            f"too little shared memory: {free_bytes / 2**20:.1f} MiB are free in /dev/shm, and "
            f"MPICH needs {needed // 2**20} MiB. Enlarge it, for example with docker run "
            f"--shm-size=1g or mount -o remount,size=1g /dev/shm."
        )


def check_fault_tolerance(environ: Mapping[str, str]) -> None:
    """Check that the launcher lets surviving ranks continue after others are lost.

    Raises:
        InputError: if it would terminate them.
    """
    if environ.get("OMPI_MCA_mpi_ft_enable") not in {"1", "true"}:
        raise InputError(
            f"no fault tolerance: --on-failure continue needs Open MPI 5 with ULFM. "
            f"Start vigmpi with mpirun --with-ft ulfm -n {num_tasks(environ)}."
        )


def check_world(environ: Mapping[str, str], size: int) -> None:
    """Raise InputError unless all processes of the launch form one world of `size` ranks."""
    if (tasks := num_tasks(environ)) != size:
        raise InputError(
            f"{_MISMATCH}: the launcher started {tasks} processes, but MPI made worlds of "
            f"{size}. Use the mpiexec next to this Python, or srun --mpi=TYPE with a type "
            f"that srun --mpi=list prints."
        )


def leave_shell_of_step(
    environ: MutableMapping[str, str], parent: str, *, has_terminal: bool
) -> None:
    """Remove the variables of a step whose task is not this process but the user's shell.

    With them, a program that is started in the shell of `srun --pty` would wait for other tasks.
    Tasks of another srun or of an mpirun that was started there keep theirs.

    Args:
        parent: name of the program that started this process.
        has_terminal: whether this process has a controlling terminal, unlike the tasks of an srun
            without --pty.
    """
    if _PTY in environ and parent != "slurmstepd" and has_terminal and not _of_mpirun(environ):
        for name in [*environ]:
            if name.startswith(_STEP_VARIABLES):
                del environ[name]


def launcher(environ: Mapping[str, str]) -> str:
    """Return the command that starts ranks here."""
    if _of_mpirun(environ):
        return "mpirun"
    if _PTY in environ:
        return "srun --overlap"  # beside the step of the shell
    return "srun" if "SLURM_STEP_ID" in environ else "mpirun"


def _of_mpirun(environ: Mapping[str, str]) -> bool:
    return "OMPI_COMM_WORLD_SIZE" in environ or "MPI_LOCALRANKID" in environ


def unbinding_option(environ: Mapping[str, str]) -> str:
    """Return the launcher's option that lets ranks use all cores."""
    if "OMPI_COMM_WORLD_SIZE" in environ:
        return "mpirun --bind-to none"
    if "SLURM_STEP_ID" in environ and "MPI_LOCALRANKID" not in environ:
        return "srun --cpu-bind=none, or more --cpus-per-task"
    return "mpiexec -bind-to none"


def _first(environ: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    for name in names:
        if name.startswith("SLURM_") and "SLURM_STEP_ID" not in environ:
            continue  # the shell of a batch script, not a task of srun
        if environ.get(name, "").isdecimal():
            return int(environ[name])
    return default


def restarted(environ: Mapping[str, str]) -> bool:
    """Return whether Slurm has restarted the job."""
    return environ.get("SLURM_RESTART_COUNT", "0") != "0"
