"""The environments are those that the launchers were seen to set."""

import pytest

from vigmpi import launch
from vigmpi.errors import InputError

MPICH = "MPICH Version:      5.0.2\nMPICH configure:    --with-device=ch4:ucx,ofi\n"
MPICH_PMIX = MPICH.replace("ofi", "ofi --with-pmix=/usr")
OPEN_MPI = "Open MPI v5.0.11, package: Open MPI user@localhost Distribution"
OPEN_MPI_4 = "Open MPI v4.1.4, package: Debian OpenMPI"

ALONE: dict[str, str] = {}
HYDRA = {"PMI_SIZE": "4", "PMI_RANK": "3"}
PRTERUN = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "PMIX_RANK": "3",
    "PMIX_NAMESPACE": "prterun-host-1@1",
}
SRUN = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}
SRUN_PMI2 = SRUN | HYDRA
SRUN_PMIX = SRUN | {"PMIX_RANK": "3", "PMIX_NAMESPACE": "slurm.pmix.1.0"}
BATCH_SCRIPT = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}
# Slurm's variables describe hydra's two proxies, the launcher's own the ranks.
HYDRA_IN_BATCH = SRUN | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"} | HYDRA


@pytest.mark.parametrize(
    ("environ", "tasks", "rank"),
    [
        (ALONE, 1, 0),
        (HYDRA, 4, 3),
        (PRTERUN, 4, 3),
        (SRUN, 4, 3),
        (SRUN_PMI2, 4, 3),
        (SRUN_PMIX, 4, 3),
        (BATCH_SCRIPT, 1, 0),
        (HYDRA_IN_BATCH, 4, 3),
    ],
)
def test_tasks_and_rank_are_read_off_the_launcher(
    environ: dict[str, str], tasks: int, rank: int
) -> None:
    assert (launch.num_tasks(environ), launch.rank(environ)) == (tasks, rank)


@pytest.mark.parametrize(
    ("environ", "library"),
    [
        (ALONE, MPICH),
        (ALONE, OPEN_MPI),
        (HYDRA, MPICH),
        (PRTERUN, OPEN_MPI),
        (PRTERUN, MPICH_PMIX),
        (SRUN_PMI2, MPICH),
        (SRUN_PMI2, OPEN_MPI_4),
        (SRUN_PMIX, OPEN_MPI),
        (SRUN_PMIX, MPICH_PMIX),
        (HYDRA_IN_BATCH, MPICH),
        (BATCH_SCRIPT, MPICH),
    ],
)
def test_a_launcher_that_fits_is_let_through(environ: dict[str, str], library: str) -> None:
    launch.check_library(environ, library)


@pytest.mark.parametrize(
    ("environ", "library", "right"),
    [
        (SRUN, MPICH, "srun --mpi=pmi2 -n 4 "),
        (SRUN, OPEN_MPI, "srun --mpi=pmix -n 4 "),
        (SRUN_PMIX, MPICH, "srun --mpi=pmi2 -n 4 "),
        (SRUN_PMI2, OPEN_MPI, "srun --mpi=pmix -n 4 "),
        (PRTERUN, MPICH, "MPICH's mpiexec -n 4 "),
        (HYDRA, OPEN_MPI, "Open MPI's mpirun -n 4 "),
    ],
)
def test_a_launcher_that_does_not_fit_is_told_the_one_that_does(
    environ: dict[str, str], library: str, right: str
) -> None:
    with pytest.raises(InputError, match=f"type: {right}"):
        launch.check_library(environ, library)


def test_worlds_of_one_are_found() -> None:
    launch.check_world(HYDRA, 4)
    with pytest.raises(InputError, match="started 4 processes, but MPI made worlds of 1"):
        launch.check_world(HYDRA, 1)


def test_only_a_launcher_that_lets_the_others_live_may_lose_a_rank() -> None:
    launch.check_fault_tolerance(PRTERUN | {"OMPI_MCA_mpi_ft_enable": "1"})
    for environ in (PRTERUN, HYDRA):
        with pytest.raises(InputError, match="type: mpirun --with-ft ulfm -n 4 "):
            launch.check_fault_tolerance(environ)
