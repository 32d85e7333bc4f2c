"""Cores and threads of the ranks, whatever the site's environment and the launcher bind."""

import os
from pathlib import Path

import h5py
import pytest
from mpi4py import MPI

from tests.launching import finish, start, vigmpi

RUN = ("--dataset", "synthetic", "--blocks", "1", "--batch-size", "4", "--steps", "1")
LENGTH = ("--test-steps", "1", "--epochs", "1", "--progress", "off")
CORES = len(os.sched_getaffinity(0))


def test_openmp_binds_no_threads(tmp_path: Path) -> None:
    record = tmp_path / "run.h5"
    site = {"OMP_PROC_BIND": "true", "OMP_PLACES": "cores", "GOMP_CPU_AFFINITY": "0"}
    command = ["env", "-u", "OMP_NUM_THREADS", *vigmpi(*RUN, *LENGTH, "--record", str(record))]
    done = finish(start(command, environ=site), timeout=150)
    assert done.returncode == 0, done.stderr
    with h5py.File(record) as file:
        assert list(file["ranks/cores"][:]) == [CORES]
        assert 1 <= file["ranks/threads"][0] <= CORES  # less under a quota


@pytest.mark.skipif(CORES < 2, reason="needs a host with an idle core")
def test_ranks_that_share_a_core_while_others_are_idle_cause_one_warning(tmp_path: Path) -> None:
    first = min(os.sched_getaffinity(0))
    open_mpi = "Open MPI" in MPI.Get_library_version()
    bound = ["taskset", "-c", str(first), *vigmpi(*RUN, *LENGTH, "--replicas", "2")]
    both = vigmpi("--version", ranks=2)
    launcher = both[: both.index("2") + 1]
    for name, command in (("bound", bound), ("free", bound[3:])):
        record = ["--record", str(tmp_path / f"{name}.h5")]
        done = finish(start([*launcher, *command, *record]), timeout=150)
        assert done.returncode == 0, done.stderr
        warnings = [line for line in done.stderr.splitlines() if "idle cores" in line]
        assert len(warnings) == (name == "bound"), done.stderr
        if warnings and not open_mpi:
            assert f"2 ranks share 1 of {CORES} cores. Use mpiexec -bind-to none." in warnings[0]
