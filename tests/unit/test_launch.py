"""Environments as recorded from the launchers."""

import pytest

from vigmpi import launch
from vigmpi.errors import HostError, InputError

MPICH = "MPICH Version:      5.0.2\nMPICH configure:    --with-device=ch4:ucx,ofi\n"
MPICH_PMIX = MPICH.replace("ofi", "ofi --with-pmix=/usr")
OPEN_MPI = "Open MPI v5.0.11, package: Open MPI user@localhost Distribution"
OPEN_MPI_4 = "Open MPI v4.1.4, package: Debian OpenMPI"

NO_LAUNCHER: dict[str, str] = {}
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
# Slurm's variables describe the two Hydra proxies, those of Hydra the ranks.
HYDRA_IN_BATCH = SRUN | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"} | HYDRA


@pytest.mark.parametrize(
    ("environ", "tasks", "rank"),
    [
        (NO_LAUNCHER, 1, 0),
        (HYDRA, 4, 3),
        (PRTERUN, 4, 3),
        (SRUN, 4, 3),
        (SRUN_PMI2, 4, 3),
        (SRUN_PMIX, 4, 3),
        (BATCH_SCRIPT, 1, 0),
        (HYDRA_IN_BATCH, 4, 3),
    ],
)
def test_number_of_tasks_and_rank_come_from_the_launcher(
    environ: dict[str, str], tasks: int, rank: int
) -> None:
    assert (launch.num_tasks(environ), launch.rank(environ)) == (tasks, rank)


@pytest.mark.parametrize(
    ("environ", "library"),
    [
        (NO_LAUNCHER, MPICH),
        (NO_LAUNCHER, OPEN_MPI),
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
def test_a_matching_launcher_is_accepted(environ: dict[str, str], library: str) -> None:
    launch.check_library(environ, library)


@pytest.mark.parametrize(
    ("environ", "library", "launcher"),
    [
        (SRUN, MPICH, "srun --mpi=pmi2 -n 4"),
        (SRUN, OPEN_MPI, "srun --mpi=pmix -n 4"),
        (SRUN_PMIX, MPICH, "srun --mpi=pmi2 -n 4"),
        (SRUN_PMI2, OPEN_MPI, "srun --mpi=pmix -n 4"),
        (PRTERUN, MPICH, "MPICH's mpiexec -n 4"),
        (HYDRA, OPEN_MPI, "Open MPI's mpirun -n 4"),
    ],
)
def test_a_mismatched_launcher_is_rejected_and_a_matching_one_named(
    environ: dict[str, str], library: str, launcher: str
) -> None:
    with pytest.raises(InputError, match=rf"match: .+\. Start vigmpi with {launcher}\.$"):
        launch.check_library(environ, library)


def test_a_launch_that_made_separate_worlds_is_rejected() -> None:
    launch.check_world(HYDRA, 4)
    with pytest.raises(InputError, match="started 4 processes, but MPI made worlds of 1"):
        launch.check_world(HYDRA, 1)


def test_continuing_on_failure_needs_a_launcher_with_fault_tolerance() -> None:
    launch.check_fault_tolerance(PRTERUN | {"OMPI_MCA_mpi_ft_enable": "1"})
    for environ in (PRTERUN, HYDRA):
        with pytest.raises(InputError, match=r": .+\. Start .+ mpirun --with-ft ulfm -n 4\.$"):
            launch.check_fault_tolerance(environ)


def test_a_shell_of_srun_is_not_a_task() -> None:
    shell = {**SRUN_PMI2, "SLURM_PTY_PORT": "40000", "SLURM_JOB_ID": "7", "SLURM_LOCALID": "0"}
    task = dict(shell)
    launch.leave_shell_of_step(task, "slurmstepd", has_terminal=True)
    assert task == shell
    for other in (HYDRA | {"MPI_LOCALRANKID": "1"}, PRTERUN):  # mpirun in the shell
        of_mpirun = {**shell, **other}
        launch.leave_shell_of_step(of_mpirun, "hydra_pmi_proxy", has_terminal=True)
        assert of_mpirun == {**shell, **other}
        assert launch.launcher(of_mpirun) == "mpirun"
    wrapped = dict(shell)  # a task of another srun, in a script
    launch.leave_shell_of_step(wrapped, "bash", has_terminal=False)
    assert wrapped == shell
    launch.leave_shell_of_step(shell, "bash", has_terminal=True)
    assert shell == {"SLURM_PTY_PORT": "40000", "SLURM_JOB_ID": "7"}
    assert (launch.num_tasks(shell), launch.rank(shell)) == (1, 0)
    without = dict(SRUN_PMI2)
    launch.leave_shell_of_step(without, "bash", has_terminal=True)
    assert without == SRUN_PMI2


@pytest.mark.parametrize(
    ("environ", "launcher"),
    [
        (NO_LAUNCHER, "mpirun"),
        (HYDRA, "mpirun"),
        (PRTERUN, "mpirun"),
        (SRUN_PMI2, "srun"),
        (HYDRA_IN_BATCH | {"MPI_LOCALRANKID": "1"}, "mpirun"),
        ({"SLURM_PTY_PORT": "40000"}, "srun --overlap"),
    ],
)
def test_a_hint_names_the_launcher_in_use(environ: dict[str, str], launcher: str) -> None:
    assert launch.launcher(environ) == launcher


@pytest.mark.parametrize(
    ("environ", "mebibytes"),
    [
        (NO_LAUNCHER, 24),
        ({"MPI_LOCALNRANKS": "2"}, 24),
        ({"MPI_LOCALNRANKS": "16"}, 48),
        ({"SLURM_STEP_TASKS_PER_NODE": "32(x2),3"}, 96),
    ],
)
def test_mpich_needs_shared_memory(environ: dict[str, str], mebibytes: int) -> None:
    launch.check_shared_memory(environ, MPICH, mebibytes * 2**20)
    launch.check_shared_memory(environ, OPEN_MPI, 0)
    with pytest.raises(HostError, match=f"MPICH needs {mebibytes} MiB"):
        launch.check_shared_memory(environ, MPICH, mebibytes * 2**20 - 1)
