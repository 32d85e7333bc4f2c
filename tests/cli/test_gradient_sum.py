"""Training with `--gradient-sum ordered` under two MPI libraries."""

import os
import sys
from pathlib import Path

import pytest

from tests.launching import finish, mpiexec, start
from tests.weights import assert_equal_weights
from vigmpi.checkpoint.search import folder_of

RANKS = 5  # the smallest number for which the all-reduces of MPICH 5.0 and Open MPI 5.0 differ
RUN = [
    *("--replicas", str(RANKS), "--chunks", "2", "--dataset", "synthetic", "--blocks", "2"),
    *("--batch-size", "2", "--epochs", "1", "--steps", "4", "--test-steps", "1"),
    *("--progress", "off"),
]
# The Python of an environment with Open MPI and the dependencies of vigmpi.
PYTHON = os.environ.get("VIGMPI_OPEN_MPI_PYTHON", "")


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="VIGMPI_OPEN_MPI_PYTHON is not set")
def test_two_mpi_libraries_give_the_same_bits(tmp_path: Path) -> None:
    open_mpi = [str(Path(PYTHON).with_name("mpirun")), "-n", str(RANKS), PYTHON]
    checkpoints = []
    for name, command in (("this", [*mpiexec(RANKS), sys.executable]), ("open mpi", open_mpi)):
        record = tmp_path / f"{name}.h5"
        options = ["--gradient-sum", "ordered", "--record", str(record)]
        done = finish(start([*command, "-m", "vigmpi", *RUN, *options]), timeout=100)
        assert done.returncode == 0, done.stderr
        [checkpoint] = folder_of(record).glob("mini-batch-*")
        checkpoints.append(checkpoint)
    assert_equal_weights(*checkpoints)
